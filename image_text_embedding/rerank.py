"""Search in two stages: ITC over all candidates, ITM over the best; see `Encoder.rerank`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch.nn import functional as F

from image_text_embedding.ahead import batches_ahead
from image_text_embedding.engine import Engine
from image_text_embedding.errors import InputError
from image_text_embedding.fetch import is_url
from image_text_embedding.items import Failures, batches, held, is_one_picture, progress, whole_number
from image_text_embedding.pairs import Row, finite
from image_text_embedding.tasks import matcher, reader_of

Logits = Callable[[torch.Tensor, list[Row]], torch.Tensor]  # of `tasks.matcher`


@torch.inference_mode()
def rerank(
    engine: Engine,
    query: Any,
    candidates: Any,
    k: int,
    modality: str | None,
    itm_token: str,
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    engine.require("embed")
    logits = matcher(engine, itm_token)
    k = whole_number("k", k)
    batch_size = whole_number("batch_size", batch_size)
    listed = [candidates] if is_one_picture(candidates) else held(candidates, "candidates")
    modality = _modality(query, listed, modality)
    failures = Failures(on_error, one=False)
    texts = [(0, query)] if modality == "text" else list(enumerate(listed))
    alone = Failures("raise", one=True) if modality == "text" else failures
    tokens = list(alone.each(texts, reader := reader_of(engine)))
    reader.warn(3)
    with progress(len(listed), "candidate", show) as bar:
        if modality == "text":
            found = _best_pictures(engine, tokens[0][1], enumerate(listed), k, batch_size, failures, logits, bar)
        else:
            found = _best_texts(engine, query, tokens, k, batch_size, logits, bar)
    return failures.result(sorted(found, key=lambda pair: -pair[1]))


def _best_pictures(
    engine: Engine,
    row: Row,
    pictures: Iterable[tuple[int, Any]],
    k: int,
    size: int,
    failures: Failures,
    logits: Logits,
    bar: Any,
) -> list[tuple[int, float]]:
    """One pass over the pictures, keeping the states of the k best so far for ITM."""
    text = text_vectors(engine, [row])
    kept: list[int] = []
    cosines = states = None
    with closing(batches_ahead(pictures, engine.pixels, size, failures)) as groups:
        for group in groups:
            new = engine.states([pixels for _, pixels in group])
            vectors = F.normalize(engine.part("image").project(new).float(), dim=-1)
            similar = finite(vectors @ text[0], engine)
            kept += [index for index, _ in group]
            cosines = similar if cosines is None else torch.cat([cosines, similar])
            states = new if states is None else torch.cat([states, new])
            if len(kept) > k:
                cosines, best = cosines.topk(k)
                states, kept = states[best], [kept[i] for i in best.tolist()]
            bar.update(len(group))
    if cosines is None or states is None:
        return []
    found = scores(engine, matched_pictures(logits, row, states, size), cosines)
    return list(zip(kept, found.tolist()))


def _best_texts(
    engine: Engine,
    picture: Any,
    tokens: list[tuple[int, Row]],
    k: int,
    size: int,
    logits: Logits,
    bar: Any,
) -> list[tuple[int, float]]:
    states = engine.states([engine.pixels(picture)])
    image = F.normalize(engine.part("image").project(states).float(), dim=-1)[0]
    if not tokens:
        return []
    similar = []
    for batch in batches(tokens, size):
        similar.append(finite(text_vectors(engine, [row for _, row in batch]) @ image, engine))
        bar.update(len(batch))
    cosines, best = torch.cat(similar).topk(min(k, len(tokens)))
    chosen = [tokens[i] for i in best.tolist()]
    found = scores(engine, matched_texts(logits, [row for _, row in chosen], states, size), cosines)
    return [(index, score) for (index, _), score in zip(chosen, found.tolist())]


def matched_pictures(logits: Logits, row: Row, states: torch.Tensor, size: int) -> torch.Tensor:
    """Match logits (N,) of one text with the pictures of states (N, 1 + patches, width), `size` computed at once."""
    return torch.cat([logits(part, [row] * len(part))[:, 1] for part in states.split(size)])


def matched_texts(logits: Logits, rows: Sequence[Row], states: torch.Tensor, size: int) -> torch.Tensor:
    """Match logits (N,) of one picture's states (1, 1 + patches, width) with texts, `size` computed at once."""
    return torch.cat([logits(states, batch)[:, 1] for batch in batches(rows, size)])


def scores(engine: Engine, itm: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """What candidates are ranked by, (N,): the family's own rule."""
    return itm + cosines if engine.config.rerank_adds_cosine else itm


def is_place(text: str) -> bool:
    """Whether a string is the place of a picture: a URL, or a file that is there."""
    return is_url(text) or (len(text) < 4096 and "\0" not in text and os.path.isfile(text))


def _modality(query: Any, candidates: list[Any], modality: str | None) -> str:
    """What a query is, told by what is no string, or else by what is the address of a picture."""
    if modality is not None:
        if modality not in ("image", "text"):
            raise InputError(f"modality: expected 'image', 'text' or None, came {modality!r}")
        return modality
    if not isinstance(query, str):
        return "image"
    if any(not isinstance(candidate, str) for candidate in candidates):
        return "text"

    places = is_place(query), bool(candidates) and all(map(is_place, candidates))
    if places[0] == places[1]:
        raise InputError(
            "cannot tell whether the query is a text or the place of a picture: say modality='text' (candidates are "
            "pictures) or modality='image' (candidates are texts)"
        )
    return "image" if places[0] else "text"


def text_vectors(engine: Engine, rows: list[Row]) -> torch.Tensor:
    """Unit vectors (N, D) of texts, by the backend that computes texts."""
    return F.normalize(engine.text_vectors(rows).float(), dim=-1)
