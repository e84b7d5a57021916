"""TODO: say what this file is for."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

MAX_STATE_BYTES = 2**29  # of pictures' states that are kept for the next re-ranking


class PictureStateCache:
    """Pictures' states by their ids, the latest used that fit into so many bytes."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self._states: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> torch.Tensor | None:
        with self._lock:
            if name in self._states:
                self._states.move_to_end(name)
            return self._states.get(name)

    def put(self, name: str, states: torch.Tensor) -> None:
        states = states.clone()  # not a view that keeps its whole batch in memory
        with self._lock:
            if name not in self._states:
                self._states[name] = states
                self.bytes += states.nbytes
            while self.bytes > self.most:
                self.bytes -= self._states.popitem(last=False)[1].nbytes
