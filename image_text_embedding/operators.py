"""The path by which the operator folders that version 0.1.0 wrote (`image-text-embedding link`) import our operators."""

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
