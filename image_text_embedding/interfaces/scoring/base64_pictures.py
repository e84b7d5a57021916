"""A picture as base64 in JSON or CSV, as the AzureML registry's examples write it."""

from __future__ import annotations

import base64
import re

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.foundation.messages import abbreviate


def decode_base64(text: str, expected: str) -> bytes:
    """Bytes from base64 of either alphabet, with line breaks or without padding.

    Args:
        expected: what is expected, for the message.

    Raises:
        ImageError: it is no base64.
    """
    raw = re.sub(r"\s+", "", text).rstrip("=")
    if not raw or len(raw) % 4 == 1 or re.search(r"[^A-Za-z0-9+/_-]", raw):
        raise ImageError(f"expected {expected}, got {abbreviate(text)}")
    return base64.b64decode(raw.replace("-", "+").replace("_", "/") + "=" * (-len(raw) % 4))
