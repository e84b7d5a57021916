"""Search in two stages: ITC ranks all candidates by cosine, ITM re-ranks the best. See `Encoder.rerank`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import PictureTextBatches, TokenIds, text_encoder_for
from image_text_embedding.inference.tasks.matching import make_matcher
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.inputs.item_lists import (
    ItemErrors,
    batches,
    progress_bar,
)
from image_text_embedding.inputs.prefetch import prefetch_batches
from image_text_embedding.inputs.url_fetch import is_url


class Reranker:
    """Scores the best candidates of a search by ITM, combined by the family's own rule.

    BLIP adds the cosine to the match logit (`evaluation` of the official `train_retrieval.py`), ALBEF uses only the match
    logit (`evaluation` of its `Retrieval.py`).

    Args:
        batch_size: pairs computed at once.

    Raises:
        InputError: the checkpoint cannot match.
    """

    def __init__(self, runtime: ModelRuntime, settings: MatchSettings, batch_size: int = 32) -> None:
        self._logits = make_matcher(runtime, settings)
        self._adds_cosine = runtime.config.rerank_adds_cosine
        self._batch_size = batch_size

    def match_pictures(self, token_ids: TokenIds, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Match logits (N,) of one text with the N pictures, or videos, of states (tokens, width) each."""
        found = []
        for _, alike in itertools.groupby(states, key=len):
            for part in batches(alike, self._batch_size):
                found.append(self._logits(torch.stack(part), [token_ids] * len(part))[:, 1])
        return torch.cat(found)

    def match_texts(self, rows: Sequence[TokenIds], states: torch.Tensor) -> torch.Tensor:
        """Match logits (N,) of texts with one picture's states (1, 1 + patches, width)."""
        return torch.cat([self._logits(states, batch)[:, 1] for batch in batches(rows, self._batch_size)])

    def combine(self, itm: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
        """Match logits and cosines, both (N,) or both () -> the scores that candidates are ranked by."""
        return itm + cosines if self._adds_cosine else itm


@torch.inference_mode()
def rerank(
    given: PictureTextBatches,
    query: Any,
    k: int,
    modality: str | None,
    settings: MatchSettings,
    batch_size: int,
    show: bool | None,
) -> Any:
    """See `Encoder.rerank`.

    Args:
        given: the candidates, pictures or texts alike, and how pictures (or videos) are read.
    """
    runtime, failures, listed = given.runtime, given.failures, given.pictures
    runtime.require("embed")
    k = require_integer("k", k)
    batch_size = require_integer("batch_size", batch_size)
    reranker = Reranker(runtime, settings, batch_size)
    modality = _query_modality(query, listed, modality, given.item)
    failures.one = False  # an error names its candidate, even if that is the only one
    texts = [(0, query)] if modality == "text" else list(enumerate(listed))
    text_failures = ItemErrors("raise", one=True) if modality == "text" else failures
    tokens = list(text_failures.each(texts, encoder := text_encoder_for(runtime)))
    encoder.warn(3)
    with progress_bar(len(listed), "candidate", show) as bar:
        if modality == "text":
            found = _best_pictures(given, reranker, tokens[0][1], k, batch_size, bar)
        else:
            found = _best_texts(given, reranker, query, tokens, k, batch_size, bar)
    return failures.result(sorted(found, key=lambda pair: -pair[1]))


def _best_pictures(
    given: PictureTextBatches, reranker: Reranker, token_ids: TokenIds, k: int, batch_size: int, bar: Any
) -> list[tuple[int, float]]:
    """(index, score) of the k best pictures. One pass over all of them; the states of the k best so far stay in memory."""
    text = given.runtime.unit_text_vectors([token_ids])[0]
    best: list[tuple[int, torch.Tensor, torch.Tensor]] = []  # index, cosine, states
    with closing(prefetch_batches(enumerate(given.pictures), given.read, batch_size, given.failures)) as groups:
        for group in groups:
            for part in given.alike(group):
                states = given.states([pixels for _, pixels in part])
                cosines = given.unit_vectors(states) @ text
                # Clones, because a slice would keep the states of its whole batch in memory.
                best += [(index, cosine, each.clone()) for (index, _), cosine, each in zip(part, cosines, states)]
            if len(best) > k:
                best = [best[i] for i in torch.stack([cosine for _, cosine, _ in best]).topk(k).indices.tolist()]
            bar.update(len(group))
    if not best:
        return []
    indices, best_cosines, best_states = zip(*best)
    scores = reranker.combine(reranker.match_pictures(token_ids, best_states), torch.stack(best_cosines))
    return list(zip(indices, scores.tolist()))


def _best_texts(
    given: PictureTextBatches,
    reranker: Reranker,
    picture: Any,
    tokens: list[tuple[int, TokenIds]],
    k: int,
    batch_size: int,
    bar: Any,
) -> list[tuple[int, float]]:
    """(index, score) of the k best texts."""
    states = given.states([given.read(picture)])
    image = given.unit_vectors(states)[0]
    if not tokens:
        return []
    similar = []
    for batch in batches(tokens, batch_size):
        similar.append(given.runtime.unit_text_vectors([row for _, row in batch]) @ image)
        bar.update(len(batch))
    cosines, top = torch.cat(similar).topk(min(k, len(tokens)))
    best = [tokens[i] for i in top.tolist()]
    scores = reranker.combine(reranker.match_texts([row for _, row in best], states), cosines)
    return [(index, score) for (index, _), score in zip(best, scores.tolist())]


def _names_a_file(text: str) -> bool:
    """Whether a string is a URL, or an existing file."""
    return is_url(text) or (len(text) < 4096 and "\0" not in text and os.path.isfile(text))


def _query_modality(query: Any, candidates: list[Any], modality: str | None, other: str) -> str:
    """Whether a query is a "text" or a picture (or video): strings are texts, unless they are a URL or an existing file.

    Args:
        other: what a query is that is no text, "image" or "video".
    """
    if modality is not None:
        if modality not in (other, "text"):
            raise InputError(f"modality: expected {other!r}, 'text' or None, got {modality!r}")
        return modality
    if not isinstance(query, str):
        return other
    if any(not isinstance(candidate, str) for candidate in candidates):
        return "text"
    query_is_file = _names_a_file(query)
    candidates_are_files = bool(candidates) and all(map(_names_a_file, candidates))
    if query_is_file == candidates_are_files:
        what = {"image": "picture"}.get(other, other)
        raise InputError(
            f"cannot tell whether the query is a text or the location of a {what}: pass modality='text' (candidates are "
            f"{what}s) or modality={other!r} (candidates are texts)"
        )
    return other if query_is_file else "text"
