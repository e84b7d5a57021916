"""Vectors, searches and commands that import neither torch nor transformers, once a tower is exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.foundation.cache_folder import HOME_VARIABLE

HEAVY = ["timm", "torch", "torchvision", "transformers"]
PICTURES = [entry["path"] for entry in gallery()[:3]]
TEXTS = ["a dog", "a teddy bear on a skateboard", "two cups of coffee by the window"]

SHOW_HEAVY = f"import sys; print('heavy:', *sorted(set({HEAVY}) & set(sys.modules)))"

VECTORS = f"""
import json, sys
import numpy as np
import image_text_embedding as ite

model = ite.load(sys.argv[1], backend=sys.argv[2])
pictures, texts = json.loads(sys.argv[3])
found = {{
    "image": model.encode_image(pictures), "text": model.encode_text(texts),
    "one": model.encode_text(texts[0]), "stream": np.stack(list(model.stream_text(texts))),
    "bare": model.encode_image(pictures, normalize_embeddings=False),
}}
np.savez(sys.argv[4], info=json.dumps(model.info), repr=repr(model), **found)
_, errors = model.encode_image(["none.jpg", pictures[0]], on_error="skip")
assert [index for index, _ in errors] == [0]
{SHOW_HEAVY}
"""

COMMAND = f"""
import sys
from image_text_embedding.interfaces.cli import main

try:
    main()
except SystemExit as ended:
    assert not ended.code, ended
{SHOW_HEAVY}
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(params=["openvino", "onnx"])
def model(request: pytest.FixtureRequest, exports: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """blip_demo, exported for the processes that the tests start."""
    monkeypatch.setenv(HOME_VARIABLE, str(exports))
    pytest.importorskip({"openvino": "openvino", "onnx": "onnxruntime"}[request.param])
    return ite.load("blip_demo", device="cpu", backend=request.param)


def run(code: str, *arguments: str, **environment: str) -> str:
    """What a new process prints last."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_vectors_are_equal_bit_by_bit(model: Any, tmp_path: Path) -> None:
    """Those of a process without torch, and those of this one, which has it."""
    path = tmp_path / "found.npz"
    arguments = ("blip_demo", model.backend, json.dumps([list(map(str, PICTURES)), TEXTS]), str(path))
    assert run(VECTORS, *arguments) == "heavy:"
    found = np.load(path)
    np.testing.assert_array_equal(found["image"], model.encode_image(PICTURES))
    np.testing.assert_array_equal(found["text"], model.encode_text(TEXTS))
    np.testing.assert_array_equal(found["one"], model.encode_text(TEXTS[0]))
    np.testing.assert_array_equal(found["stream"], model.encode_text(TEXTS))
    bare = model.encode_image(PICTURES, normalize_embeddings=False, convert_to_tensor=True)
    assert bare.device == model.device
    np.testing.assert_array_equal(found["bare"], bare.numpy())
    assert json.loads(str(found["info"])) == model.info and str(found["repr"]) == repr(model)


def test_a_file_of_ones_own(model: Any, tmp_path: Path) -> None:
    """Its configuration and sizes are in the header of the file, which is read without torch."""
    path = ite.load("blip_demo", device="cpu").save(tmp_path / "own.safetensors")
    ite.load(path, device="cpu", backend=model.backend)
    arguments = (str(path), model.backend, json.dumps([list(map(str, PICTURES)), TEXTS]), str(tmp_path / "found.npz"))
    assert run(VECTORS, *arguments) == "heavy:"


def test_commands(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    uri, backend = str(tmp_path / "g.db"), ("--backend", model.backend)
    with ite.Gallery.open(uri, model) as index:
        index.add(PICTURES, TEXTS)
    assert run(COMMAND, "search", TEXTS[0], "--uri", uri, *backend) == "heavy:"
    assert run(COMMAND, "search", "--image", str(PICTURES[0]), "--uri", uri, *backend) == "heavy:"
    assert run(COMMAND, "rank", *map(str, PICTURES), TEXTS[0], "--out", str(tmp_path / "r.png"), *backend) == "heavy:"
    out = ("--model", "blip_demo", "--out", str(tmp_path / "vectors"))
    assert run(COMMAND, "embed", *map(str, PICTURES), *out, *backend) == "heavy:"


def test_other_tasks_import_torch_when_they_are_used(model: Any) -> None:
    code = f"""
import sys
import image_text_embedding as ite
model = ite.load("blip_demo", backend={model.backend!r})
assert "torch" not in sys.modules
print(model.match({str(PICTURES[0])!r}, "a dog"))
assert "torch" in sys.modules and str(model.device) == "cpu" and str(model.dtype) == "torch.float32"
print(model.match({str(PICTURES[0])!r}, "a dog"))
"""
    assert float(run(code)) == pytest.approx(model.match(PICTURES[0], "a dog"), abs=1e-6)


def test_a_vector_that_is_not_finite(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = type(model.runtime).text_vectors

    def spoiled(self: Any, rows: Any) -> np.ndarray:
        vectors = real(self, rows)
        vectors[0], vectors[1] = 0, np.nan
        return vectors

    monkeypatch.setattr(type(model.runtime), "text_vectors", spoiled)
    with pytest.raises(ite.ComputeError, match="the text tower produced"):
        model.encode_text(TEXTS)
    vectors, errors = model.encode_text(TEXTS, on_error="skip")
    assert sorted("length 0" in str(error) for _, error in errors) == [False, True]
    assert np.isnan(vectors).all(axis=1).sum() == 2
