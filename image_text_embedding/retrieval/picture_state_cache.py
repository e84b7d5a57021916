"""Hidden states of pictures that were re-ranked lately, so that the next search does not compute them again."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

MAX_STATE_BYTES = 2**29


class PictureStateCache:
    """Picture states (1 + patches, width) by id: the most recently used that fit into `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._states: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> torch.Tensor | None:
        """The states of a picture, if they are cached."""
        with self._lock:
            if name in self._states:
                self._states.move_to_end(name)
            return self._states.get(name)

    def put(self, name: str, states: torch.Tensor) -> None:
        """Cache the states of a picture."""
        states = states.clone()  # a view would keep the whole batch in memory
        with self._lock:
            if name not in self._states:
                self._states[name] = states
                self.bytes += states.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._states.popitem(last=False)[1].nbytes
