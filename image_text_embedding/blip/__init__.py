"""BLIP as Towhee operators: `ops.image_text_embedding.blip(model_name=..., modality=...)` and the other tasks."""

from __future__ import annotations

from image_text_embedding.interfaces.towhee_operators.operators import (
    AnsweringOperator,
    CaptioningOperator,
    EmbeddingOperator,
    GroundingOperator,
    MatchingOperator,
    ReasoningOperator,
)
from image_text_embedding.interfaces.towhee_operators.video_operators import (
    VideoEmbeddingOperator,
    VideoMatchingOperator,
)

__all__ = [
    "Blip",
    "BlipAnswering",
    "BlipCaptioning",
    "BlipGrounding",
    "BlipMatching",
    "BlipReasoning",
    "BlipVideo",
    "BlipVideoMatching",
    "blip",
]


class Blip(EmbeddingOperator):
    """BLIP's image and text towers (Li et al. 2022, arXiv 2201.12086)."""

    family = "blip"


class BlipMatching(MatchingOperator):
    """BLIP's matching head."""

    family = "blip"


class BlipCaptioning(CaptioningOperator):
    """BLIP's captioning decoder. (ALBEF has none.)"""

    family = "blip"


class BlipAnswering(AnsweringOperator):
    """BLIP's question answering."""

    family = "blip"


class BlipGrounding(GroundingOperator):
    """Grounding of phrases by BLIP's matching head."""

    family = "blip"


class BlipReasoning(ReasoningOperator):
    """BLIP's judgement of statements about two pictures."""

    family = "blip"


class BlipVideo(VideoEmbeddingOperator):
    """BLIP's towers for videos, by a few frames."""

    family = "blip"


class BlipVideoMatching(VideoMatchingOperator):
    """BLIP's matching head for videos."""

    family = "blip"


blip = Blip  # pipelines and the folders of `link` use this name
