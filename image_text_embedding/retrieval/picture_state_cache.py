"""Hidden states of recently re-ranked pictures, so that the next search does not compute them again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_STATE_BYTES = 2**29  # 512 MiB


class PictureStateCache:
    """Picture states (1 + patches, width) by id: the most recently used ones that fit into `max_bytes`.

    Safe to use from many threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._states: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, picture_id: str) -> torch.Tensor | None:
        """The states of a picture, or None if they are not cached."""
        with self._lock:
            if picture_id in self._states:
                self._states.move_to_end(picture_id)
            return self._states.get(picture_id)

    def put(self, picture_id: str, states: torch.Tensor) -> None:
        """Cache the states of a picture."""
        # A view would hold on to the memory of the entire batch.
        states = states.clone()
        with self._lock:
            if picture_id not in self._states:
                self._states[picture_id] = states
                self.bytes += states.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._states.popitem(last=False)[1].nbytes
