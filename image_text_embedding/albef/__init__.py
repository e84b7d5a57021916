"""ALBEF as Towhee operators: `ops.image_text_embedding.albef(model_name=..., modality=...)` and the other tasks."""

from __future__ import annotations

from image_text_embedding.interfaces.towhee_operators.operators import (
    AnsweringOperator,
    EmbeddingOperator,
    EntailmentOperator,
    GroundingOperator,
    MatchingOperator,
    ReasoningOperator,
)
from image_text_embedding.interfaces.towhee_operators.video_operators import (
    VideoEmbeddingOperator,
    VideoMatchingOperator,
)

__all__ = [
    "Albef",
    "AlbefAnswering",
    "AlbefEntailment",
    "AlbefGrounding",
    "AlbefMatching",
    "AlbefReasoning",
    "AlbefVideo",
    "AlbefVideoMatching",
    "albef",
]


class Albef(EmbeddingOperator):
    """ALBEF's image and text towers (Li et al. 2021, arXiv 2107.07651)."""

    family = "albef"


class AlbefMatching(MatchingOperator):
    """ALBEF's matching head."""

    family = "albef"


class AlbefAnswering(AnsweringOperator):
    """ALBEF's question answering."""

    family = "albef"


class AlbefEntailment(EntailmentOperator):
    """ALBEF's visual entailment. (BLIP has none.)"""

    family = "albef"


class AlbefGrounding(GroundingOperator):
    """Grounding of phrases by ALBEF's matching head."""

    family = "albef"


class AlbefReasoning(ReasoningOperator):
    """ALBEF's judgement of statements about two pictures."""

    family = "albef"


class AlbefVideo(VideoEmbeddingOperator):
    """ALBEF's towers for videos, by a few frames."""

    family = "albef"


class AlbefVideoMatching(VideoMatchingOperator):
    """ALBEF's matching head for videos."""

    family = "albef"


albef = Albef  # pipelines and the folders of `link` use this name
