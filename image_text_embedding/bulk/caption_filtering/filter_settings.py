"""What decides which captions are written and which are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.tasks.task_settings import CaptionSettings

DUPLICATES = ("exact", "near")


@dataclass(frozen=True)
class FilterSettings:
    """The settings of `capfilt` on which its results depend; `capfilt` describes them.

    Raises:
        InputError: one is wrong.
    """

    captions: int = 1
    beam: bool = False
    prompt: str | None = None
    top_p: float = 0.9
    max_length: int = 20
    min_length: int = 5
    seed: int = 0
    threshold: float = 0.5
    min_edge: int = 1
    duplicates: str | None = None
    near: float = 0.95

    def __post_init__(self) -> None:
        require_integer("captions", self.captions)
        require_integer("min_edge", self.min_edge)
        require_integer("seed", self.seed, minimum=0)
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise InputError(f"prompt: expected a string or None, got {self.prompt!r}")
        for name, value in (("threshold", self.threshold), ("near", self.near)):
            if not is_number(value) or not 0 <= value <= 1:
                raise InputError(f"{name}: expected a number from 0 to 1, got {value!r}")
        if self.duplicates not in (None, *DUPLICATES):
            raise InputError(
                f"duplicates: expected None, {' or '.join(map(repr, DUPLICATES))}, got {self.duplicates!r}"
                f"{did_you_mean(str(self.duplicates), DUPLICATES)}"
            )
        assert self.writing  # which checks the lengths and top_p

    @property
    def writing(self) -> CaptionSettings:
        """The settings of the captioner: nucleus sampling, or the best of a search."""
        return CaptionSettings(
            num_beams=max(3, self.captions),
            max_length=self.max_length,
            min_length=self.min_length,
            sample=not self.beam,
            top_p=self.top_p,
            num_return_sequences=self.captions,
        )

    @property
    def margin(self) -> float:
        """A text is kept if its match logit exceeds the other by more than this: 0 where the larger one decides."""
        if self.threshold in (0, 1):
            return -math.inf if self.threshold == 0 else math.inf
        return math.log(self.threshold / (1 - self.threshold))
