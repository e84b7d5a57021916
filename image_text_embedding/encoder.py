"""What `load` returns: batches of pictures and texts in, vectors out.

Towers are shared within a process: however many nodes, threads or encoders ask for the same tower of the same weights on
the same device, it is loaded once and lives as long as one of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from image_text_embedding.config import Limits, ModelConfig, guess
from image_text_embedding.errors import ComputeError, ConfigError, EmbeddingError, InputError
from image_text_embedding.model import TOWERS
from image_text_embedding.preprocess import Tokenizer, load_picture, normalize, to_pixels
from image_text_embedding.resolve import Resolved, resolve, vocabulary
from image_text_embedding.weights import Ignore, load_weights, read_checkpoint, save_weights

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MODALITIES = ("image", "text")


class TruncatedTextWarning(UserWarning):
    """A text was longer than the model reads, and was cut by the family's own rule."""


def load(
    model: str | os.PathLike[str] | ModelConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    device: str | torch.device | int | None = None,
    dtype: str | torch.dtype | None = None,
    modality: str | None = None,
    limits: Limits | None = None,
) -> Encoder:
    """Load a model, downloading its weights where they are not cached.

    Args:
        model: a name of `list_models()`; a hub id (`Salesforce/blip-itm-base-flickr`); a local checkpoint file, or a
            folder that transformers' `save_pretrained` wrote; or a `ModelConfig`.
        checkpoint: a file or folder with weights for `model`, instead of the official ones.
        tokenizer: a `vocab.txt`, a `tokenizer.json`, a folder with one, or a hub id, instead of the model's own.
        device: None = CUDA where there is one, else the CPU.
        dtype: "fp32" (None), "fp16" or "bf16": what the towers compute in. Vectors are float32 always.
        modality: "image" or "text" loads that tower alone; None loads both.
        limits: what a picture may cost (pixels, bytes, seconds, private addresses).

    Raises:
        UnknownModelError: no such model; the message lists the names.
        DownloadError: not cached, and it cannot be had; the message says how to pass a checkpoint.
        CheckpointError: the weights cannot be read safely or do not fit.
        ConfigError: a configuration, or a vocabulary of another model.
        InputError: an unknown modality, device or dtype.
        SetupError: the installation is broken; the message says what to install.
    """
    if modality is not None and modality not in MODALITIES:
        raise InputError(
            f"unknown modality {modality!r}{guess(str(modality), MODALITIES)} Expected 'image', 'text' or None for both."
        )
    return Encoder(resolve(model, checkpoint), tokenizer, _device(device), _dtype(dtype), modality, limits or Limits())


class Encoder:
    """Pictures and texts -> comparable vectors of unit length. Safe to call from many threads at once.

    Attributes:
        config: the model's configuration.
        dim: length of a vector.
        info: where the vectors come from: name, family, revision, sha256 of the weights, preprocessing, versions. Two
            encoders' vectors may be compared when these agree on name, revision and sha256.
    """

    def __init__(
        self,
        resolved: Resolved,
        tokenizer: str | os.PathLike[str] | None,
        device: torch.device,
        dtype: torch.dtype,
        modality: str | None,
        limits: Limits,
    ) -> None:
        self.config = resolved.config
        self.dim = resolved.config.embed_dim
        self.device = device
        self.dtype = dtype
        self.modality = modality
        self._limits = limits
        self._resolved = resolved
        self._tokenizer = None
        if modality != "image":  # first: a missing vocabulary is found before a gigabyte is read
            self._tokenizer = _tokenizer(self.config, vocabulary(resolved, tokenizer))
        parts = MODALITIES if modality is None else (modality,)
        self._towers = {part: _tower(part, resolved, device, dtype) for part in parts}

    def __repr__(self) -> str:
        return f"<{self.config.name}: {' and '.join(self._towers)} -> {self.dim}, on {self.device}>"

    @property
    def info(self) -> dict[str, Any]:
        vision = self.config.vision
        return {
            "name": self.config.name,
            "family": self.config.family,
            "dim": self.dim,
            "modality": self.modality,
            "license": self.config.license,
            "source": self.config.source.hub or self.config.source.url or str(self._resolved.weights),
            "revision": self._resolved.revision,
            "sha256": self._resolved.sha256,
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
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "version": metadata.version("image-text-embedding"),
        }

    def encode_image(
        self,
        images: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
    ) -> Any:
        """Vectors of pictures.

        Args:
            images: one picture or many (a list, an (N, H, W, 3) array, or any iterable). A picture is a path, an
                http(s) or data: URL, encoded bytes, a PIL image, a uint8 array in RGB, or a Towhee Image, whose mode
                is honoured.
            batch_size: pictures computed at once; so many are in memory.
            show_progress_bar: None = on a terminal, when it takes more than a moment.
            convert_to_tensor: a torch tensor on the model's device instead of a numpy array.
            normalize_embeddings: False leaves the projection's length; such vectors are not comparable by dot product.
            on_error: "raise" stops at the first picture that cannot be used; "skip" goes on: its row is NaN.

        Returns:
            float32 (D,) for one picture, (N, D) for many, (0, D) for none. With on_error="skip" a pair: the vectors,
            and a list of (index, error).

        Raises:
            ImageError: a picture cannot be used; `.index` is its place in the list.
            ComputeError: the tower overflowed (half precision).
        """
        tower = self._need("image")
        vision = self.config.vision
        one = _is_one_picture(images)
        items = [images] if one else _many(images, "pictures")

        def compute(pixels: list[np.ndarray]) -> torch.Tensor:
            values = normalize(torch.from_numpy(np.stack(pixels)).to(self.device), vision.mean, vision.std)
            return tower(values.to(self.dtype))

        job = _Job(self, compute, "image", normalize_embeddings, on_error, show_progress_bar, one)
        prepared = job.prepare(items, lambda item: to_pixels(load_picture(item, self._limits), vision.image_size))
        total = len(items) if isinstance(items, Sized) else None
        return job.finish(_batches(prepared, batch_size), total, convert_to_tensor)

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
        """Vectors of texts, cleaned and cut as the family's official code does (warning when one is cut).

        Args:
            texts: one string or many. Longest first, so that a batch is padded little; order is kept for the caller.
            batch_size, show_progress_bar, convert_to_tensor, normalize_embeddings, on_error: as in `encode_image`.

        Returns:
            As `encode_image`.

        Raises:
            TextError: not a string, or nothing is left of it after cleaning; `.index` is its place in the list.
            ComputeError: the tower overflowed (half precision).
        """
        tower = self._need("text")
        tokenizer, rules = self._tokenizer, self.config.captions
        assert tokenizer is not None
        one = isinstance(texts, (str, bytes))
        items = [texts] if one else list(_many(texts, "texts"))
        cut: list[int] = []

        def prepare(text: Any) -> list[int]:
            ids, was_cut = tokenizer.encode(text, rules)
            if was_cut:
                cut.append(len(ids))
            return ids

        def compute(rows: list[list[int]]) -> torch.Tensor:
            ids, mask = pad(rows, tokenizer.pad_id)
            return tower(ids.to(self.device), mask.to(self.device))

        job = _Job(self, compute, "text", normalize_embeddings, on_error, show_progress_bar, one)
        prepared = sorted(job.prepare(items, prepare), key=lambda pair: -len(pair[1]))
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(items)} texts are longer than {self.config.name} reads ({rules.max_words} words, "
                f"{rules.max_tokens} tokens) and were cut",
                TruncatedTextWarning,
                stacklevel=2,
            )
        return job.finish(_batches(prepared, batch_size), len(items), convert_to_tensor)

    def similarity(self, a: Any, b: Any) -> Any:
        """Cosine of every vector in `a` with every one in `b`: (N, D), (M, D) -> (N, M) float32; two (D,) -> a float."""
        left, right = (np.asarray(x.cpu() if isinstance(x, torch.Tensor) else x, dtype=np.float32) for x in (a, b))
        for side in (left, right):
            if side.ndim not in (1, 2) or side.shape[-1] != self.dim:
                raise InputError(f"expected vectors of length {self.dim}: (D,) or (N, D), came shape {side.shape}")
        left, right = (side / np.linalg.norm(side, axis=-1, keepdims=True).clip(1e-12) for side in (left, right))
        result = left @ right.T
        return float(result) if result.ndim == 0 else result

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the loaded towers as our own safetensors, which `load(path)` opens with no other file but the vocabulary."""
        tensors = {name: value for tower in self._towers.values() for name, value in tower.state_dict().items()}
        origin = {key: self.info[key] for key in ("source", "revision", "sha256", "version")}
        return save_weights(path, tensors, {"config": dataclasses.asdict(self.config), "origin": origin})

    def _need(self, part: str) -> nn.Module:
        if part not in self._towers:
            raise InputError(
                f"this {self.config.name} was loaded with modality={self.modality!r} and has no {part} tower: load it "
                f"with modality=None or {part!r}"
            )
        return self._towers[part]


def pad(rows: list[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of unequal length -> ids and mask, both (B, longest), 1 = a real token."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


class _Job:
    """One call of `encode_*`: items in, rows out, with what failed kept apart."""

    def __init__(
        self,
        encoder: Encoder,
        compute: Callable[[list[Any]], torch.Tensor],
        unit: str,
        unit_length: bool,
        on_error: str,
        show_progress_bar: bool | None,
        one: bool,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error: expected 'raise' or 'skip', came {on_error!r}")
        self.encoder, self.compute, self.unit, self.unit_length = encoder, compute, unit, unit_length
        self.skip = on_error == "skip"
        self.show = show_progress_bar
        self.one = one
        self.errors: list[tuple[int, EmbeddingError]] = []
        self.count = 0

    def prepare(self, items: Iterable[Any], function: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        """(index, prepared item) of those that can be used; the others go into `errors`, or raise with their index."""
        for index, item in enumerate(items):
            self.count = index + 1
            try:
                yield index, function(item)
            except InputError as error:
                if not self.skip:
                    raise (error if self.one else error.at(index)) from error.__cause__
                self.errors.append((index, error.at(index)))

    def finish(self, batches: Iterable[list[tuple[int, Any]]], total: int | None, convert_to_tensor: bool) -> Any:
        """Run every batch; put the rows where their items were."""
        done: list[tuple[list[int], torch.Tensor]] = []
        quiet = None if self.show is None else not self.show  # tqdm: None = only on a terminal
        with tqdm(total=total, unit=self.unit, disable=quiet, delay=2.0 if self.show is None else 0.0) as bar:
            for batch in batches:
                indices = [index for index, _ in batch]
                done.append((indices, self._vectors([item for _, item in batch], indices)))
                bar.update(len(batch))
        rows = torch.full((self.count, self.encoder.dim), float("nan"), device=self.encoder.device)
        for indices, vectors in done:
            rows[torch.tensor(indices, device=rows.device)] = vectors
        self.errors.sort(key=lambda pair: pair[0])
        result: Any = rows[0] if self.one else rows
        result = result if convert_to_tensor else result.cpu().numpy()
        return (result, self.errors) if self.skip else result

    @torch.inference_mode()
    def _vectors(self, items: list[Any], indices: list[int]) -> torch.Tensor:
        """(B, D) float32. A row that is no vector is an error: never a silently wrong one."""
        vectors = self.compute(items).float()
        lengths = vectors.norm(dim=-1, keepdim=True)
        good = (lengths.isfinite() & (lengths > 0)).squeeze(-1)
        if not bool(good.all()):
            bad = [index for index, fine in zip(indices, good.tolist()) if not fine]
            message = (
                f"the {self.unit} tower gave no finite vector for item {{}} in {self.encoder.dtype}: the weights are "
                "damaged, or half precision overflows: try dtype='fp32'"
            )
            if not self.skip:
                raise ComputeError(message.format(bad[0]))
            self.errors += [(index, ComputeError(message.format(index))) for index in bad]
            vectors[~good] = float("nan")
        return vectors / lengths if self.unit_length else vectors


def _batches(items: Iterable[tuple[int, Any]], size: int) -> Iterator[list[tuple[int, Any]]]:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f"batch_size: expected a whole number of at least 1, came {size!r}")
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _is_one_picture(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and images.dtype.kind not in "OUS"
    single = (str, bytes, bytearray, memoryview, os.PathLike)
    return isinstance(images, single) or hasattr(images, "read") or not isinstance(images, Iterable)


def _many(items: Any, what: str) -> Iterable[Any]:
    if not isinstance(items, Iterable) or isinstance(items, (dict, set, frozenset)):
        raise InputError(f"expected one or a list of {what}, came {type(items).__name__}")
    return items


def _device(device: str | torch.device | int | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f"device {device!r} cannot be used by this torch {torch.__version__}: {error}") from error
    return chosen


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    chosen = torch.float32 if dtype is None else DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, came {dtype!r}")
    assert isinstance(chosen, torch.dtype)
    return chosen


def _tokenizer(config: ModelConfig, path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_vocabulary(path)
    # BLIP's tower has two words more than bert-base-uncased: [DEC] and [ENC], which no sentence contains.
    fewest = config.text.vocab_size - (2 if config.family == "blip" else 0)
    if not fewest <= tokenizer.vocab_size <= config.text.vocab_size:
        raise ConfigError(
            f"{path}: expected a vocabulary of {fewest} words for {config.name}, came one of {tokenizer.vocab_size}"
        )
    return tokenizer


_towers: weakref.WeakValueDictionary[Any, nn.Module] = weakref.WeakValueDictionary()
_locks: dict[Any, threading.Lock] = {}
_guard = threading.Lock()


def _tower(part: str, resolved: Resolved, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The process's one copy of a tower, loaded by the first who asks while the others wait."""
    config = resolved.config
    key = (part, resolved.sha256, config.family, config.vision, config.text, config.embed_dim, device, dtype)
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        tower = _towers.get(key)
        if tower is None:
            with torch.device("meta"):
                tower = TOWERS[part](config)
            names = import_module(f"image_text_embedding.{config.family}.names").NAMES
            load_weights(tower, read_checkpoint(resolved.weights), names, _unused(part, config), device, dtype)
            _towers[key] = tower.eval().requires_grad_(False)
    return tower


def _unused(part: str, config: ModelConfig) -> list[Ignore]:
    """What an embedding does not need of a checkpoint, on our names."""
    fusion = "|".join(str(i) for i in range(config.text.text_depth, config.text.depth))
    rules = [
        Ignore("temperature", r"^temp$"),
        Ignore("matching head", r"^itm_head\."),
        Ignore("cross-attention", r"^text\.layers\.\d+\.cross\."),
        Ignore("masked-word head", r"^mlm_head\."),
        Ignore("decoder", r"^decoder\."),
        Ignore("text tower", r"^text(_proj)?\.") if part == "image" else Ignore("image tower", r"^vision(_proj)?\."),
    ]
    return rules + ([Ignore("fusion layers", rf"^text\.layers\.({fusion})\.")] if fusion else [])
