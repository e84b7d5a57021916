"""Answers by content: the same picture or text, with the same task and settings, is computed once. Off unless asked for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy as np

Key = tuple[Hashable, bytes]


class AnswerCache:
    """The last answers, at most `limit` of them. Used by the event loop's thread alone.

    The key is the sha256 of the complete content, after decoding: not a URL or a name, behind which another picture may stand
    the next time, and not a part of the picture, which another may share.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answers: OrderedDict[Key, Any] = OrderedDict()

    def get(self, key: Key) -> Any:
        """The answer of a key, or None."""
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def put(self, key: Key, answer: Any) -> None:
        """Remember an answer, and forget the one that was not asked for the longest."""
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > self._limit:
            self._answers.popitem(last=False)


def content_digest(item: Any) -> bytes:
    """The sha256 of pixels, token ids, a text, None, or a tuple of these; different contents have different digests."""
    digest = hashlib.sha256()
    _add(digest, item)
    return digest.digest()


def _add(digest: Any, item: Any) -> None:
    """Adds kind, length and content, so that no two sequences of parts run together."""
    if isinstance(item, tuple):
        digest.update(f"tuple {len(item)} ".encode())
        for each in item:
            _add(digest, each)
    elif isinstance(item, np.ndarray):
        digest.update(f"array {item.dtype.str} {item.shape} ".encode())
        digest.update(np.ascontiguousarray(item).data)
    else:
        content = repr(item).encode("utf-8", "surrogatepass")
        digest.update(f"{type(item).__name__} {len(content)} ".encode() + content)
