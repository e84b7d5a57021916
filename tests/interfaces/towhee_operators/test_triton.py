"""A Towhee pipeline as a Triton model repository: what is written, what it computes, and how it is served."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data

import image_text_embedding as ite
from image_text_embedding.blip import blip
from image_text_embedding.inference.backends.quiet_exporters import no_telemetry

towhee = pytest.importorskip("towhee")
PICTURES = [data.astronaut(), data.coffee(), data.rocket()]


@pytest.fixture(autouse=True)
def small(small_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)


@pytest.fixture
def servable() -> Any:
    """The function that builds a repository. It must find its requirements installed, or it would pip-install them."""
    for module in ("dill", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra [onnx] or dill is not installed")
    return towhee.build_pipeline_model


def test_a_repository_that_can_be_served(servable: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dill
    import onnxruntime
    from towhee.runtime.runtime_pipeline import RuntimePipeline
    from towhee.serve.triton.bls.mock.mock_pb_util import MockTritonPythonBackendUtils

    operator = towhee.ops.image_text_embedding.blip(model_name="blip_base", modality="image", device="cpu")
    pipe = towhee.pipe.input("picture").map("picture", "vec", operator).output("vec")
    expected = np.stack([pipe(picture).get()[0] for picture in PICTURES])

    assert servable(pipe, str(tmp_path), ["onnx"])
    (tower,) = [path for path in tmp_path.iterdir() if path.name != "pipeline"]
    assert 'backend: "onnxruntime"' in (tower / "config.pbtxt").read_text()
    assert 'backend: "python"' in (tmp_path / "pipeline" / "config.pbtxt").read_text()
    assert (tmp_path / "pipeline" / "1" / "model.py").is_file()

    # The graph against torch, with one picture and with several.
    session = onnxruntime.InferenceSession(str(tower / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in session.get_inputs()] == ["pixels"]
    assert [tensor.name for tensor in session.get_outputs()] == ["vector"]
    own = blip("blip_base", "image", device="cpu")
    pixels = np.stack([own.encoder.runtime.pixels(picture) for picture in PICTURES])
    exact = own.encoder.encode_image(PICTURES, normalize_embeddings=False)
    for count in (1, 3):
        (vectors,) = session.run(None, {"pixels": pixels[:count]})
        np.testing.assert_allclose(vectors, exact[:count], atol=1e-4, rtol=1e-4)

    # On the server the pipeline calls Triton for its tower and reads no weights.
    with (tmp_path / "pipeline" / "1" / "pipe.pickle").open("rb") as file:
        dag = dill.load(file)
    shapes: list[tuple[int, ...]] = []

    def tower_of_triton(values: np.ndarray) -> np.ndarray:
        shapes.append(values.shape)
        return session.run(None, {"pixels": values})[0]

    request = MockTritonPythonBackendUtils.InferenceRequest
    monkeypatch.setattr(request, "model_dict", {tower.name: tower_of_triton})
    monkeypatch.setattr("image_text_embedding.models.part_cache.load_part", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(
        "image_text_embedding.inference.loading.resolve_model", lambda *_: pytest.fail("weights were looked for")
    )
    served = RuntimePipeline(dag)
    for picture, vector in zip(PICTURES, expected):
        np.testing.assert_allclose(served(picture).get()[0], vector, atol=1e-5)
    assert shapes == [(1, 64, 64, 3)] * 3


def test_a_pipeline_without_onnx_is_built_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dill", reason="dill is not installed")
    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    operator = towhee.ops.image_text_embedding.blip(model_name="blip_base", modality="text", device="cpu")
    pipe = towhee.pipe.input("text").map("text", "vec", operator).output("vec")
    assert towhee.build_pipeline_model(pipe, str(tmp_path), ["tensorrt"])
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def test_save_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = blip("blip_base", "text", device="cpu")
    texts = ["a dog", "a cat on a sofa by the window"]
    assert text.supported_formats == ["onnx"]
    path = text.save_model("pytorch", tmp_path / "deep" / "weights.safetensors")
    assert path == str(tmp_path / "deep" / "weights.safetensors")
    again = blip("blip_base", "text", device="cpu", checkpoint_path=path)
    np.testing.assert_array_equal(again(texts), text(texts))

    monkeypatch.setenv("IMAGE_TEXT_EMBEDDING_HOME", str(tmp_path / "home"))
    script = text.save_model("torchscript")
    assert script == str(tmp_path / "home" / "saved" / "blip_base-text.pt")
    inputs = text.encoder.runtime.padded([[101, 7, 8, 102], [101, 9, 102], [101, 102]])
    exact = text.encoder.runtime.part("text")(*inputs)
    torch.testing.assert_close(torch.jit.load(script)(*inputs), exact, atol=1e-5, rtol=1e-5)

    with pytest.raises(
        ite.InputError, match=r"format: expected one of pytorch, torchscript, onnx, got 'onx' — did you"
    ):
        text.save_model("onx", tmp_path / "x")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ite.SetupError, match="cannot write to"):
        text.save_model("pytorch", tmp_path / "file" / "x")
    with no_telemetry():
        monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ite.SetupError, match=r"pip install .*\[onnx\]'"):
        text.save_model("onnx", tmp_path / "x.onnx")
    assert not list(tmp_path.glob("*.part")) and not (tmp_path / "x.onnx").exists()
