"""Entailment, grounding and reasoning as Towhee operators, in both generations, on small made-up models."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data
from support.towhee_090 import OFFLINE, python_090
from towhee import ops, pipe

import image_text_embedding as ite
from image_text_embedding.albef import AlbefEntailment, AlbefGrounding
from image_text_embedding.blip import BlipGrounding, BlipReasoning
from image_text_embedding.foundation.errors import InputError, UnknownModelError

# The same in both generations.
CODE = """
found = []
for operator in (ops.visual_reasoning.blip(model_name='blip_nlvr'), ops.visual_reasoning.albef(model_name='albef-nlvr')):
    reasoning = (
        pipe.input('left', 'right', 'text')
        .map('left', 'left', ops.image_decode.cv2_rgb())
        .map('right', 'right', ops.image_decode.cv2())
        .map(('left', 'right', 'text'), 'score', operator)
        .output('score')
    )
    found += [reasoning('teddy.jpg', 'beach.jpg', 'a dog').get()[0]]
entailment = (
    pipe.input('url', 'text')
    .map('url', 'img', ops.image_decode.cv2())
    .map(('img', 'text'), 'chances', ops.visual_entailment.albef(model_name='albef_ve'))
    .output('chances')
)
found += entailment('teddy.jpg', 'a dog').get()[0].values()
for operator in (ops.visual_grounding.blip(model_name='blip_base'), ops.visual_grounding.albef(model_name='albef_14m')):
    grounding = (
        pipe.input('url', 'text', 'boxes')
        .map('url', 'img', ops.image_decode.cv2())
        .map(('img', 'text', 'boxes'), 'found', operator)
        .output('found')
    )
    found += grounding('teddy.jpg', 'a dog', [[0, 0, 100, 100], [50, 60, 70, 80]]).get()[0].scores.tolist()
"""


@pytest.fixture
def here(small_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two pictures, and the small models under the official names."""
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("teddy.jpg")
    Image.fromarray(data.coffee()).save("beach.jpg")
    return tmp_path


def expected() -> list[Any]:
    """What plain Python gives for CODE."""
    pair = "teddy.jpg", "beach.jpg"
    found = [ite.load(name).reason(pair, "a dog") for name in ("blip_nlvr", "albef_nlvr")]
    found += ite.load("albef_ve").entail(pair[0], "a dog").values()
    boxes = [[0, 0, 100, 100], [50, 60, 70, 80]]
    for name in ("blip_base", "albef_14m"):
        found += ite.load(name).ground(pair[0], "a dog", boxes).scores.tolist()
    return found


def test_pipes_of_1x(here: Path) -> None:
    space: dict[str, Any] = {"pipe": pipe, "ops": ops}
    exec(CODE, space)
    assert space["found"] == pytest.approx(expected(), abs=1e-5)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="towhee 0.9.0 needs Python 3.10 or 3.11")
def test_pipes_of_090(here: Path, small_models: Path) -> None:
    program = (
        "import json, pathlib, image_text_embedding.models.config_files as configs\n"
        f"configs.config_dir = lambda: pathlib.Path({str(small_models)!r})\n"
        "from towhee.dc2 import pipe, ops\n"
        f"{CODE}"
        "print('FOUND', json.dumps(found))\n"
    )
    done = subprocess.run(
        [python_090(), "-c", program], env=os.environ | OFFLINE, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.partition("FOUND ")[2]) == pytest.approx(expected(), abs=1e-5)


def test_lists_and_names(here: Path) -> None:
    pictures = [data.astronaut(), data.coffee()]
    reasoning = BlipReasoning("blip_nlvr")
    scores = reasoning(pictures, pictures[::-1], ["a dog", "a cup"])
    assert scores == pytest.approx([reasoning(*pictures, "a dog"), reasoning(*pictures[::-1], "a cup")], abs=1e-5)
    for wrong in ((pictures, pictures[0]), (pictures, pictures[:1])):
        with pytest.raises(InputError, match="equally long lists"):
            reasoning(*wrong, "a dog")
    with pytest.raises(UnknownModelError, match=r"'blip_base' cannot reason: use one of blip_nlvr\."):
        BlipReasoning("blip_base")

    with pytest.raises(InputError, match="unknown setting 'itm_token'"):
        AlbefGrounding("albef_14m", itm_token="cls")
    assert [each.phrase for each in AlbefGrounding("albef_14m")(pictures, ["a", "b"])] == ["a", "b"]


def test_schemas(here: Path) -> None:
    for operator in (BlipReasoning("blip_nlvr"), AlbefEntailment("albef_ve"), BlipGrounding("blip_base")):
        assert len(operator.input_schema()) == len(inspect.signature(operator.__call__).parameters)
        assert len(operator.output_schema()) == 1
