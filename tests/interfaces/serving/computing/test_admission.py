"""How much work is let in."""

from __future__ import annotations

import contextlib

import pytest

from image_text_embedding.interfaces.serving.computing.admission import Admission
from image_text_embedding.interfaces.serving.computing.pace import Pace
from image_text_embedding.interfaces.serving.errors import ServingError


def test_no_more_than_can_be_answered_in_time() -> None:
    pace = Pace()
    admission = Admission(1000, 20, pace)
    for seconds in (9.0, 0.5, 0.4):  # one that was held up says nothing
        pace.learn("caption", seconds)
    pace.learn("text", 0.001)
    with contextlib.ExitStack() as inside:
        for _ in range(20):
            inside.enter_context(admission.admit(1, {"caption": 1}))
        assert admission.items == 20
        with pytest.raises(ServingError, match="20 items waiting") as refused:
            inside.enter_context(admission.admit(1, {"caption": 1}))
        assert refused.value.status == 429 and refused.value.retry_after == pytest.approx(10)
        with pytest.raises(ServingError):
            inside.enter_context(admission.admit(1, {"never seen": 1}))  # expected to be as slow as a caption
        with pytest.raises(ServingError):
            inside.enter_context(admission.admit(1, {"text": 1}))  # it would wait for the captions
        assert admission.items == 20
    with contextlib.ExitStack() as inside:
        for _ in range(999):
            inside.enter_context(admission.admit(1, {"text": 1}))
        inside.enter_context(admission.admit(1, {"text": 1}))
        with pytest.raises(ServingError):
            inside.enter_context(admission.admit(1, {"text": 1}))
    assert admission.items == 0


def test_work_that_waits_for_nobody_is_let_in_and_leaves_nothing_behind() -> None:
    pace = Pace()
    admission = Admission(2, 1, pace)
    pace.learn("caption", 100.0)
    with pytest.raises(KeyError), admission.admit(5, {"caption": 5}):
        raise KeyError
    with admission.admit(1, {"caption": 1}):
        assert admission.items == 1
