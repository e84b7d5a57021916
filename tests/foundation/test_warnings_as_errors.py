"""`python -W error`: no import and no call of ours gives a warning."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = "import image_text_embedding"
EVERYTHING = """
import importlib, pkgutil
import image_text_embedding as ite
for module in pkgutil.walk_packages(ite.__path__, "image_text_embedding."):
    importlib.import_module(module.name)
from towhee import ops, pipe
import numpy as np
model, picture = ite.load("blip_demo"), np.zeros((90, 80, 3), np.uint8)
model.encode_image(picture), model.encode_text("a dog"), model.match(picture, "a dog")
model.caption(picture), model.answer(picture, "what is it?"), model.explain(picture, "a dog")
"""


@pytest.mark.parametrize("program", [IMPORT, EVERYTHING])
def test_warnings_as_errors(program: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
