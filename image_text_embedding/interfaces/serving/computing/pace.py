"""How long an item of each kind takes, from those that were computed last."""

from __future__ import annotations

import statistics
from collections import deque

# The median of so many last measurements counts: one that was held up says little about the next.
MEMORY = 9


class Pace:
    """Seconds per item by kind. One thread adds to it at a time; any may ask."""

    def __init__(self) -> None:
        self._measured: dict[str, deque[float]] = {}
        self._medians: dict[str, float] = {}

    def learn(self, kind: str, seconds: float) -> None:
        """Note how long an item took, as one of those that were computed together."""
        measured = self._measured.setdefault(kind, deque(maxlen=MEMORY))
        measured.append(seconds)
        # Of two the lower: the first computation of a process is slower than all others.
        self._medians[kind] = statistics.median_low(measured)

    def seconds(self, kind: str) -> float:
        """What an item of a kind is expected to take. Of a kind that was never seen: as the slowest; 0 at first."""
        known = self._medians.get(kind)
        return max(list(self._medians.values()), default=0.0) if known is None else known
