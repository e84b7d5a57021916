"""The old home of the operators: folders that `image-text-embedding link` wrote in version 0.1.0 import them from here."""

from __future__ import annotations

from image_text_embedding.albef import Albef, AlbefAnswering, AlbefMatching
from image_text_embedding.blip import Blip, BlipAnswering, BlipCaptioning, BlipMatching
from image_text_embedding.interfaces.towhee_operators.image_decoding import ImageDecode, ImageDecodeRGB

__all__ = [
    "Albef",
    "AlbefAnswering",
    "AlbefMatching",
    "Blip",
    "BlipAnswering",
    "BlipCaptioning",
    "BlipMatching",
    "ImageDecode",
    "ImageDecodeRGB",
]
