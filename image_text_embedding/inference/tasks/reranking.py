"""Search in two stages: ITC over all candidates, ITM over the best; see `Encoder.rerank`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch.nn import functional as F

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import TokenIds, require_finite, text_encoder_for
from image_text_embedding.inference.tasks.matching import make_matcher
from image_text_embedding.inputs.item_lists import (
    ItemErrors,
    batches,
    is_single_picture,
    progress_bar,
    snapshot_pictures,
)
from image_text_embedding.inputs.prefetch import prefetch_batches
from image_text_embedding.inputs.url_fetch import is_url

Logits = Callable[[torch.Tensor, list[TokenIds]], torch.Tensor]  # of `tasks.matcher`


@torch.inference_mode()
def rerank(
    runtime: ModelRuntime,
    query: Any,
    candidates: Any,
    k: int,
    modality: str | None,
    itm_token: str,
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    runtime.require("embed")
    logits = make_matcher(runtime, itm_token)
    k = require_integer("k", k)
    batch_size = require_integer("batch_size", batch_size)
    listed = [candidates] if is_single_picture(candidates) else snapshot_pictures(candidates, "candidates")
    modality = _modality(query, listed, modality)
    failures = ItemErrors(on_error, one=False)
    texts = [(0, query)] if modality == "text" else list(enumerate(listed))
    alone = ItemErrors("raise", one=True) if modality == "text" else failures
    tokens = list(alone.each(texts, reader := text_encoder_for(runtime)))
    reader.warn(3)
    with progress_bar(len(listed), "candidate", show) as bar:
        if modality == "text":
            found = _best_pictures(runtime, tokens[0][1], enumerate(listed), k, batch_size, failures, logits, bar)
        else:
            found = _best_texts(runtime, query, tokens, k, batch_size, logits, bar)
    return failures.result(sorted(found, key=lambda pair: -pair[1]))


def _best_pictures(
    runtime: ModelRuntime,
    row: TokenIds,
    pictures: Iterable[tuple[int, Any]],
    k: int,
    size: int,
    failures: ItemErrors,
    logits: Logits,
    bar: Any,
) -> list[tuple[int, float]]:
    """One pass over the pictures, keeping the states of the k best so far for ITM."""
    text = text_vectors(runtime, [row])
    kept: list[int] = []
    cosines = states = None
    with closing(prefetch_batches(pictures, runtime.pixels, size, failures)) as groups:
        for group in groups:
            new = runtime.states([pixels for _, pixels in group])
            vectors = F.normalize(runtime.part("image").project(new).float(), dim=-1)
            similar = require_finite(vectors @ text[0], runtime)
            kept += [index for index, _ in group]
            cosines = similar if cosines is None else torch.cat([cosines, similar])
            states = new if states is None else torch.cat([states, new])
            if len(kept) > k:
                cosines, best = cosines.topk(k)
                states, kept = states[best], [kept[i] for i in best.tolist()]
            bar.update(len(group))
    if cosines is None or states is None:
        return []
    found = scores(runtime, matched_pictures(logits, row, states, size), cosines)
    return list(zip(kept, found.tolist()))


def _best_texts(
    runtime: ModelRuntime,
    picture: Any,
    tokens: list[tuple[int, TokenIds]],
    k: int,
    size: int,
    logits: Logits,
    bar: Any,
) -> list[tuple[int, float]]:
    states = runtime.states([runtime.pixels(picture)])
    image = F.normalize(runtime.part("image").project(states).float(), dim=-1)[0]
    if not tokens:
        return []
    similar = []
    for batch in batches(tokens, size):
        similar.append(require_finite(text_vectors(runtime, [row for _, row in batch]) @ image, runtime))
        bar.update(len(batch))
    cosines, best = torch.cat(similar).topk(min(k, len(tokens)))
    chosen = [tokens[i] for i in best.tolist()]
    found = scores(runtime, matched_texts(logits, [row for _, row in chosen], states, size), cosines)
    return [(index, score) for (index, _), score in zip(chosen, found.tolist())]


def matched_pictures(logits: Logits, row: TokenIds, states: torch.Tensor, size: int) -> torch.Tensor:
    """Match logits (N,) of one text with the pictures of states (N, 1 + patches, width), `size` computed at once."""
    return torch.cat([logits(part, [row] * len(part))[:, 1] for part in states.split(size)])


def matched_texts(logits: Logits, rows: Sequence[TokenIds], states: torch.Tensor, size: int) -> torch.Tensor:
    """Match logits (N,) of one picture's states (1, 1 + patches, width) with texts, `size` computed at once."""
    return torch.cat([logits(states, batch)[:, 1] for batch in batches(rows, size)])


def scores(runtime: ModelRuntime, itm: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """What candidates are ranked by, (N,): the family's own rule."""
    return itm + cosines if runtime.config.rerank_adds_cosine else itm


def names_a_picture(text: str) -> bool:
    """Whether a string is the place of a picture: a URL, or a file that is there."""
    return is_url(text) or (len(text) < 4096 and "\0" not in text and os.path.isfile(text))


def _modality(query: Any, candidates: list[Any], modality: str | None) -> str:
    """What a query is, told by what is no string, or else by what is the address of a picture."""
    if modality is not None:
        if modality not in ("image", "text"):
            raise InputError(f"modality: expected 'image', 'text' or None, got {modality!r}")
        return modality
    if not isinstance(query, str):
        return "image"
    if any(not isinstance(candidate, str) for candidate in candidates):
        return "text"

    places = names_a_picture(query), bool(candidates) and all(map(names_a_picture, candidates))
    if places[0] == places[1]:
        raise InputError(
            "cannot tell whether the query is a text or the place of a picture: say modality='text' (candidates are "
            "pictures) or modality='image' (candidates are texts)"
        )
    return "image" if places[0] else "text"


def text_vectors(runtime: ModelRuntime, rows: list[TokenIds]) -> torch.Tensor:
    """Unit vectors (N, D) of texts, by the backend that computes texts."""
    return F.normalize(runtime.text_vectors(rows).float(), dim=-1)
