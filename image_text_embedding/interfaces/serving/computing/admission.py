"""Back-pressure: how much work is let in, so that what is let in is answered in time and the rest is refused at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from image_text_embedding.interfaces.serving.computing.pace import Pace
from image_text_embedding.interfaces.serving.errors import ServingError

# The share of the deadline that work may be expected to take.
USABLE_SHARE = 0.5


class Admission:
    """Counts the items that are waiting or worked on. Used by the event loop's thread alone.

    A count alone would not do: a thousand texts take a second, a thousand captions many minutes. So it also adds up the
    seconds that the items are expected to take.

    Args:
        limit: items at most.
        timeout: a request's deadline in seconds.
        pace: how long an item of each kind takes.
    """

    def __init__(self, limit: int, timeout: float, pace: Pace) -> None:
        self._limit, self._timeout, self._pace = limit, timeout, pace
        self.items = 0
        self._seconds = 0.0

    @contextlib.contextmanager
    def admit(self, count: int, work: dict[str, int]) -> Iterator[None]:
        """Hold the place of a request's items while the block runs.

        Args:
            count: how many items.
            work: what is done with them: a number for each kind.

        Raises:
            ServingError: 429, there is too much already.
        """
        cost = sum(number * self._pace.seconds(kind) for kind, number in work.items())
        is_full = self.items + count > self._limit or self._seconds + cost > USABLE_SHARE * self._timeout
        # Work that waits for nobody is always let in, since what is expected may be wrong.
        if self.items and is_full:
            raise ServingError(
                429,
                f"the server has {self.items} items waiting, which is all that it can answer in time: try again later",
                retry_after=min(max(1.0, self._seconds), self._timeout),
            )
        self.items += count
        self._seconds += cost
        try:
            yield
        finally:
            self.items -= count
            # 0 again when nothing waits, without the rounding errors of a million additions.
            self._seconds = self._seconds - cost if self.items else 0.0
