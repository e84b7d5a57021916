"""Pictures and texts that can be searched: an index of vectors in Milvus, and matching that re-ranks what it finds.

gallery = ite.Gallery.open("gallery.db", "blip_itm_base_coco")
gallery.add(["beach.jpg", "teddy.jpg"])
gallery.search("a teddy bear on a skateboard", k=10, rerank=64)
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from image_text_embedding.bulk.vector_manifest import check_comparable, manifest_of
from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import ConfigError, ImageError, InputError, StoreError
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.loading import load
from image_text_embedding.inference.tasks.image_text_batches import text_encoder_for
from image_text_embedding.inference.tasks.reranking import Reranker, names_a_picture
from image_text_embedding.inference.tasks.task_settings import MatchSettings
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
from image_text_embedding.models.config_files import list_models
from image_text_embedding.retrieval.gallery_entries import picture_entry, readable_location, text_entry, text_id
from image_text_embedding.retrieval.gallery_writer import GalleryWriter
from image_text_embedding.retrieval.milvus_collection import MAX_RESULTS, MilvusCollection
from image_text_embedding.retrieval.picture_state_cache import MAX_STATE_BYTES, PictureStateCache

DEFAULT_MODEL = "blip_demo"  # of a new gallery: the only model that needs no download

KINDS = ("image", "text")


@dataclass(frozen=True)
class SearchResult:
    """One result of a search.

    Attributes:
        id: "image:" or "text:" and the sha256 of the content; `Gallery.remove` takes it.
        kind: "image" or "text".
        path: where the picture was when it was added, absolute, or its URL; None for a text, and for a picture that came
            as bytes or pixels.
        text: the text; of a picture its caption, if it came with one.
        score: what the results are ordered by: `itc`, or, where re-ranked, the family's own rule: BLIP itm + itc, ALBEF itm.
        itc: cosine of the two vectors.
        itm: the match logit; None where not re-ranked.
    """

    id: str
    kind: str
    path: str | None
    text: str | None
    score: float
    itc: float
    itm: float | None = None


class Gallery:
    """An index of pictures and texts under one model; see `Gallery.open`. Safe to use from many threads at once."""

    def __init__(self, store: MilvusCollection, model: Any, options: dict[str, Any]) -> None:
        self._store = store
        self._model, self._options = model, options
        self._encoder: Encoder | None = None
        self._loading = threading.Lock()
        self._kept = PictureStateCache(MAX_STATE_BYTES)

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
        """Open an index, or begin one.

        Args:
            uri: a file that ends in .db (Milvus Lite, one process at a time), or the address of a Milvus server or cluster.
            model: what `load` takes, or a loaded Encoder. None = the model that the index was made with, loaded when it is
                first needed; of a new one, `blip_demo`.
            collection: the name of the collection there.
            token: "user:password" or an API key of the server.
            timeout: seconds that the connection, and one call of the server, may take.
            options: of `load`: device, dtype, checkpoint, limits, ...

        Raises:
            ConfigError: the index was made with another model, revision or preprocessing; the message says what differs.
            StoreError: in use, damaged, not there, too slow; or a collection that is none of ours.
            SetupError: the extra `search` is not installed.
            And as `load`.
        """
        if not is_number(timeout) or not timeout > 0:
            raise InputError(f"timeout: expected seconds above 0, got {timeout!r}")
        gallery = cls(MilvusCollection(uri, collection, token, float(timeout)), model, options)
        if model is not None:
            try:
                _ = gallery.model  # another one than the index's is refused now, and not at the first search
            except BaseException:
                gallery.close()
                raise
        return gallery

    def close(self) -> None:
        """Let go of the file or the connection. In this process the file stays open as long as another Gallery uses it."""
        self._store.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Gallery {self._store.place}: {(self.manifest or {}).get('model', 'empty')}>"

    def __len__(self) -> int:
        """How many pictures and texts there are."""
        return len(self._store)

    @property
    def manifest(self) -> dict[str, Any] | None:
        """Where the vectors come from, as `manifest.manifest_of` says it; None as long as there are none."""
        return self._store.manifest

    @property
    def model(self) -> Encoder:
        """The model, loaded when it is first asked for.

        Raises:
            ConfigError: it is not the one that the index was made with.
            And as `load`.
        """
        with self._loading:
            if self._encoder is None:
                encoder = self._model if isinstance(self._model, Encoder) else load(self._name(), **self._options)
                if self.manifest is not None:
                    check_comparable(manifest_of(encoder.info), self.manifest, self._store.place)
                self._encoder = encoder
            return self._encoder

    def _name(self) -> Any:
        if self._model is not None or self.manifest is None:
            return DEFAULT_MODEL if self._model is None else self._model
        name = self.manifest["model"]
        if name not in list_models():
            raise ConfigError(
                f"{self._store.place}: made with {str(name)[:100]!r}, which has to be given: pass its file as model="
            )
        return name

    # --- In and out ---

    def add(
        self,
        pictures: Any = (),
        texts: Any = (),
        *,
        vectors: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        on_error: str = "raise",
    ) -> Any:
        """Embed pictures or texts and keep their vectors; what is there already, told by its content, costs nothing.

        Every batch is kept as soon as it is computed: what was interrupted goes on when it is done again.

        Args:
            pictures: one or many, as in `Encoder.encode_image`. A file that was moved since it was added gets its new path.
            texts: one string or many.
            vectors: theirs, (N, D) or (D,) of unit length, where they were computed before by the same model (by a Towhee
                pipeline, say): a picture is then not decoded.
            batch_size, show_progress_bar: as in `Encoder.encode_image`.
            on_error: "raise" stops at the first item that cannot be used; "skip" goes on.

        Returns:
            How many were new. With on_error="skip" a pair: that, and a list of (index, error); pictures are counted first.

        Raises:
            ImageError, TextError: an item cannot be used; `.index` is its place in the list.
            InputError: vectors of another number or length.
            ConfigError, StoreError: as in `open`; or the disk is full.
        """
        images = [pictures] if is_single_picture(pictures) else require_iterable(pictures, "pictures")
        sentences = [texts] if is_single_text(texts) else list(require_iterable(texts, "texts"))
        if (sentences or vectors is not None) and not isinstance(images, Sized):
            images = list(images)
        first = len(images) if isinstance(images, Sized) else 0
        failures = ItemErrors(
            on_error, one=(is_single_picture(pictures) and not sentences) or (is_single_text(texts) and not first)
        )
        self._store.create(manifest_of(self.model.info))
        given = None if vectors is None else self._checked(vectors, first + len(sentences))
        total = first + len(sentences) if isinstance(images, Sized) else None
        with progress_bar(total, "item", show_progress_bar) as bar:
            job = GalleryWriter(self._store, self.model, failures, given, batch_size, bar)
            new = job.run("image", enumerate(images), lambda item: picture_entry(item, self.model.runtime.limits))
            reader = text_encoder_for(self.model.runtime)
            new += job.run("text", enumerate(sentences, first), lambda text: text_entry(text, reader(text)))
        reader.warn(1)
        return failures.result(new)

    def add_rows(self, rows: Iterable[Mapping[str, Any]], manifest: Mapping[str, Any]) -> int:
        """Keep vectors that were computed elsewhere, with no model loaded: `id`, `path`, `text` and `vector` of each.

        Args:
            rows: `id` as in `Found`; `path` and `text` may be "".
            manifest: where the vectors come from.

        Returns:
            How many were new.

        Raises:
            ConfigError: they come from another model than those that are there.
            InputError: vectors of another length.
            StoreError: as in `open`.
        """
        if self.manifest is None and self._model is not None:
            check_comparable(manifest_of(self.model.info), manifest, "these vectors")
        self._store.create(manifest)
        new = 0
        for batch in batches(rows, 1000):
            unique = {row["id"]: row for row in batch}
            there = self._store.rows(list(unique))
            fresh = [{**row, "kind": row["id"].partition(":")[0]} for row in unique.values() if row["id"] not in there]
            self._store.put(fresh)
            new += len(fresh)
        return new

    def remove(self, pictures: Any = (), texts: Any = (), *, ids: Sequence[str] = ()) -> int:
        """Take pictures and texts out; how many there were.

        Args:
            pictures: one or many: by the path or URL under which they were added, others by their content.
            texts: one string or many.
            ids: of `Found`.
        """
        wanted = list(ids)
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
        """What fits a query best: by vectors (ITC), and the best of these by matching (ITM) as in `Encoder.rerank`.

        Args:
            query: a text; a picture, as in `Encoder.encode_image`; or its vector, (D,) of floats.
            k: how many to find.
            rerank: so many of the best by ITC are put in the order of the family's own rule; those behind them stay. The
                papers took 256 on COCO and 128 on Flickr30k. Matching judges a text against a picture: the query must be
                one, and `find` the other. 0 = not at all.
            modality: what the query is, "text" or "image". None tells it by what is no string, or is the URL or an existing
                file of a picture.
            find: "image" or "text": what to look for.
            itm_token: as in `Encoder.match`.
            batch_size: pairs computed at once in re-ranking.

        Returns:
            At most k, best first. Pictures that are not where they were, or have changed, cannot be re-ranked: a warning
            says how many, and they come last of those that should have been.

        Raises:
            ImageError, TextError: the query cannot be used.
            InputError: k or rerank are out of range, or re-ranking has nothing to match.
            ConfigError, StoreError: as in `open`.
        """
        k = require_integer("k", k)
        rerank = require_integer("rerank", rerank, least=0)
        batch_size = require_integer("batch_size", batch_size)
        if max(k, rerank) > MAX_RESULTS:
            raise InputError(
                f"k and rerank: expected at most {MAX_RESULTS}, which Milvus gives at once, got {max(k, rerank)}"
            )
        if find not in KINDS or modality not in (None, *KINDS):
            name, got = ("find", find) if find not in KINDS else ("modality", modality)
            raise InputError(f"{name}: expected 'image' or 'text', got {got!r}")
        if self.manifest is None:
            raise StoreError(
                f"{self._store.place} holds nothing yet: add pictures first (`image-text-embedding index`)"
            )
        if isinstance(query, (list, tuple)) and query and all(map(is_number, query)):
            query = np.array(query, dtype=np.float32)
        asked = _kind(query, modality)
        if rerank and {asked, find} != set(KINDS):
            raise InputError(
                f"rerank: matching judges a text against a picture, got a query that is {asked} to find {find}"
            )
        runtime = self.model.runtime
        settings = MatchSettings(itm_token)
        reranker = Reranker(runtime, settings, batch_size) if rerank else None
        with torch.inference_mode():
            vector, read = self._read(query, asked, bool(rerank))
            hits = self._store.search(vector, max(k, rerank), find)
            matched: dict[str, float] = {}
            if reranker is not None and find == "image":
                matched = self._match_pictures(reranker, read, hits[:rerank], batch_size)
            elif reranker is not None and hits:
                reader = text_encoder_for(runtime)
                rows = [reader(hit["text"]) for hit in hits[:rerank]]
                matched = dict(zip((hit["id"] for hit in hits), reranker.match_texts(rows, read).tolist()))
        found = [_found(hit, find, matched.get(hit["id"]), reranker) for hit in hits]
        head = sorted(found[:rerank], key=lambda each: (each.itm is None, -each.score))
        return (head + found[rerank:])[:k]

    def _read(self, query: Any, asked: str, states_too: bool) -> tuple[np.ndarray, Any]:
        """A query's vector, and what matching reads of it: token ids, or, if it is asked for, a picture's states."""
        runtime = self.model.runtime
        if asked == "vector":
            return self._checked(query, 1)[0], None
        if asked == "text":
            row = (reader := text_encoder_for(runtime))(query)
            reader.warn(2)
            return runtime.unit_text_vectors([row])[0].cpu().numpy(), row
        if not states_too:
            return self.model.encode_image(query), None
        states = runtime.states([runtime.pixels(query)])
        return runtime.unit_vectors_of_states(states)[0].cpu().numpy(), states

    def _match_pictures(
        self, reranker: Reranker, row: list[int], hits: Sequence[Mapping[str, Any]], size: int
    ) -> dict[str, float]:
        """id -> match logit with a text, of the pictures that can still be read."""
        runtime = self.model.runtime
        matched: dict[str, float] = {}
        lost: list[str] = []
        for batch in batches(hits, size):
            states = {hit["id"]: kept for hit in batch if (kept := self._kept.get(hit["id"])) is not None}
            pixels = {}
            for hit in batch:
                if hit["id"] not in states:
                    try:
                        pixels[hit["id"]] = runtime.pixels(_again(hit, runtime.limits))
                    except ImageError as error:
                        lost.append(str(error))
            if pixels:
                states |= dict(zip(pixels, runtime.states(list(pixels.values()))))
            for name in pixels:
                self._kept.put(name, states[name])
            if states:
                found = reranker.match_pictures(row, torch.stack(list(states.values())))
                matched |= dict(zip(states, found.tolist()))
        if lost:
            warnings.warn(f"{len(lost)} of {len(hits)} pictures could not be re-ranked: {lost[0]}", stacklevel=3)
        return matched

    def _checked(self, vectors: Any, count: int) -> np.ndarray:
        """(count, D) float32 of unit length."""
        dim = (self.manifest or {})["dim"]
        try:
            array = np.asarray(vectors, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"expected vectors of length {dim}, got ones of different lengths, or no numbers"
            ) from error
        array = array[None] if array.ndim == 1 else array
        if array.shape != (count, dim):
            raise InputError(f"expected {count} vectors of length {dim}, got shape {np.shape(vectors)}")
        if not np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-2):  # also false where one is not finite
            raise InputError("expected vectors of unit length, as encode_image and encode_text give them, got others")
        return array


def _again(hit: Mapping[str, Any], limits: Limits) -> Any:
    """The picture of a hit, to be read once more; an ImageError where it is not what it was."""
    if not hit["path"]:
        raise ImageError("a picture that came as bytes or pixels has no path to be read from")
    entry = picture_entry(hit["path"], limits)
    if entry.id != hit["id"]:
        raise ImageError(f"{hit['path']!r} has changed since it was added: add it anew")
    return entry.item


def _kind(query: Any, modality: str | None) -> str:
    if modality is not None:
        return modality
    if isinstance(query, (np.ndarray, torch.Tensor)) and query.ndim == 1:
        return "vector"
    if isinstance(query, str):
        return "image" if names_a_picture(query) else "text"
    return "image"


def _found(hit: Mapping[str, Any], kind: str, itm: float | None, reranker: Reranker | None) -> SearchResult:
    cosine = hit["cosine"]
    score = cosine
    if itm is not None and reranker is not None:
        score = reranker.combine(torch.tensor(itm), torch.tensor(cosine)).item()
    return SearchResult(hit["id"], kind, hit["path"] or None, hit["text"] or None, score, cosine, itm)
