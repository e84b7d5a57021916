"""BLEU, ROUGE-L and CIDEr of captions, computed by pycocoevalcap, the official code of COCO's caption evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.retrieval.evaluation.caption_words import caption_words


@dataclass(frozen=True)
class CaptionScores:
    """How similar captions are to those that people wrote.

    Papers print all of them times 100. (METEOR and SPICE need Java and are not computed.)

    Attributes:
        bleu: BLEU-1 to BLEU-4, of all captions together; 0 to 1.
        rouge_l: mean ROUGE-L; 0 to 1.
        cider: mean CIDEr-D; 0 to 10. The weights of words come from these references, so it depends on the set of pictures.
    """

    bleu: tuple[float, ...]
    rouge_l: float
    cider: float


def require_scorers() -> None:
    """Check that the scores can be computed, before captions are written.

    Raises:
        SetupError: pycocoevalcap is missing.
    """
    _scorer("cider", "Cider")


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """The scores of one caption for each picture.

    Args:
        references: for each picture, at least one.

    Raises:
        InputError: there are no captions, or not as many as pictures, or a picture has no reference.
        SetupError: pycocoevalcap is missing.
    """
    if not captions or len(captions) != len(references) or not all(references):
        raise InputError(
            f"expected a caption, and at least one reference, for each picture; got {len(captions)} captions and "
            f"{len(references)} pictures, {sum(not each for each in references)} of them without a reference"
        )
    written = {number: [_joined_words(caption)] for number, caption in enumerate(captions)}
    expected = {number: [_joined_words(each) for each in texts] for number, texts in enumerate(references)}
    bleu, _ = _scorer("bleu", "Bleu").compute_score(expected, written, verbose=0)
    rouge_l, _ = _scorer("rouge", "Rouge").compute_score(expected, written)
    cider, _ = _scorer("cider", "Cider").compute_score(expected, written)
    return CaptionScores(tuple(map(float, bleu)), float(rouge_l), float(cider))


def _scorer(module: str, name: str) -> Any:
    return getattr(
        import_optional(f"pycocoevalcap.{module}.{module}", "evaluate", "the evaluation of captions"), name
    )()


def _joined_words(caption: str) -> str:
    return " ".join(caption_words(caption))
