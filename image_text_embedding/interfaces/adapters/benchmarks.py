"""Benchmarks: a model for MTEB (with its picture tasks, MIEB), and the three things that CLIP_benchmark evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.image_text_batches import text_encoder_for
from image_text_embedding.interfaces.adapters.item_vectors import Model, as_encoder, embed_items
from image_text_embedding.interfaces.adapters.sentence_encoder import cosines, pairwise_cosines
from image_text_embedding.interfaces.picture_dataset import PictureReader


class MTEBModel:
    """What `mteb.evaluate(model, tasks)` takes: an `EncoderProtocol` for texts, pictures, and both together.

    The vector of a picture with a text is the direction of the sum of their vectors, as in MTEB's own models of this kind.

    Args:
        model: an Encoder, or what `load` takes.
    """

    def __init__(self, model: Model) -> None:
        self.encoder = as_encoder(model)

    @property
    def mteb_model_meta(self) -> Any:
        """Name, revision and properties of the model, for MTEB's files of results."""
        meta = import_optional("mteb.models.model_meta", "mteb", "the model for MTEB")
        info, config = self.encoder.info, self.encoder.config
        return meta.ModelMeta.create_empty(
            {
                "name": f"image-text-embedding/{config.name}",
                "revision": info["revision"] or (info["sha256"] or "none")[:12],
                "license": config.license.lower(),
                "languages": ["eng-Latn"],
                "embed_dim": self.encoder.dim,
                "max_tokens": float(config.captions.max_tokens),
                "open_weights": True,
                "framework": ["PyTorch"],
                "similarity_fn_name": meta.ScoringFunction.COSINE,
                "use_instructions": False,
                "modalities": ["image", "text"],
            }
        )

    def encode(self, inputs: Any, *, batch_size: int = 32, show_progress_bar: bool = False, **_: Any) -> np.ndarray:
        """Vectors (N, D) float32 of the batches of a data loader, dictionaries with lists "image", "text" or both.

        Raises:
            InputError: a batch has neither.
        """
        found = []
        for batch in inputs:
            columns = {name: list(batch[name]) for name in ("image", "text") if name in batch}
            if not columns:
                raise InputError(f'expected batches with "image", "text" or both, got {sorted(batch)}')
            items = [dict(zip(columns, values)) for values in zip(*columns.values())]
            found.append(embed_items(self.encoder, items, batch_size, show_progress_bar))
        return np.concatenate(found) if found else np.zeros((0, self.encoder.dim or 0), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines (N, M)."""
        return cosines(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines (N,) of pairs."""
        return pairwise_cosines(embeddings1, embeddings2)


def clip_benchmark(model: Model) -> tuple[CLIPBenchmarkModel, PictureReader, CLIPBenchmarkTokenizer]:
    """(model, transform, tokenizer) for CLIP_benchmark's metrics, as open_clip returns them.

    Args:
        model: an Encoder, or what `load` takes.
    """
    encoder = as_encoder(model)
    return CLIPBenchmarkModel(encoder), PictureReader(encoder), CLIPBenchmarkTokenizer(encoder)


class CLIPBenchmarkModel:
    """Vectors of what the transform and the tokenizer of `clip_benchmark` make, float32 (N, D) of unit length."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._pad_id = encoder, encoder.runtime.tokenizer.pad_id

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, S, S, 3) -> (N, D)."""
        return self._encoder.encode_image(list(pixels.cpu().numpy()), show_progress_bar=False, convert_to_tensor=True)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids int64 (N, L) -> (N, D)."""
        rows = [row[row != self._pad_id].tolist() for row in tokens.cpu()]
        with torch.inference_mode():
            return self._encoder.runtime.unit_text_vectors(rows)

    def eval(self) -> CLIPBenchmarkModel:
        """The model itself, which never trains."""
        return self

    def to(self, device: Any) -> CLIPBenchmarkModel:
        """The model itself, where `load` put it.

        Raises:
            InputError: that is another device.
        """
        if torch.device(device).type != self._encoder.device.type:
            raise InputError(f"expected the model's device {self._encoder.device}, got {device}: give it to `load`")
        return self


class CLIPBenchmarkTokenizer:
    """Texts -> token ids int64 (N, L), padded, by the model's own rules."""

    def __init__(self, encoder: Encoder) -> None:
        self._runtime = encoder.runtime

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        encode = text_encoder_for(self._runtime)
        rows = [encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        encode.warn(1)
        return self._runtime.padded(rows)[0].cpu()
