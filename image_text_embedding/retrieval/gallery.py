"""A searchable index of pictures and texts: vectors in Milvus, and matching that re-ranks the best results.

gallery = ite.Gallery.open("gallery.db", "blip_itm_base_coco")
gallery.add(["beach.jpg", "teddy.jpg"])
gallery.search("a teddy bear on a skateboard", k=10, rerank=64)
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np

from image_text_embedding.bulk.vector_manifest import check_comparable, manifest_of, model_named_in
from image_text_embedding.foundation.argument_checks import MODALITIES, is_number, require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.embedding import unit_text_vectors
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.loading import load
from image_text_embedding.inference.tasks.image_text_batches import text_encoder_for
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.inference.tasks.video import listed_videos
from image_text_embedding.inputs.item_lists import (
    ItemErrors,
    batches,
    is_single_picture,
    is_single_text,
    progress_bar,
    require_iterable,
)
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.retrieval.gallery_entries import picture_entry, readable_location, text_entry, text_id
from image_text_embedding.retrieval.gallery_writer import AddedItems, GalleryWriter, check_vectors
from image_text_embedding.retrieval.milvus_collection import MAX_RESULTS, MilvusCollection
from image_text_embedding.retrieval.picture_state_cache import MAX_STATE_BYTES, PictureStateCache
from image_text_embedding.retrieval.search_results import (
    SearchResult,
    match_hits,
    picture_reading,
    query_kind,
    result_of_hit,
)

KINDS = (*MODALITIES, "video")

# The model of a new gallery; it needs no download.
DEFAULT_MODEL = "blip_demo"


class Gallery:
    """An index of pictures and texts under one model; see `Gallery.open`. Safe to use from many threads at once."""

    def __init__(self, store: MilvusCollection, model: Any, options: dict[str, Any]) -> None:
        self._store = store
        self._model, self._options = model, options
        self._encoder: Encoder | None = None
        self._loading = threading.Lock()
        self._states = PictureStateCache(MAX_STATE_BYTES)

    @classmethod
    def open(
        cls,
        uri: str | os.PathLike[str],
        model: str | os.PathLike[str] | ModelConfig | Encoder | None = None,
        *,
        collection: str = "gallery",
        token: str | None = None,
        timeout: float = 30.0,
        **options: Any,
    ) -> Gallery:
        """Open an index, or create one.

        Args:
            uri: a file that ends in .db (Milvus Lite, one process at a time), or the address of a Milvus server or cluster.
            model: anything that `load` accepts, or a loaded Encoder. None = the model that the index was made with, loaded
                when it is first needed; for a new index, `blip_demo`.
            collection: the name of the Milvus collection.
            token: "user:password" or an API key of the server.
            timeout: the limit in seconds for connecting, and for each call to the server. A file waits ten minutes at least.
            options: passed to `load`: device, dtype, checkpoint, limits, ...

        Raises:
            ConfigError: the index was made with another model, revision or preprocessing; the message says what differs.
            StoreError: the index is in use, damaged, missing or too slow, or was not made by this package.
            SetupError: the extra `search` is not installed.
            And as `load`.
        """
        if not is_number(timeout) or not timeout > 0:
            raise InputError(f"timeout: expected seconds above 0, got {timeout!r}")
        gallery = cls(MilvusCollection(uri, collection, token, float(timeout)), model, options)
        if model is not None:
            try:
                # Load it now, so that a model that does not fit is refused here and not at the first search.
                _ = gallery.model
            except BaseException:
                gallery.close()
                raise
        return gallery

    def close(self) -> None:
        """Close the file or the connection. The file stays open while another Gallery of this process uses it."""
        self._store.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle or a copy opens the index again. It contains a server's token; a file is open in one process at a time."""
        settings = {**self._store.settings, **self._options}
        return functools.partial(Gallery.open, **settings), (self._store.uri, self._model and self.model)

    def __repr__(self) -> str:
        return f"<Gallery {self._store.location}: {(self.manifest or {}).get('model', 'empty')}>"

    def __len__(self) -> int:
        """How many pictures and texts there are."""
        return len(self._store)

    @property
    def manifest(self) -> dict[str, Any] | None:
        """Where the vectors come from, as in `vector_manifest.manifest_of`; None while there are none."""
        return self._store.manifest

    @property
    def _dim(self) -> int:
        return int((self.manifest or {})["dim"])

    @property
    def model(self) -> Encoder:
        """The model, loaded when it is first used.

        Raises:
            ConfigError: the index was made with another model.
            And as `load`.
        """
        with self._loading:
            if self._encoder is None:
                encoder = (
                    self._model if isinstance(self._model, Encoder) else load(self._model_to_load(), **self._options)
                )
                if self.manifest is not None:
                    check_comparable(manifest_of(encoder.info), self.manifest, self._store.location)
                self._encoder = encoder
            return self._encoder

    def _model_to_load(self) -> Any:
        if self._model is not None or self.manifest is None:
            return DEFAULT_MODEL if self._model is None else self._model
        return model_named_in(self.manifest, self._store.location)

    # --- Adding and removing ---

    def add(
        self,
        pictures: Any = (),
        texts: Any = (),
        *,
        videos: Any = (),
        vectors: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        on_error: str = "raise",
    ) -> Any:
        """Embed pictures, texts or videos and store their vectors. Content that the index already has costs nothing.

        Every batch is stored as soon as it is computed: repeat an interrupted call to resume it.

        Args:
            pictures: one or many, as in `Encoder.encode_image`. A file that has moved gets its new path.
            texts: one string or many.
            videos: one or many, as in `Encoder.encode_video`: eight frames stand for each.
            vectors: the vectors of these items, (N, D) or (D,) of unit length, if the same model has computed them already
                (for example in a Towhee pipeline): pictures are then not decoded.
            batch_size, show_progress_bar: as in `Encoder.encode_image`.
            on_error: "raise" stops at the first item that cannot be used; "skip" continues with the next.

        Returns:
            The number of new items. With on_error="skip" a pair: this number, and a list of (index, error), pictures first,
            then texts.

        Raises:
            ImageError, VideoError, TextError: an item cannot be used; `.index` is its index in the list.
            InputError: the number or length of the vectors is wrong.
            ConfigError, StoreError: as in `open`; or the disk is full.
        """
        added = self.add_items(pictures, texts, videos, vectors, batch_size, show_progress_bar, on_error)
        return (added.new, added.errors) if on_error == "skip" else added.new

    def add_items(
        self, pictures: Any, texts: Any, videos: Any, vectors: Any, batch_size: int, show: bool | None, on_error: str
    ) -> AddedItems:
        """As `add` with all its arguments, and counts the items whose content occurs several times in the call."""
        images = [pictures] if is_single_picture(pictures) else require_iterable(pictures, "pictures")
        sentences = [texts] if is_single_text(texts) else list(require_iterable(texts, "texts"))
        one_film, films = listed_videos(videos)
        if (sentences or films or vectors is not None) and not isinstance(images, Sized):
            images = list(images)
        first_text = len(images) if isinstance(images, Sized) else 0
        counts = (first_text, len(sentences), len(films))
        single = is_single_picture(pictures) or is_single_text(texts) or one_film
        failures = ItemErrors(on_error, one=single and sum(counts) == 1)
        self._store.create(manifest_of(self.model.info))
        given = None if vectors is None else check_vectors(vectors, sum(counts), self._dim)
        total = sum(counts) if isinstance(images, Sized) else None
        with progress_bar(total, "item", show) as bar:
            writer = GalleryWriter(self._store, self.model, failures, given, batch_size, bar)
            writer.write("image", enumerate(images), lambda item: picture_entry(item, self.model.runtime.limits))
            reader = text_encoder_for(self.model.runtime)
            writer.write("text", enumerate(sentences, first_text), lambda text: text_entry(text, reader(text)))
            numbered = enumerate(films, first_text + len(sentences))
            writer.write("video", numbered, lambda film: picture_entry(film, self.model.runtime.limits, "video"))
        reader.warn(2)
        failures.result(None)  # sorts them
        return AddedItems(writer.new, writer.repeated, failures.errors)

    def add_rows(self, rows: Iterable[Mapping[str, Any]], manifest: Mapping[str, Any]) -> int:
        """Store vectors that were computed elsewhere, without loading a model.

        Args:
            rows: each with `id` as in `SearchResult`; `path` and `text`, which may be ""; and `vector`, (D,) floats.
            manifest: where the vectors come from.

        Returns:
            The number of new rows.

        Raises:
            ConfigError: the vectors come from another model than those in the index.
            InputError: a vector has the wrong length, or a value that is not finite.
            StoreError: as in `open`.
        """
        if self.manifest is None and self._model is not None:
            check_comparable(manifest_of(self.model.info), manifest, "these vectors")
        self._store.create(manifest)
        new = 0
        for batch in batches(rows, 1000):
            unique = {row["id"]: row for row in batch}
            existing = self._store.rows(list(unique))
            fresh = [
                {**row, "kind": row["id"].partition(":")[0]} for row in unique.values() if row["id"] not in existing
            ]
            self._store.put(fresh)
            new += len(fresh)
        return new

    def remove(self, pictures: Any = (), texts: Any = (), *, ids: str | Sequence[str] = ()) -> int:
        """Remove pictures and texts. Returns how many were removed.

        Args:
            pictures: one or many: paths and URLs as they were added, other pictures by their content.
            texts: one string or many.
            ids: the `id` of search results.

        Raises:
            InputError: an item is not of its type.
            StoreError: as in `open`.
        """
        wanted = [ids] if isinstance(ids, str) else list(require_iterable(ids, "ids"))
        if not all(isinstance(each, str) for each in wanted):
            raise InputError("ids: expected strings, the `id` of search results")
        paths = []
        for item in [pictures] if is_single_picture(pictures) else require_iterable(pictures, "pictures"):
            if isinstance(item, (str, os.PathLike)):
                paths.append(readable_location(item))
            else:
                wanted.append(picture_entry(item, Limits()).id)
        wanted += [text_id(text) for text in ([texts] if is_single_text(texts) else require_iterable(texts, "texts"))]
        wanted += self._store.ids_of_paths(paths)
        return self._store.remove(list(dict.fromkeys(wanted)))

    # --- Search ---

    def require_content(self) -> None:
        """Raise a StoreError that names the indexes or collections that there are, if there is nothing to search."""
        if self.manifest is None:
            raise self._store.nothing_found()

    def search(
        self,
        query: Any,
        k: int = 10,
        rerank: int = 0,
        *,
        modality: str | None = None,
        find: str = "image",
        itm_token: str = "enc",
        batch_size: int = 32,
    ) -> list[SearchResult]:
        """The best results for a query by vectors (ITC), optionally re-ranked by matching (ITM) as in `Encoder.rerank`.

        Args:
            query: a text; a picture, as in `Encoder.encode_image` (a path as a Path object, or with modality="image"); or a
                vector, (D,) floats. With modality="video", a video, as in `Encoder.encode_video`.
            k: how many results to return.
            rerank: how many of the best results by ITC are re-ordered by the family's own rule; the others stay behind them.
                The papers use 256 on COCO and 128 on Flickr30k. Matching compares a text with a picture: the query must be
                one, and `find` the other. 0 = none.
            modality: what the query is, "text", "image" or "video". None = by its type: a string is a text. With "image", a
                string is the path or URL of a picture. (So a text that somebody typed never opens a file or a connection.)
            find: what to look for, "image", "video" or "text".
            itm_token: as in `Encoder.match`.
            batch_size: pairs computed at once when re-ranking.

        Returns:
            At most k results, best first. Pictures that were moved or changed cannot be re-ranked: a warning says how many,
            and they are last among the first `rerank` results.

        Raises:
            ImageError, TextError: the query cannot be used.
            InputError: not one query; k or rerank is out of range; or re-ranking has nothing to match.
            ConfigError, StoreError: as in `open`.
        """
        k = require_integer("k", k)
        rerank = require_integer("rerank", rerank, minimum=0)
        batch_size = require_integer("batch_size", batch_size)
        if max(k, rerank) > MAX_RESULTS:
            raise InputError(
                f"k and rerank: expected at most {MAX_RESULTS}, the limit of Milvus for one search, got {max(k, rerank)}"
            )
        if find not in KINDS or modality not in (None, *KINDS):
            name, got = ("find", find) if find not in KINDS else ("modality", modality)
            raise InputError(f"{name}: expected 'image', 'video' or 'text', got {got!r}")
        kind = query_kind(query, modality)
        self.require_content()
        if rerank and (kind == "vector" or (kind == "text") is (find == "text")):
            raise InputError(
                f"rerank: matching compares a text with a picture, got a query of kind {kind!r} to find {find!r}"
            )
        if not rerank:
            vector, _ = self._embed_query(query, kind, False)
            return [result_of_hit(hit, find) for hit in self._store.search(vector, k, find)]
        import torch

        from image_text_embedding.inference.tasks.reranking import Reranker

        reranker = Reranker(self.model.runtime, MatchSettings(itm_token), batch_size)
        with torch.inference_mode():
            vector, prepared = self._embed_query(query, kind, True)
            hits = self._store.search(vector, max(k, rerank), find)
            matched: dict[str, float] = {}
            if find != "text":
                matched = match_hits(reranker, prepared, hits[:rerank], self.model.runtime, self._states, batch_size)
            elif hits:
                reader = text_encoder_for(self.model.runtime)
                rows = [reader(hit["text"]) for hit in hits[:rerank]]
                matched = dict(zip((hit["id"] for hit in hits), reranker.match_texts(rows, prepared).tolist()))
        found = [result_of_hit(hit, find, matched.get(hit["id"]), reranker) for hit in hits]
        head = sorted(found[:rerank], key=lambda each: (each.itm is None, -each.score))
        return (head + found[rerank:])[:k]

    def _embed_query(self, query: Any, kind: str, with_states: bool) -> tuple[np.ndarray, Any]:
        """The vector of a query, and what matching needs: the token ids of a text, or the states of a picture.

        Without `with_states`, the encoder's backend embeds the picture, and torch does not load its tower.
        """
        runtime = self.model.runtime
        if kind == "vector":
            return check_vectors(query, 1, self._dim)[0], None
        if kind == "text":
            row = (reader := text_encoder_for(runtime))(query)
            reader.warn(2)
            return unit_text_vectors(runtime, [row])[0], row
        if not with_states:
            return self.model.encode_video(query) if kind == "video" else self.model.encode_image(query), None
        reading = picture_reading(runtime, kind)
        states = reading.states([reading.read(query)])
        return reading.unit_vectors(states)[0].cpu().numpy(), states
