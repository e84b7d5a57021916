"""Which pieces of its vocabulary a model was trained on: recorded in its file, so that it can warn of words it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.models.checkpoints.checkpoint_files import METADATA_KEY, read_metadata

SEEN_PIECES = "seen_pieces"  # in our metadata


def pack_seen_pieces(seen: np.ndarray) -> str:
    """bool (vocabulary,) -> a string for the metadata: a bit per piece, as hexadecimal digits."""
    return np.packbits(seen).tobytes().hex()


def read_seen_pieces(path: Path, vocab_size: int) -> np.ndarray | None:
    """The pieces that a model was trained on, bool (vocab_size,); None if its file does not record them.

    Raises:
        CheckpointError: the record is not one of this vocabulary.
    """
    own = read_metadata(path).get(METADATA_KEY)
    if own is None:
        return None
    try:
        content = json.loads(own)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot read its metadata: {error}") from error
    packed = content.get(SEEN_PIECES) if isinstance(content, dict) else None
    if packed is None:
        return None
    count = (vocab_size + 7) // 8
    try:
        bits = np.frombuffer(bytes.fromhex(packed), np.uint8)
    except (TypeError, ValueError):
        bits = np.empty(0, np.uint8)
    if len(bits) != count:
        raise CheckpointError(
            f"{path}: {SEEN_PIECES}: expected {2 * count} hexadecimal digits for a vocabulary of {vocab_size}, "
            f"got {abbreviate(packed)}"
        )
    return np.unpackbits(bits, count=vocab_size).astype(bool)
