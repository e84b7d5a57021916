"""Videos as Towhee operators, in both generations, on small made-up models."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.towhee_090 import OFFLINE, python_090
from support.videos import numbered, write_video
from towhee import ops, pipe
from towhee.types import VideoFrame

import image_text_embedding as ite
from image_text_embedding.albef import AlbefVideo
from image_text_embedding.blip import BlipVideo, BlipVideoMatching
from image_text_embedding.foundation.errors import InputError, UnknownModelError, VideoError

# The same in both generations; `frames` is a list of frames in RGB.
CODE = """
found = []
for operator in (ops.video_text_embedding.blip, ops.video_text_embedding.albef):
    name = 'blip_base' if operator is not ops.video_text_embedding.albef and not found else 'albef_14m'
    film = (
        pipe.input('frames')
        .map('frames', 'vec', operator(model_name=name, modality='video'))
        .output('vec')
    )
    found += film(frames).get()[0].tolist()
words = (
    pipe.input('text')
    .map('text', 'vec', ops.video_text_embedding.blip(model_name='blip-base', modality='text'))
    .output('vec')
)
found += words('a dog').get()[0].tolist()
matching = (
    pipe.input('frames', 'text')
    .map(('frames', 'text'), 'score', ops.video_text_matching.blip(model_name='blip_itm_base_coco'))
    .output('score')
)
found.append(matching(frames, 'a dog').get()[0])
"""
FRAMES = [numbered(number) for number in range(12)]


@pytest.fixture
def here(small_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected() -> list[float]:
    """What plain Python gives for CODE: an operator uses all frames of a list."""
    blip, albef, matcher = map(ite.load, ("blip_base", "albef_14m", "blip_itm_base_coco"))
    found = [*blip.encode_video(FRAMES, 12).tolist(), *albef.encode_video(FRAMES, 12).tolist()]
    return [*found, *blip.encode_text("a dog").tolist(), matcher.match_video(FRAMES, "a dog", 12)]


def test_pipes_of_1x(here: Path) -> None:
    space: dict[str, Any] = {"pipe": pipe, "ops": ops, "frames": FRAMES}
    exec(CODE, space)
    assert space["found"] == pytest.approx(expected(), abs=1e-5)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="towhee 0.9.0 needs Python 3.10 or 3.11")
def test_dc2_and_dc_of_090(here: Path, small_models: Path) -> None:
    np.save("frames.npy", np.array(FRAMES))
    program = (
        "import json, pathlib, numpy, image_text_embedding.models.config_files as configs\n"
        f"configs.config_dir = lambda: pathlib.Path({str(small_models)!r})\n"
        "import towhee\n"
        "from towhee.dc2 import pipe, ops\n"
        "frames = list(numpy.load('frames.npy'))\n"
        f"{CODE}"
        "chain = towhee.dc['frames']([frames]).video_text_embedding.blip['frames', 'vec'](\n"
        "    model_name='blip_base', modality='video')\n"
        "found += chain.to_list()[0].vec.tolist()\n"
        "print('FOUND', json.dumps(found))\n"
    )
    done = subprocess.run(
        [python_090(), "-c", program], env=os.environ | OFFLINE, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    wanted = expected()
    assert json.loads(done.stdout.partition("FOUND ")[2]) == pytest.approx([*wanted, *wanted[:32]], abs=1e-5)


def test_files_frames_and_lists(here: Path) -> None:
    write_video("a.mp4", range(40))
    operator, encoder = BlipVideo("blip_base", "video"), ite.load("blip_base")
    np.testing.assert_allclose(operator("a.mp4"), encoder.encode_video("a.mp4", 8), atol=1e-6)
    frames = [VideoFrame(np.ascontiguousarray(frame[:, :, ::-1]), "BGR", i, False) for i, frame in enumerate(FRAMES)]
    np.testing.assert_allclose(operator(frames), encoder.encode_video(FRAMES, 12), atol=1e-6)
    np.testing.assert_allclose(operator(iter(frames)), encoder.encode_video(FRAMES, 12), atol=1e-6)
    several = operator(["a.mp4", FRAMES])
    assert isinstance(several, list) and len(several) == 2 and several[0].shape == (32,)
    few = BlipVideo("blip_base", "video", frames=3)
    np.testing.assert_allclose(few(FRAMES), encoder.encode_video([FRAMES[i] for i in (0, 4, 8)]), atol=1e-6)
    matching = BlipVideoMatching("blip_base", frames=2, return_logits=True)
    assert np.shape(matching("a.mp4", ["a dog", "a cat"])) == (2, 2)


def test_errors(here: Path) -> None:
    with pytest.raises(InputError, match=r"modality: expected 'video' or 'text', got 'image'"):
        BlipVideo("blip_base", "image")
    with pytest.raises(UnknownModelError, match="'blip_base' is of the family 'blip'"):
        AlbefVideo("blip_base", "video")
    with pytest.raises(InputError, match="unknown setting 'frame'"):
        BlipVideoMatching("blip_base", frame=3)
    with pytest.raises(VideoError, match=r"item 1: 'b.mp4'|no such file: 'b.mp4'"):
        BlipVideo("blip_base", "video")(["b.mp4"])


def test_schemas(here: Path) -> None:
    for operator in (BlipVideo("blip_base", "video"), AlbefVideo("albef_14m", "text"), BlipVideoMatching("blip_base")):
        assert len(operator.input_schema()) == len(inspect.signature(operator.__call__).parameters)
        assert len(operator.output_schema()) == 1
