"""What a type checker knows of the results of an Encoder's methods, and which mistakes it finds."""

from __future__ import annotations

import inspect
import os
import sys
import typing

import pytest
from mypy import api
from support.environment import ROOT

import image_text_embedding as ite

HEAD = """\
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from typing_extensions import assert_type

import image_text_embedding as ite

Errors = list[tuple[int, ite.EmbeddingError]]
path, picture = Path("a.jpg"), Image.new("RGB", (9, 9))
model = ite.load("blip_demo")
assert_type(model, ite.Encoder)
"""

RESULTS = {
    # Vectors: an array, and with on_error="skip" a pair.
    'model.encode_image("a.jpg")': "np.ndarray",
    "model.encode_image([path, picture])": "np.ndarray",
    'model.encode_text(["a"], 8)': "np.ndarray",
    'model.encode_image([path], on_error="skip", decode="fast")': "tuple[np.ndarray, Errors]",
    'model.encode_text("a", on_error="skip")': "tuple[np.ndarray, Errors]",
    "model.stream_image(iter([path]))": "Iterator[np.ndarray]",
    'model.stream_text(iter("ab"), on_error="skip")': ("Iterator[tuple[np.ndarray | None, ite.EmbeddingError | None]]"),
    "model.coalesce().encode_image(path)": "np.ndarray",
    # One picture and one text give one result, lists of either a list.
    'model.match(picture, "a")': "float",
    'model.match([picture], "a")': "np.ndarray",
    'model.match(path, ["a", "b"], return_logits=True)': "np.ndarray",
    'model.match([path], "a", on_error="skip")[1]': "Errors",
    'model.match_matrix([path], ["a"])': "np.ndarray",
    'model.classify(path, ["a"], method="itm")': "list[tuple[str, float]]",
    'model.classify([path], ["a"])': "list[list[tuple[str, float]]]",
    'model.rerank("a", [path])': "list[tuple[int, float]]",
    'model.reason((path, path), "a")': "float",
    'model.entail(path, "a")["neutral"]': "float",
    'model.ground(path, "a").match': "float",
    "model.caption(path)": "str",
    "model.caption([path], num_beams=1)": "list[str]",
    'model.answer(path, "a?")': "str",
    'model.answer(path, "a?", choices=["yes"])': "list[tuple[str, float]]",
    'model.answer([path], "a?")': "list[str]",
    'ite.training.train("blip_demo", "pairs", "run")': "Path",
}

MISTAKES = {
    'model.encode_image(path, on_error="skp")': "call-overload",
    'model.encode_image(path, decode="quick")': "call-overload",
    'model.match(path, "a", itm_token="dec")': "call-overload",
    'ite.load("blip_demo", backend="tensorflow")': "arg-type",
    'ite.load("blip_demo", precision="int4")': "arg-type",
}

# Packages that have nothing to do with it; reading torch takes half a minute.
SKIPPED = (
    "torch torchvision transformers timm towhee pandas pyarrow pymilvus ray openvino onnx onnxruntime huggingface_hub"
)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Line number -> what mypy reports of a program with all RESULTS, then all MISTAKES."""
    folder = tmp_path_factory.mktemp("typing")
    asserts = [f"assert_type({call}, {kind})\n" for call, kind in RESULTS.items()]
    (folder / "use.py").write_text(HEAD + "".join(asserts) + "".join(f"{call}\n" for call in MISTAKES))
    skipped = ",".join(f"{name}.*" for name in (*SKIPPED.split(), "fastapi", "pydantic", "matplotlib"))
    (folder / "mypy.ini").write_text(
        f"[mypy]\nfollow_imports = silent\nignore_missing_imports = True\n[mypy-{skipped}]\nfollow_imports = skip\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(ROOT))
        options = ["--config-file", str(folder / "mypy.ini"), "--cache-dir", os.devnull, "--hide-error-context"]
        out, err, _ = api.run([*options, "--no-error-summary", str(folder / "use.py")])
    assert not err
    lines = [line.split(":", 2) for line in out.splitlines() if ": error:" in line]
    assert all(file.endswith("use.py") for file, _, _ in lines), out
    return {int(number): message for _, number, message in lines}


def test_results_have_their_types(reported: dict[int, str]) -> None:
    first = HEAD.count("\n") + 1
    wrong = {call: reported[line] for line, call in enumerate(RESULTS, first) if line in reported}
    assert wrong == {} and min(reported) >= first + len(RESULTS)


def test_mistakes_are_found(reported: dict[int, str]) -> None:
    first = HEAD.count("\n") + 1 + len(RESULTS)
    for line, (call, kind) in enumerate(MISTAKES.items(), first):
        assert reported.get(line, "").endswith(f"[{kind}]"), call


@pytest.mark.skipif(sys.version_info < (3, 11), reason="typing.get_overloads is new in Python 3.11")
def test_overloads_have_the_parameters_of_their_methods() -> None:
    checked = 0
    for name, method in inspect.getmembers(ite.Encoder, inspect.isfunction):
        expected = inspect.signature(method).parameters
        for overload in typing.get_overloads(method):
            found = inspect.signature(overload).parameters
            assert [*found] == [*expected] and [p.kind for p in found.values()] == [
                p.kind for p in expected.values()
            ], name
            # Only what decides the type may have no default here and one there.
            required = {key for key in found if found[key].default is inspect.Parameter.empty}
            required -= {key for key in found if expected[key].default is inspect.Parameter.empty}
            assert required <= {"on_error", "convert_to_tensor", "choices"}, name
            checked += 1
    assert checked > 40
