"""Pairs of a picture and a text, with what the filter says about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WEB, SYNTHETIC = "web", "synthetic"

# Why a pair is not kept.
REASONS = ("unmatched", "unusable text", "too small", "duplicate", "near duplicate")


@dataclass(frozen=True)
class Pair:
    """A text about a picture.

    Attributes:
        caption: the text; None for a picture that was not judged and has no web text.
        origin: WEB or SYNTHETIC; None where there is no text.
        itm: the probability that they match; None if it was not computed.
        cosine: of their vectors; None if it was not computed, or the filter makes no vectors.
        reason: one of REASONS; None = kept.
        duplicate_of: the path of the picture that this one repeats.
    """

    caption: str | None
    origin: str | None
    itm: float | None = None
    cosine: float | None = None
    reason: str | None = None
    duplicate_of: str | None = None

    @property
    def kept(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class JudgedPicture:
    """All pairs of a picture.

    Attributes:
        texts: its web texts.
        vector: float32 (D,) of unit length, if the filter makes vectors and looked at the picture.
    """

    texts: list[str]
    pairs: list[Pair]
    vector: np.ndarray | None = None
