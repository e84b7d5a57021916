"""The operators in Towhee 0.9.0: the published pages word for word, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import towhee_pages as pages
from support.towhee_090 import OFFLINE, python_090
from support.vector_checks import assert_same_vector


@pytest.fixture(scope="module")
def legacy(folder: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/support/towhee_090.py prints when it runs in a folder with `teddy.jpg`."""
    if sys.version_info >= (3, 12):
        pytest.skip("towhee 0.9.0 does not run on Python 3.12 and later")
    python, script = python_090(), Path(__file__).parents[2] / "support" / "towhee_090.py"
    user = tmp_path_factory.mktemp("user")
    theirs = user / ".towhee" / "operators" / "image-decode" / "cv2" / "main"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("def cv2(): return lambda data: 'theirs'\n")
    environment = os.environ | OFFLINE | {"HOME": str(user)}
    done = subprocess.run([python, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_090_ran_without_modules_of_the_other_version(legacy: dict[str, Any]) -> None:
    assert legacy["version"] == "0.9.0" and legacy["foreign"] == []


@pytest.mark.parametrize(
    ("page", "model", "modality", "shows"),
    [
        ("image", "blip_base", "image", "shape=(256,)"),
        ("text", "blip_base", "text", "shape=(256,)"),
        ("named image", "blip_base", "image", "<img src="),
        ("named text", "blip_base", "text", pages.TEXT),
        ("blip pipe image", "blip_base", "image", "<img src="),
        ("blip pipe text", "blip_base", "text", pages.TEXT),
        ("albef pipe image", "albef_4m", "image", "<img src="),
        ("albef pipe text", "albef_4m", "text", pages.TEXT),
    ],
)
def test_page_of_090(
    page: str, model: str, modality: str, shows: str, legacy: dict[str, Any], expected: dict[str, np.ndarray]
) -> None:
    assert shows in legacy["shown"][page] and "shape=(256,)" in legacy["shown"][page]
    assert_same_vector(np.float32(legacy["vectors"][page]), np.float32(legacy["expected"][f"{model} {modality}"]))
    assert_same_vector(np.float32(legacy["vectors"][page]), expected[f"{model} {modality}"])


def test_batch_of_090_passes_lists(legacy: dict[str, Any]) -> None:
    assert [len(vectors) for vectors in legacy["lists"]] == [2, 1]
    rows = [row for vectors in legacy["lists"] for row in vectors]
    np.testing.assert_allclose(rows, legacy["expected"]["lists"], atol=2e-6)


def test_090_shares_one_operator_between_calls_at_once(legacy: dict[str, Any]) -> None:
    assert legacy["builds"] == 1


def test_operators_of_090_can_be_pickled_and_copied(legacy: dict[str, Any]) -> None:
    assert legacy["copied"] == [True] * 4


def test_090_uses_a_local_decoder_of_somebody_else(legacy: dict[str, Any]) -> None:
    assert legacy["decoded"] == ["theirs", "theirs"]  # from the registry of the chains and from that of dc2


def test_090_errors(legacy: dict[str, Any]) -> None:
    kind, message = legacy["errors"]["chain"]
    assert kind == "TextError"  # dc raises the operator's own exception
    assert (
        legacy["errors"]["pipe"][0] == "RuntimeError" and message in legacy["errors"]["pipe"][1]
    )  # and a pipe wraps it
    kind, message = legacy["errors"]["model"]
    assert kind == "UnknownModelError" and "did you mean 'blip_base'" in message
