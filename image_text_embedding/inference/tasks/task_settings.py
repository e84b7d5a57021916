"""The settings of each task: one frozen dataclass with its defaults and checks.

`Encoder`, `analyze`, the Towhee operators and `pipeline(...)` all build these, so a setting is named, defaulted and checked
in one place. What depends on the loaded model (the longest text, the tokens of a choice) is checked by the task itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import abbreviate, did_you_mean

FirstToken = Literal["enc", "cls"]


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of the task "embed" in `Encoder.analyze`: none."""


@dataclass(frozen=True)
class MatchSettings:
    """Settings of `Encoder.match`, `match_matrix` and `rerank` (which has no return_logits).

    Raises:
        InputError: an unknown token, or a return_logits that is no bool.
    """

    itm_token: str = "enc"
    return_logits: bool = False

    def __post_init__(self) -> None:
        _check_token("itm_token", self.itm_token)
        if not isinstance(self.return_logits, bool):
            raise InputError(f"return_logits: expected True or False, got {self.return_logits!r}")


@dataclass(frozen=True)
class ClassifySettings:
    """Settings of `Encoder.classify`.

    Raises:
        InputError: an unknown method or token, or a prompt that is no string.
    """

    method: str = "itc"
    prompt: str | None = None
    itm_token: str = "enc"

    def __post_init__(self) -> None:
        if self.method not in ("itc", "itm"):
            raise InputError(f"method: expected 'itc' (cosines) or 'itm' (matching), got {self.method!r}")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise InputError(f"prompt: expected a string or None, got {self.prompt!r}")
        _check_token("itm_token", self.itm_token)


@dataclass(frozen=True)
class CaptionSettings:
    """Settings of `Encoder.caption`.

    Raises:
        InputError: a number is out of range, or there are more sequences than beams.
    """

    num_beams: int = 3
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float | None = None
    sample: bool = False
    top_p: float = 0.9
    seed: int | None = None
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        _check_lengths(self)
        penalty = self.repetition_penalty
        if penalty is not None and (not is_number(penalty) or not 0 < penalty < math.inf):
            raise InputError(
                f"repetition_penalty: expected a number above 0 (1.0 = none) that is finite, got {penalty!r}"
            )
        _set(self, num_return_sequences=require_integer("num_return_sequences", self.num_return_sequences))
        if self.sample:
            if not is_number(self.top_p) or not 0 < self.top_p <= 1:
                raise InputError(f"top_p: expected a number in (0, 1], got {self.top_p!r}")
        elif self.num_return_sequences > self.num_beams:
            raise InputError(
                f"num_return_sequences={self.num_return_sequences} needs as many beams, got num_beams={self.num_beams}; "
                "or sample=True draws any number"
            )
        if self.seed is not None:
            _set(self, seed=require_integer("seed", self.seed, minimum=0, maximum=2**64 - 1))


@dataclass(frozen=True)
class AnswerSettings:
    """Settings of `Encoder.answer`.

    Raises:
        InputError: an unknown token, or a number is out of range.
    """

    choices: Sequence[str] | None = None
    k: int = 128
    num_beams: int = 3
    max_length: int = 10
    min_length: int = 1
    question_token: str = "enc"

    def __post_init__(self) -> None:
        _check_token("question_token", self.question_token)
        _check_lengths(self)
        _set(self, k=require_integer("k", self.k))


@dataclass(frozen=True)
class ReasonSettings:
    """Settings of `Encoder.reason`: none."""


@dataclass(frozen=True)
class EntailSettings:
    """Settings of `Encoder.entail`: none."""


@dataclass(frozen=True)
class GroundSettings:
    """Settings of `Encoder.ground`: none."""


TASK_SETTINGS: dict[str, type] = {
    "embed": EmbedSettings,
    "match": MatchSettings,
    "classify": ClassifySettings,
    "caption": CaptionSettings,
    "answer": AnswerSettings,
    "reason": ReasonSettings,
    "entail": EntailSettings,
    "ground": GroundSettings,  # by the head of "match"
}


# The AzureML registry's name of a task -> ours.
REGISTRY_TASKS = {
    "image-to-text": "caption",
    "visual-question-answering": "answer",
    "embeddings": "embed",
    "zero-shot-image-classification": "classify",
    "image-text-matching": "match",
}


def our_task(task: Any) -> str:
    """Our name of a task that has the registry's name or ours.

    Raises:
        InputError: there is no such task.
    """
    if isinstance(task, str):
        name = REGISTRY_TASKS.get(task, task)
        if name in REGISTRY_TASKS.values():
            return name
    names = [*REGISTRY_TASKS, *REGISTRY_TASKS.values()]
    raise InputError(f"task: unknown {abbreviate(task)}{did_you_mean(str(task), names)} Tasks: {', '.join(names)}.")


def setting_names(task: str) -> list[str]:
    """The keywords that a task takes."""
    return [field.name for field in dataclasses.fields(TASK_SETTINGS[task])]


def score_setting_names(task: str) -> list[str]:
    """The settings that a scoring request may have; its records have room for probabilities, but not for logits."""
    names = [name for name in setting_names(task) if name != "return_logits"]
    return [*names, "prompt"] if task == "caption" else names


def check_setting_names(given: Iterable[str], known: Iterable[str], what: str = "Settings") -> None:
    """Checks that all given settings are known.

    Args:
        what: how the message introduces the known names.

    Raises:
        InputError: an unknown name; the message lists the known ones and suggests a similar one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise InputError(f"unknown setting {name!r}{did_you_mean(name, known)} {what}: {', '.join(known)}.")


def build_settings(task: str, given: Mapping[str, Any]) -> Any:
    """A task's settings from keywords; keywords of other tasks are ignored.

    Raises:
        InputError: a value is wrong.
    """
    return TASK_SETTINGS[task](**{name: given[name] for name in setting_names(task) if name in given})


def _check_token(name: str, token: Any) -> None:
    if token not in get_args(FirstToken):
        raise InputError(f"{name}: expected 'enc' or 'cls', got {token!r}")


def _check_lengths(settings: Any) -> None:
    max_length = require_integer("max_length", settings.max_length, minimum=2)
    min_length = require_integer("min_length", settings.min_length, minimum=0)
    _set(settings, num_beams=require_integer("num_beams", settings.num_beams), max_length=max_length)
    _set(settings, min_length=min_length)
    if min_length > max_length:
        raise InputError(f"min_length: expected at most max_length={max_length}, got {min_length}")


def _set(settings: Any, **values: Any) -> None:
    """Replaces fields of a frozen dataclass while it is built: numpy's numbers become Python's."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)
