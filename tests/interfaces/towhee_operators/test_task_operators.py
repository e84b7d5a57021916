"""Matching, captioning and question answering as Towhee operators, in both generations, on small made-up models."""

from __future__ import annotations

import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import towhee
from PIL import Image
from skimage import data
from support.towhee_090 import OFFLINE, python_090
from towhee import ops, pipe

import image_text_embedding as ite
from image_text_embedding.albef import AlbefAnswering
from image_text_embedding.blip import BlipAnswering, BlipCaptioning, BlipMatching
from image_text_embedding.foundation.errors import InputError, TextError, UnknownModelError

TEXTS = ["two dogs on a beach", "an astronaut in an orange suit"]

# One pipe per operator; the same in both generations.
PIPES = """
matching = (
    pipe.input('url', 'text')
    .map('url', 'img', ops.image_decode.cv2_rgb())
    .map(('img', 'text'), 'score', ops.image_text_matching.{family}(model_name='{matcher}'))
    .output('score')
)
answering = (
    pipe.input('url', 'text')
    .map('url', 'img', ops.image_decode.cv2())
    .map(('img', 'text'), 'answer', ops.visual_question_answering.{family}(model_name='{answerer}', num_beams=1))
    .output('answer')
)
found = [matching('teddy.jpg', 'two dogs').get()[0], answering('teddy.jpg', 'what is it?').get()[0]]
"""
CAPTION = """
captioning = (
    pipe.input('url')
    .map('url', 'img', ops.image_decode.cv2_rgb())
    .map('img', 'text', ops.image_captioning.blip(model_name='blip_base'))
    .output('text')
)
found += [captioning('teddy.jpg').get()[0]]
"""
FAMILIES = (
    {"family": "blip", "matcher": "blip_itm_base_flickr", "answerer": "blip_vqa_base"},
    {"family": "albef", "matcher": "albef_4m", "answerer": "albef_vqa"},
)
CODE = (
    PIPES.format(**FAMILIES[0]) + CAPTION + "all_found = found\n" + PIPES.format(**FAMILIES[1]) + "all_found += found\n"
)

# The legacy chains of 0.9.0, which name their outputs.
CHAIN = """
import towhee
chain = towhee.glob['path']('teddy.jpg').image_decode['path', 'img']() \\
    .image_captioning.blip['img', 'text'](model_name='blip_base') \\
    .select['text']().to_list()
all_found += [chain[0].text]
all_found += towhee.glob('teddy.jpg').image_decode().image_captioning.blip(model_name='blip_base').to_list()
"""


@pytest.fixture
def here(small_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a teddy.jpg, and the small models under the official names."""
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("teddy.jpg")
    return tmp_path


def expected() -> list[Any]:
    """What plain Python gives for CODE."""
    found: list[Any] = []
    for names in FAMILIES:
        found.append(ite.load(names["matcher"]).match("teddy.jpg", "two dogs"))
        found.append(ite.load(names["answerer"]).answer("teddy.jpg", "what is it?", num_beams=1))
        if names["family"] == "blip":
            found.append(ite.load("blip_caption_base").caption("teddy.jpg"))
    return found


def test_pipes_of_1x(here: Path) -> None:
    space: dict[str, Any] = {"pipe": pipe, "ops": ops}
    exec(CODE, space)
    for found, wanted in zip(space["all_found"], expected(), strict=True):
        assert found == (pytest.approx(wanted, abs=1e-5) if isinstance(wanted, float) else wanted)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="towhee 0.9.0 needs Python 3.10 or 3.11")
def test_pipes_and_chains_of_090(here: Path, small_models: Path) -> None:
    program = (
        "import json, pathlib, image_text_embedding.models.config_files as configs\n"
        f"configs.config_dir = lambda: pathlib.Path({str(small_models)!r})\n"
        "from towhee.dc2 import pipe, ops\n"
        f"{CODE}{CHAIN}"
        "print('FOUND', json.dumps(all_found))\n"
    )
    done = subprocess.run(
        [python_090(), "-c", program], env=os.environ | OFFLINE, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.partition("FOUND ")[2])
    wanted = expected()
    for left, right in zip(found, [*wanted, wanted[2], wanted[2]], strict=True):
        assert left == (pytest.approx(right, abs=1e-5) if isinstance(right, float) else right)


def test_lists_in_lists_out(here: Path) -> None:
    pictures = [data.astronaut(), data.coffee()]
    score = BlipMatching("blip_itm_base_coco")
    assert score(pictures, TEXTS) == pytest.approx([score(p, t) for p, t in zip(pictures, TEXTS)], abs=1e-5)
    assert all(isinstance(value, float) for value in score(pictures[0], TEXTS))
    logits = BlipMatching("blip_itm_base_coco", return_logits=True)(pictures[0], TEXTS[0])
    assert 1 / (1 + math.exp(logits[0] - logits[1])) == pytest.approx(score(pictures[0], TEXTS[0]), abs=1e-5)
    caption = BlipCaptioning("blip_caption_base", num_beams=1)
    assert caption(pictures) == [caption(picture) for picture in pictures]
    both = BlipCaptioning("blip_caption_base", sample=True, seed=3, num_return_sequences=2)(pictures[0])
    assert len(both) == 2 and all(isinstance(text, str) for text in both)
    answer = AlbefAnswering("albef_vqa", choices=["yes", "no", "two dogs"])
    (best, probability), *rest = answer(pictures[0], "is it a dog?")
    assert best in ("yes", "no", "two dogs") and 1 / 3 <= probability <= 1 and len(rest) == 2


def test_names(here: Path) -> None:
    assert BlipMatching.supported_model_names() == ["blip_base", "blip_itm_base_coco", "blip_itm_base_flickr"]
    assert BlipCaptioning.supported_model_names() == ["blip_caption_base"]
    assert BlipCaptioning("blip-base").model_name == "blip_caption_base"
    assert AlbefAnswering.supported_model_names("onnx") == []
    with pytest.raises(UnknownModelError, match=r"'blip_base' cannot answer: use one of blip_vqa_base\."):
        BlipAnswering("blip_base")
    with pytest.raises(
        UnknownModelError, match=r"use visual_question_answering\.albef\(model_name='albef_vqa', \.\.\.\)"
    ):
        BlipAnswering("albef_vqa")
    with pytest.raises(UnknownModelError, match="did you mean 'blip_vqa_base'"):
        BlipAnswering("blip_vqa_bas")


def test_settings_are_checked_when_the_pipeline_is_built(here: Path) -> None:
    with pytest.raises(InputError, match="unknown setting 'num_beam' — did you mean 'num_beams'"):
        BlipCaptioning("blip_caption_base", num_beam=3)
    with pytest.raises(InputError, match="unknown setting 'on_error'"):
        BlipMatching("blip_itm_base_coco", on_error="skip")


def test_our_errors_pass_through_a_pipe(here: Path) -> None:
    p = pipe.input("img", "q").map(
        ("img", "q"), "a", ops.visual_question_answering.blip(model_name="blip_vqa_base")
    ).output("a")  # fmt: skip
    with pytest.raises(RuntimeError, match="nothing to encode"):
        p(data.astronaut(), "?!"[:0]).get()
    with pytest.raises(TextError, match="nothing to encode"):
        BlipAnswering("blip_vqa_base")(data.astronaut(), "")


def test_schemas_and_sharing(here: Path) -> None:
    for operator in (BlipMatching("blip_base"), BlipCaptioning("blip_base")):
        assert operator.shared_type == towhee.operator.SharedType.Shareable
        assert len(operator.input_schema()) == len(inspect.signature(operator.__call__).parameters)
        assert len(operator.output_schema()) == 1
    again = BlipMatching("blip_base")
    first = BlipMatching("blip_base")
    assert again.encoder.runtime.parts["image"] is first.encoder.runtime.parts["image"]
