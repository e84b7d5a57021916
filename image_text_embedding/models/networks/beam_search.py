"""Beam search by the rule with which BLIP was published: transformers 4.15 (`BeamSearchScorer`, `BeamHypotheses`).

Later releases of transformers rank and stop by another rule. Here a finished text's log-probability is divided by its whole
length (prompt and first token counted, the end token not), and the search for an item ends when `num_beams` texts are
finished and the worst of them scores at least as high as the best running sum divided by the current length.
"""

from __future__ import annotations

import math

import torch

from image_text_embedding.models.networks.decoding_state import DecodingState

UNLIKELY = -1e9  # start of all beams but an item's first: they are equal, and would otherwise be found num_beams times


class FinishedTexts:
    """The best `num_beams` finished texts of one item.

    Attributes:
        texts: (score, token ids) pairs; ids without the end token.
    """

    def __init__(self, num_beams: int) -> None:
        self.num_beams = num_beams
        self.texts: list[tuple[float, list[int]]] = []

    def add(self, ids: list[int], log_probability: float) -> None:
        """Add a text if it is among the best; the worst then leaves."""
        score = log_probability / len(ids)
        if len(self.texts) < self.num_beams or score > self.worst:
            self.texts.append((score, ids))
            if len(self.texts) > self.num_beams:
                self.texts.remove(min(self.texts, key=lambda text: text[0]))

    @property
    def worst(self) -> float:
        """The lowest score."""
        return min((score for score, _ in self.texts), default=-math.inf)

    def is_done(self, best: float, length: int) -> bool:
        """Whether no running text can be expected to beat these, by the highest running sum and the current length."""
        return len(self.texts) == self.num_beams and self.worst >= best / length

    def best(self, count: int) -> list[list[int]]:
        """The token ids of the `count` best, best first."""
        return [ids for _, ids in sorted(self.texts, key=lambda text: -text[0])[:count]]


def beam_search(state: DecodingState, num_beams: int, end_id: int) -> list[FinishedTexts]:
    """The most likely texts of each item.

    Args:
        state: one row per item.

    Returns:
        One `FinishedTexts` per item, in order.
    """
    finished = [FinishedTexts(num_beams) for _ in state.ids]
    running = list(range(len(finished)))  # items
    logits = state.next_logits()  # the beams of an item are equal still: its prompt is read once
    first = torch.arange(len(running), dtype=torch.int64, device=logits.device).repeat_interleave(num_beams)
    state.select(first)
    logits = logits[first]
    sums = torch.full((len(running), num_beams), UNLIKELY, dtype=torch.float32, device=logits.device)
    sums[:, 0] = 0.0
    while True:
        scores = sums.view(-1, 1) + state.apply_rules(logits.log_softmax(-1))
        vocabulary = scores.shape[1]
        candidates, flat = scores.view(len(running), -1).topk(2 * num_beams)
        still: list[int] = []  # positions in `running`
        rows: list[int] = []
        tokens: list[int] = []
        totals: list[float] = []
        for position, (found, sums_found) in enumerate(zip(flat.tolist(), candidates.tolist())):
            item = finished[running[position]]
            beams: list[tuple[int, int, float]] = []
            for rank, (where, total) in enumerate(zip(found, sums_found)):
                row, token = position * num_beams + where // vocabulary, where % vocabulary
                if token != end_id:
                    beams.append((row, token, total))
                elif rank < num_beams:
                    item.add(state.ids[row].tolist(), total)
                if len(beams) == num_beams:
                    break
            if not item.is_done(sums_found[0], state.length):
                still.append(position)
                for row, token, total in beams:
                    rows.append(row)
                    tokens.append(token)
                    totals.append(total)
        if not still:
            return finished
        device = logits.device
        if rows != list(range(len(state.ids))):
            items = None if len(still) == len(running) else torch.tensor(still, dtype=torch.int64, device=device)
            state.select(torch.tensor(rows, dtype=torch.int64, device=device), items)
        state.append(torch.tensor(tokens, dtype=torch.int64, device=device))
        running = [running[position] for position in still]
        if state.is_full:
            for row, total in enumerate(totals):
                finished[running[row // num_beams]].add(state.ids[row].tolist(), total)
            return finished
        sums = torch.tensor(totals, dtype=torch.float32, device=device).view(len(running), num_beams)
        logits = state.next_logits()
