"""`SentenceTransformer`: an Encoder with the methods of sentence-transformers' class of this name, without that library.

See `item_vectors` for what is a text and what a picture; here, as in sentence-transformers, a string that is the URL or the
existing file of a picture is a picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.interfaces.adapters.item_vectors import Model, as_encoder, embed_items, is_single_item


class ModelCardData:
    """Where evaluators put their figures for the model card; there is none here, and the evaluators return them, too."""

    def set_evaluation_metrics(self, *_: Any) -> None:
        """Called by evaluators."""


class SentenceTransformer:
    """An embedding model in the shape of `sentence_transformers.SentenceTransformer`, for its functions and evaluators.

    Args:
        model: an Encoder, or what `load` takes.
    """

    similarity_fn_name = "cosine"
    truncate_dim: int | None = None

    def __init__(self, model: Model) -> None:
        self.encoder = as_encoder(model)
        self.model_card_data = ModelCardData()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.encoder.device

    @property
    def max_seq_length(self) -> int:
        """Tokens that are read of a text."""
        return self.encoder.config.captions.max_tokens

    def get_embedding_dimension(self) -> int:
        """The length of a vector."""
        return int(self.encoder.dim or 0)

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Vectors of texts, pictures, or both together ({"text": ..., "image": ...}), in any mixture.

        Args:
            prompt: stands before each text.
            normalize_embeddings: vectors have unit length in any case; True restores it after `truncate_dim`.
            truncate_dim: the first so many numbers only; the models are not trained for that.
            prompt_name, output_value, precision, device: only as they are by default. For other precisions,
                `sentence_transformers.util.quantize_embeddings` takes the vectors.

        Returns:
            float32 (N, D), or (D,) for one item; a tensor with convert_to_tensor, a list of tensors if neither is wanted.
        """
        for name, value, expected in (
            ("prompt_name", prompt_name, (None,)),
            ("output_value", output_value, ("sentence_embedding",)),
            ("precision", precision, ("float32", None)),
            ("device", None if device is None else str(device), (None, str(self.device))),
        ):
            if value not in expected:
                raise InputError(f"{name}: expected {expected[-1]!r}, got {value!r}")
        one = is_single_item(inputs)
        vectors = embed_items(
            self.encoder,
            [inputs] if one else inputs,
            batch_size,
            show_progress_bar,
            strings_may_name_pictures=True,
            prompt=prompt or "",
        )
        if truncate_dim is not None:
            vectors = vectors[:, : require_integer("truncate_dim", truncate_dim)]
            if normalize_embeddings:
                vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        found: Any = vectors
        if convert_to_tensor or not convert_to_numpy:
            found = torch.from_numpy(vectors).to(self.device)
            found = found if convert_to_tensor else list(found)
        return found[0] if one else found

    encode_query = encode_document = encode

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines (N, M) of every vector of one side with every one of the other."""
        return cosines(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines (N,) of the vectors of each pair."""
        return pairwise_cosines(embeddings1, embeddings2)


def cosines(left: Any, right: Any) -> torch.Tensor:
    """Cosines (N, M) of every vector of one side with every one of the other: arrays or tensors, or lists of these."""
    return _unit(left) @ _unit(right).T


def pairwise_cosines(left: Any, right: Any) -> torch.Tensor:
    """Cosines (N,) of the vectors of each pair."""
    return (_unit(left) * _unit(right)).sum(-1)


def _unit(vectors: Any) -> torch.Tensor:
    if isinstance(vectors, (list, tuple)):
        vectors = torch.stack([torch.as_tensor(row) for row in vectors]) if vectors else torch.zeros(0, 0)
    rows = torch.as_tensor(vectors).detach().float().cpu()
    return F.normalize(rows[None] if rows.ndim == 1 else rows, dim=-1)
