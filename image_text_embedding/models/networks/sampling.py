"""Writing one token at a time: the most likely one (greedy), or one drawn from the nucleus (Holtzman et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from image_text_embedding.models.networks.decoding_state import DecodingState

TOP_K = 50  # the default of transformers, which was active in the official nucleus sampling too


def write_token_by_token(
    state: DecodingState, rows_per_item: int, end_id: int, choose: Callable[[torch.Tensor, list[int]], torch.Tensor]
) -> list[list[int]]:
    """Continue every row until its end token or the maximum length.

    Args:
        state: `rows_per_item` rows for each item.
        choose: scores (R, vocabulary), and the numbers of these rows at the start -> tokens int64 (R,).

    Returns:
        The token ids of each row, without the end token.
    """
    texts: list[list[int]] = [[] for _ in state.ids]
    running = list(range(len(texts)))
    while True:
        tokens = choose(state.apply_rules(state.next_logits()), running)
        for at, token in enumerate(tokens.tolist()):
            if token == end_id and not texts[running[at]]:
                texts[running[at]] = state.ids[at].tolist()  # what this row writes after its end is ignored
        state.append(tokens)
        if state.is_full:
            for at, row in enumerate(running):
                texts[row] = texts[row] or state.ids[at].tolist()
            return texts
        # An item leaves the batch when all of its texts have ended.
        items = [
            item
            for item in range(len(running) // rows_per_item)
            if not all(texts[row] for row in running[item * rows_per_item : (item + 1) * rows_per_item])
        ]
        if not items:
            return texts
        if len(items) * rows_per_item < len(running):
            rows = [item * rows_per_item + i for item in items for i in range(rows_per_item)]
            device = state.ids.device
            state.select(
                torch.tensor(rows, dtype=torch.int64, device=device),
                torch.tensor(items, dtype=torch.int64, device=device),
            )
            running = [running[row] for row in rows]


def most_likely(scores: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """The greedy choice for `write_token_by_token`."""
    return scores.argmax(-1)


class NucleusSampling:
    """Draws for `write_token_by_token`, every row with a generator of its own.

    A text then depends on its picture, its prompt and its seed alone: not on the rest of the batch, other threads or torch's
    global generator.
    """

    def __init__(self, top_p: float, seeds: list[int]) -> None:
        self.top_p = top_p
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def __call__(self, scores: torch.Tensor, rows: list[int]) -> torch.Tensor:
        scores = keep_nucleus(keep_top_k(scores, TOP_K), self.top_p)
        waits = torch.stack(
            [
                torch.empty(scores.shape[1], dtype=torch.float32, device="cpu").exponential_(
                    generator=self.generators[row]
                )
                for row in rows
            ]
        )
        waits = waits.clamp_(min=torch.finfo(waits.dtype).tiny).to(scores.device)  # a wait of 0 would make 0 / 0
        return (scores.softmax(-1) / waits).argmax(-1)  # as torch.multinomial draws


def keep_top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Scores (R, vocabulary) with all but the k highest of each row set to -inf."""
    lowest = scores.topk(min(k, scores.shape[-1])).values[:, -1:]
    return scores.masked_fill(scores < lowest, float("-inf"))


def keep_nucleus(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """Scores (R, vocabulary) with all but the smallest set of tokens with probability `top_p` set to -inf."""
    ascending, order = scores.sort(dim=-1)
    outside = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    outside[:, -1] = False  # the most likely token always stays
    return scores.masked_fill(outside.scatter(1, order, outside), float("-inf"))
