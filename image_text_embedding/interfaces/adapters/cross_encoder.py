"""`CrossEncoder`: matching (ITM) with the methods of sentence-transformers' class of this name, without needing that library.

See `item_vectors` for what is a text and what a picture; here, as in sentence-transformers, a string that is the URL or the
existing file of a picture is a picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import PurePath
from typing import Any

import torch

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import EmbeddingError, InputError, at_index
from image_text_embedding.interfaces.adapters.item_vectors import (
    Model,
    as_encoder,
    is_single_item,
    item_index,
    split_item,
)
from image_text_embedding.interfaces.adapters.sentence_encoder import ModelCardData


class CrossEncoder:
    """Scores how well texts and pictures match, in the shape of `sentence_transformers.CrossEncoder`.

    Args:
        model: an Encoder whose checkpoint can match, or what `load` takes.
    """

    num_labels = 1

    def __init__(self, model: Model) -> None:
        self.encoder = as_encoder(model, "match")
        self.model_card_data = ModelCardData()

    def predict(
        self,
        inputs: Any,
        prompt_name: None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Match probabilities of pairs of a text and a picture, in either order.

        Args:
            inputs: a pair, or a list of pairs. A picture that occurs in several pairs passes the vision transformer once.
            prompt_name: only None.
            prompt: stands before each text.
            activation_fn: of the logit; None is the sigmoid, which gives the probability.

        Returns:
            float32 (N,), or a number for one pair; a tensor with convert_to_tensor, a list of tensors if neither is wanted.

        Raises:
            InputError: a pair is not a text and a picture.
        """
        if prompt_name is not None:
            raise InputError(f"prompt_name: expected None, got {prompt_name!r}: pass prompt=...")
        one = isinstance(inputs, (list, tuple)) and len(inputs) == 2 and all(map(is_single_item, inputs))
        pairs = [_ordered(pair, index) for index, pair in enumerate([inputs] if one else inputs)]
        rows_of: dict[Hashable, list[int]] = defaultdict(list)
        for row, (picture, _) in enumerate(pairs):
            rows_of[str(picture) if isinstance(picture, (str, PurePath)) else id(picture)].append(row)
        groups = [rows for rows in rows_of.values() if len(rows) > 1]
        if singles := [rows[0] for rows in rows_of.values() if len(rows) == 1]:
            groups.append(singles)
        logits = torch.zeros(len(pairs))
        for rows in groups:
            pictures, texts = [pairs[row][0] for row in rows], [(prompt or "") + pairs[row][1] for row in rows]
            given = pictures if rows is groups[-1] and singles else pictures[0]
            try:
                found = self.encoder.match(given, texts, batch_size, show_progress_bar, return_logits=True)
            except EmbeddingError as error:
                index = item_index(error)
                raise at_index(error, rows[index or 0]) from error.__cause__
            logits[rows] = torch.from_numpy(found[:, 1] - found[:, 0])
        scores = (activation_fn or torch.sigmoid)(logits)
        if one:
            scores = scores[0]
        if convert_to_tensor:
            return scores
        if convert_to_numpy:
            return scores.numpy()[()]
        return scores if one else list(scores)

    def rank(
        self,
        query: Any,
        documents: Sequence[Any],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> list[dict[str, Any]]:
        """The documents by their match with the query, best first: pictures for a text, or texts for a picture.

        Args:
            top_k: how many are returned; None is all.

        Returns:
            {"corpus_id": index, "score": probability} each, with return_documents also "text": the document.
        """
        count = len(documents) if top_k is None else require_integer("top_k", top_k)
        pairs = [(query, document) for document in documents]
        scores = []
        if pairs:
            found = self.predict(
                pairs, batch_size=batch_size, show_progress_bar=show_progress_bar, activation_fn=activation_fn
            )
            scores = found.tolist()
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[:count]
        extra = [{"text": document} if return_documents else {} for document in documents]
        return [{"corpus_id": index, "score": scores[index], **extra[index]} for index in order]


def _ordered(pair: Any, index: int) -> tuple[Any, str]:
    """(picture, text) of a pair in either order."""
    try:
        sides = [split_item(item, strings_may_name_pictures=True) for item in pair]
    except TypeError:
        sides = []
    except InputError as error:
        raise at_index(error, index) from None
    pictures = [picture for picture, text in sides if picture is not None and text is None]
    texts = [text for picture, text in sides if picture is None and text is not None]
    if len(sides) != 2 or len(pictures) != 1 or len(texts) != 1:
        raise InputError(
            f"expected a pair of a text and a picture (a path object, PIL image, array, URL or existing file), "
            f"got {len(pictures)} pictures and {len(texts)} texts"
        ).at(index)
    return pictures[0], texts[0]
