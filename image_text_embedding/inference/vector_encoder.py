"""The part of an `Encoder` that makes vectors and states: its towers are loaded here, heads only when a task needs them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from image_text_embedding.foundation.errors import EmbeddingError, InputError
from image_text_embedding.inference.backends.backend import Backend
from image_text_embedding.inference.backends.compiled_tower import RemoteTower
from image_text_embedding.inference.embedding import (
    Decode,
    encode_pictures,
    encode_texts,
    stream_pictures,
    stream_texts,
)
from image_text_embedding.inference.load_settings import LoadSettings, load_again
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.request_batching import BatchingEncoder
from image_text_embedding.inputs.item_lists import ItemErrorList, OnError, is_tensor
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.checkpoints.seen_pieces import read_seen_pieces
from image_text_embedding.models.devices import DTYPES, DeviceSpec, precision_of_torch
from image_text_embedding.models.model_lookup import ResolvedModel, find_vocabulary, load_tokenizer

if TYPE_CHECKING:
    import torch


class VectorEncoder:
    """Pictures and texts -> comparable vectors of unit length, and the states of their tokens. `Encoder` adds the tasks.

    Safe to call from many threads at once. These arguments mean the same in every method:

    - images: one picture or many (a list, an (N, H, W, 3) array, or any iterable). A picture is a path, an http(s) or data:
      URL, encoded bytes, a PIL image, a uint8 array in RGB, or a Towhee Image, whose mode is honoured.
    - texts, questions: one string or many. Where a method takes pictures *and* texts: as many of each, in pairs; or a single
      one of either for all of the other.
    - batch_size: how many items are computed at once at most.
    - show_progress_bar: None = on a terminal, when it takes more than a moment.
    - on_error: "raise" stops at the first item that cannot be used. "skip" continues: that item's result is NaN or None, and
      the method returns a pair: the results, and a list of (index, error).

    Errors of items: ImageError and TextError say what is wrong with an item (`.index` is its index in the list);
    ComputeError says that the model produced NaN or infinity (damaged weights, or half precision), or that this process was
    forked after a model had been loaded and torch would hang.

    A pickle or a copy consists of the arguments of `load`: it is small, and loads the model where it is read. In the same
    process the copy shares the weights.

    Attributes:
        config: the model's configuration.
        backend, precision: what computes the towers, and in which precision.
        dim: length of a vector; None where the checkpoint makes none (captioning, question answering).
        runtime: the `ModelRuntime`: the model's parts on their device, for code that needs hidden states.
    """

    def __init__(
        self,
        resolved: ResolvedModel,
        tokenizer: str | os.PathLike[str] | None,
        device: DeviceSpec,
        backend: Backend | RemoteTower,
        modality: str | None,
        limits: Limits,
        load_settings: LoadSettings | None,
    ) -> None:
        self._load_settings = load_settings
        self.config = resolved.config
        self.dim = resolved.config.embed_dim
        self.modality = modality
        self.backend, self.precision = backend.name, backend.precision
        self._choice = backend.choice if isinstance(backend, Backend) else None
        loaded_tokenizer = None
        # First, so that a missing vocabulary is found before a gigabyte of weights is read.
        if modality != "image":
            loaded_tokenizer = load_tokenizer(self.config, find_vocabulary(resolved, tokenizer))
        seen = None if modality == "image" else read_seen_pieces(resolved.weights, self.config.text.vocab_size)
        torch_precision = precision_of_torch(backend.name, backend.precision, device.type)
        self.runtime = ModelRuntime(resolved, loaded_tokenizer, device, torch_precision, modality, limits, seen)
        if modality is not None:
            self.runtime.require("embed", modality)
        if backend.name == "torch":
            # One read of a file serves all the parts in it.
            read = functools.cache(read_checkpoint)
            for part in self.runtime.first_parts:
                self.runtime.part(part, read)
        else:
            vectors = self.runtime.first_parts if "embed" in self.config.tasks else ()
            self.runtime.compiled.update((part, backend.tower(self.runtime, part)) for part in vectors)
            if isinstance(backend, Backend):
                self.runtime.states_by(backend.tower, at_once=not vectors)

    @property
    def device(self) -> torch.device:
        """Where the model computes, as torch names it; reading it imports torch."""
        return self.runtime.device

    @property
    def dtype(self) -> torch.dtype:
        """What torch computes in: everything, or the heads beside another backend's towers; reading it imports torch."""
        return self.runtime.dtype

    def __repr__(self) -> str:
        vector = f"-> {self.dim}, " if self.dim else ""
        backend = "" if self.backend == "torch" else f" by {self.backend} in {self.precision}"
        parts = dict.fromkeys(each for each in (*self.runtime.compiled, *self.runtime.parts) if each != "states")
        return f"<{self.config.name}: {' and '.join(parts)} {vector}on {self.runtime.device_spec}{backend}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle or a copy consists of the arguments of `load`, and loads the model again.

        Raises:
            InputError: the model was not loaded from a file alone; on reading also as `load_again`.
        """
        if self._load_settings is None:
            raise InputError(f"{self!r} cannot be pickled or copied: a server computes its vectors")
        self._load_settings.require_repeatable()
        return load_again, (self._load_settings,)

    @property
    def info(self) -> dict[str, Any]:
        """Where the vectors come from: name, family, revision, sha256 of the weights, preprocessing, versions.

        Vectors of two encoders may be compared when they agree on name, revision and sha256. "quality" holds, for towers
        that another backend than torch computes, the cosines of their vectors to torch's in fp32, measured on held-out
        pictures and texts when the tower was exported. "choice", if the backend or the precision was "auto": what was
        measured, and why this one was taken.
        """
        vision, resolved = self.config.vision, self.runtime.resolved
        return {
            "name": self.config.name,
            "family": self.config.family,
            "tasks": list(self.config.tasks),
            "dim": self.dim,
            "modality": self.modality,
            "license": self.config.license,
            "source": resolved.source,
            "revision": resolved.revision,
            "sha256": resolved.sha256,
            "preprocessing": {
                "image": {
                    "size": vision.image_size,
                    "resize": "bicubic, no crop",
                    "mean": list(vision.mean),
                    "std": list(vision.std),
                },
                "text": json.loads(json.dumps(dataclasses.asdict(self.config.captions))),
            },
            "normalized": True,
            "device": str(self.runtime.device_spec),
            "dtype": DTYPES[self.runtime.torch_precision],
            "backend": self.backend,
            "precision": self.precision,
            "quality": {name: tower.quality for name, tower in self.runtime.compiled.items()},
            "version": metadata.version("image-text-embedding"),
            **({"choice": dict(self._choice)} if self._choice is not None else {}),
        }

    # fmt: off
    @overload
    def encode_image(self, images: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                     convert_to_tensor: Literal[False] = ..., normalize_embeddings: bool = ...,
                     on_error: Literal["raise"] = ..., decode: Decode = ...) -> np.ndarray: ...
    @overload
    def encode_image(self, images: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                     convert_to_tensor: Literal[True], normalize_embeddings: bool = ..., on_error: Literal["raise"] = ...,
                     decode: Decode = ...) -> torch.Tensor: ...
    @overload
    def encode_image(self, images: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                     convert_to_tensor: Literal[False] = ..., normalize_embeddings: bool = ..., on_error: Literal["skip"],
                     decode: Decode = ...) -> tuple[np.ndarray, ItemErrorList]: ...
    @overload
    def encode_image(self, images: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                     convert_to_tensor: Literal[True], normalize_embeddings: bool = ..., on_error: Literal["skip"],
                     decode: Decode = ...) -> tuple[torch.Tensor, ItemErrorList]: ...
    @overload
    def encode_image(self, images: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                     convert_to_tensor: bool = ..., normalize_embeddings: bool = ..., on_error: OnError = ...,
                     decode: Decode = ...) -> Any: ...
    # fmt: on
    def encode_image(
        self,
        images: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
        decode: str = "exact",
    ) -> Any:
        """Vectors of pictures. Threads decode the next pictures while the tower computes.

        Args:
            images: a picture that appears several times is computed once.
            batch_size: a CPU takes fewer at once, as more would not be faster. About 2 * batch_size + 16 pictures are in
                memory.
            convert_to_tensor: return a torch tensor on the model's device instead of a numpy array.
            normalize_embeddings: False keeps the projection's length; such vectors are not comparable by dot product.
            decode: "fast" decodes a large JPEG at a reduced scale, at least twice the model's size, and lets torch resize:
                two to four times as fast; the cosine to the exact vectors stays above 0.9999. "device" also lets the
                model's device resize pictures of equal size together: for a GPU that waits for the processor. With the extra
                `gpu` (torchcodec), a CUDA device decodes JPEGs, too.

        Returns:
            float32 (D,) for one picture, (N, D) for many, (0, D) for none.
        """
        return encode_pictures(
            self.runtime,
            images,
            batch_size,
            show_progress_bar,
            convert_to_tensor,
            normalize_embeddings,
            on_error,
            decode,
        )

    # fmt: off
    @overload
    def encode_text(self, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                    convert_to_tensor: Literal[False] = ..., normalize_embeddings: bool = ...,
                    on_error: Literal["raise"] = ...) -> np.ndarray: ...
    @overload
    def encode_text(self, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                    convert_to_tensor: Literal[True], normalize_embeddings: bool = ...,
                    on_error: Literal["raise"] = ...) -> torch.Tensor: ...
    @overload
    def encode_text(self, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                    convert_to_tensor: Literal[False] = ..., normalize_embeddings: bool = ...,
                    on_error: Literal["skip"]) -> tuple[np.ndarray, ItemErrorList]: ...
    @overload
    def encode_text(self, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                    convert_to_tensor: Literal[True], normalize_embeddings: bool = ...,
                    on_error: Literal["skip"]) -> tuple[torch.Tensor, ItemErrorList]: ...
    @overload
    def encode_text(self, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                    convert_to_tensor: bool = ..., normalize_embeddings: bool = ..., on_error: OnError = ...) -> Any: ...
    # fmt: on
    def encode_text(
        self,
        texts: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
    ) -> Any:
        """Vectors of texts, cleaned and truncated as in the family's official code (a warning says so).

        Texts are computed in order of length, so that batches need little padding, and each different text once; results
        are in the order of the input. Arguments and results are those of `encode_image`.
        """
        return encode_texts(
            self.runtime, texts, batch_size, show_progress_bar, convert_to_tensor, normalize_embeddings, on_error
        )

    # fmt: off
    @overload
    def stream_image(self, images: Iterable[Any], batch_size: int = ..., *, normalize_embeddings: bool = ...,
                     on_error: Literal["raise"] = ..., decode: Decode = ...) -> Iterator[np.ndarray]: ...
    @overload
    def stream_image(self, images: Iterable[Any], batch_size: int = ..., *, normalize_embeddings: bool = ...,
                     on_error: Literal["skip"],
                     decode: Decode = ...) -> Iterator[tuple[np.ndarray | None, EmbeddingError | None]]: ...
    @overload
    def stream_image(self, images: Iterable[Any], batch_size: int = ..., *, normalize_embeddings: bool = ...,
                     on_error: OnError = ..., decode: Decode = ...) -> Iterator[Any]: ...
    # fmt: on
    def stream_image(
        self,
        images: Iterable[Any],
        batch_size: int = 32,
        *,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
        decode: str = "exact",
    ) -> Iterator[Any]:
        """An iterator over vectors (D,) float32 of any number of pictures, in their order, with bounded memory.

        Pictures are read, in the caller's thread, only as fast as vectors are: about batch_size + 16 are in memory.
        Closing or dropping the iterator ends the decoding threads. An error is raised after the vectors of the pictures
        before it; with on_error="skip" the iterator yields pairs, (vector, None) or (None, error).

        Raises:
            InputError: a single picture, or an unknown argument; at once.
        """
        return stream_pictures(self.runtime, images, batch_size, normalize_embeddings, on_error, decode)

    # fmt: off
    @overload
    def stream_text(self, texts: Iterable[Any], batch_size: int = ..., *, normalize_embeddings: bool = ...,
                    on_error: Literal["raise"] = ...) -> Iterator[np.ndarray]: ...
    @overload
    def stream_text(self, texts: Iterable[Any], batch_size: int = ..., *, normalize_embeddings: bool = ...,
                    on_error: Literal["skip"]) -> Iterator[tuple[np.ndarray | None, EmbeddingError | None]]: ...
    @overload
    def stream_text(self, texts: Iterable[Any], batch_size: int = ..., *, normalize_embeddings: bool = ...,
                    on_error: OnError = ...) -> Iterator[Any]: ...
    # fmt: on
    def stream_text(
        self,
        texts: Iterable[Any],
        batch_size: int = 32,
        *,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
    ) -> Iterator[Any]:
        """As `stream_image`, for texts: 16 batches at a time are sorted by length."""
        return stream_texts(self.runtime, texts, batch_size, normalize_embeddings, on_error)

    def features(
        self,
        images: Any = None,
        texts: Any = None,
        tokens: str = "all",
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        on_error: str = "raise",
    ) -> Any:
        """Hidden states of all tokens, by the names of LAVIS' `extract_features`, for models that build on them.

        Args:
            images, texts: pictures, texts, or both, then in pairs, or one of either for all of the other.
            tokens: "all"; or "first" for the class token of pictures and the first token of texts alone.

        Returns:
            A dictionary of float32 arrays for one picture or text (or pair), else a list of these. Of pictures
            `image_embeds` (1 + patches, width) and `image_embeds_proj` (1 + patches, D), each token projected and of unit
            length; of texts `text_embeds` (L, width) and `text_embeds_proj` (L, D); of pairs `multimodal_embeds` (L, width),
            the text fused with the picture, with [ENC] as its first token in BLIP. Models that cannot embed lack the
            projections and `text_embeds`, those that cannot match lack `multimodal_embeds`. The first rows of the
            projections are the vectors of `encode_image` and `encode_text`.

        Raises:
            InputError: there is neither a picture nor a text, or the checkpoint reads no texts by themselves.
        """
        from image_text_embedding.inference.features import features

        return features(self.runtime, images, texts, tokens, batch_size, show_progress_bar, on_error)

    def fuse(
        self,
        images: Any,
        texts: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        on_error: str = "raise",
    ) -> Any:
        """States of texts fused with pictures: the `multimodal` mode of BLIP's `models/blip.py`, and ALBEF's fusion layers.

        Returns:
            float32 (L, width) for one picture and one text, else a list of these; the first row is the matching head's input.
        """
        from image_text_embedding.inference.features import fuse

        return fuse(self.runtime, images, texts, batch_size, show_progress_bar, on_error)

    def coalesce(self, max_batch: int = 32, max_wait: float = 0.005) -> BatchingEncoder:
        """This model for many threads that each have one item: simultaneous calls are computed together.

        Each thread fetches and decodes its own picture first, so that a slow one holds up nobody else. In a program with
        `asyncio`, await its `aencode_image` and `aencode_text`.

        Args:
            max_batch: items computed together at most.
            max_wait: seconds that a call waits for others. While a batch is computed, the next one collects calls anyway.

        Raises:
            InputError: a number is out of range.
        """
        return BatchingEncoder(self, max_batch, max_wait)

    def similarity(self, a: Any, b: Any) -> Any:
        """Cosine of every vector in `a` with every one in `b`: (N, D), (M, D) -> (N, M) float32; two (D,) -> a float."""
        plain = (x.detach().float().cpu() if is_tensor(x) else x for x in (a, b))
        try:
            left, right = (np.asarray(x, dtype=np.float32) for x in plain)
        except (TypeError, ValueError) as error:
            raise InputError(f"expected vectors of length {self.dim}: (D,) or (N, D), got no array: {error}") from error
        for side in (left, right):
            if side.ndim not in (1, 2) or side.shape[-1] != self.dim:
                raise InputError(f"expected vectors of length {self.dim}: (D,) or (N, D), got shape {side.shape}")
        left, right = (side / np.linalg.norm(side, axis=-1, keepdims=True).clip(1e-12) for side in (left, right))
        result = left @ right.T
        return float(result) if result.ndim == 0 else result
