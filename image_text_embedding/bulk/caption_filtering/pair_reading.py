"""Reads pictures and their web texts: the part of CapFilt that needs no model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from image_text_embedding.bulk.caption_filtering.judged_pairs import WEB, JudgedPicture, Pair
from image_text_embedding.bulk.collection_run import ItemResult
from image_text_embedding.bulk.item_embedding import read_picture
from image_text_embedding.bulk.vector_shards import Row
from image_text_embedding.foundation.errors import ImageError, as_item_error
from image_text_embedding.inputs.collections.collection_items import CollectionItem, as_utf8
from image_text_embedding.inputs.collections.content_reading import read_captions
from image_text_embedding.inputs.limits import Limits


@dataclass(frozen=True)
class PictureToJudge:
    """A picture that was read.

    Attributes:
        row: what is known of its file; its caption is unused.
        texts: its web texts, each different, in their order.
        pixels: uint8 (S, S, 3) for the captioner, and for the filter; one array if both take the same size.
    """

    row: Row
    texts: list[str]
    pixels: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class PairReader:
    """Reads items.

    Attributes:
        sizes: pixels of a side, for the captioner and for the filter.
        min_edge: pixels; a picture with a shorter edge is not judged.
        limits: what a picture may cost.
    """

    sizes: tuple[int, int]
    min_edge: int = 1
    limits: Limits = field(default_factory=Limits)

    def __call__(self, item: CollectionItem) -> PictureToJudge | ItemResult:
        """An item -> what a `PairJudge` takes, or its result if it cannot be used or is too small."""
        path = as_utf8(item.path)
        try:
            if item.problem is not None:
                raise ImageError(item.problem)
            row, pixels = read_picture(item, path, self.sizes, self.limits)
            texts = web_texts(item)
        except Exception as error:
            return ItemResult(path, error=as_item_error(error))
        assert row.width is not None and row.height is not None
        if min(row.width, row.height) >= self.min_edge:
            return PictureToJudge(row, texts, pixels)
        pairs = [Pair(text, WEB, reason="too small") for text in texts]
        return ItemResult(path, row, JudgedPicture(texts, pairs or [Pair(None, None, reason="too small")]))


def web_texts(item: CollectionItem) -> list[str]:
    """The texts that came with a picture, each different."""
    found = (text for one in (item.caption, *item.more_captions) for text in read_captions(one))
    return list(dict.fromkeys(map(as_utf8, found)))


def digest_of_texts(texts: Iterable[str]) -> str:
    """What identifies a picture's web texts: hex."""
    return sha256("\0".join(texts).encode()).hexdigest()


def joined_items(items: Iterable[CollectionItem]) -> Iterator[CollectionItem]:
    """Items of which those in a row that have the same picture are one, with all of their texts: rows of one picture."""
    for _, several in itertools.groupby(items, lambda item: (item.path, item.picture, item.problem)):
        first, *others = several
        if others and first.picture is not None:
            more = [one for item in others for one in (item.caption, *item.more_captions) if one is not None]
            yield dataclasses.replace(first, more_captions=(*first.more_captions, *more))
        else:
            yield first
            yield from others
