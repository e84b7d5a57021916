"""Towers by OpenVINO and ONNX Runtime: the same vectors as torch's, cached exports, int8, and refused settings."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import image_text_embedding as ite
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.inference.backends import backend, compiled_tower, export_cache
from image_text_embedding.inference.backends.backend import BACKENDS, choose_backend

NEEDED = {"openvino": ("openvino",), "onnx": ("onnxruntime", "onnx", "onnxscript")}
CPU = torch.device("cpu")
WAIT = 20  # seconds; no wait below should take even one
PICTURES = [entry["path"] for entry in gallery()[:6]]
# Of unequal lengths, and more than the batch size of the export.
TEXTS = ["a dog", "a woman sitting on the beach with her dog", "two cups of coffee", "a rocket", "a cat in the snow"]


def need(backend: str) -> None:
    for module in NEEDED[backend]:
        with backends_quiet():
            pytest.importorskip(module, reason=f"the extra [{backend}] is not installed")


def backends_quiet() -> Any:
    from image_text_embedding.inference.backends.quiet_exporters import no_telemetry

    return no_telemetry()


@pytest.fixture(scope="module")
def weights(home: Path, small_weights: dict[str, Path]) -> dict[str, Any]:
    """Weights of small BLIP and ALBEF models, for `load`."""
    return small_weights


@pytest.fixture(scope="module")
def exact(weights: dict[str, Path], vocabulary: Path) -> Any:
    return ite.load(weights["blip_itm_base_coco"], tokenizer=vocabulary, device="cpu")


@pytest.fixture(scope="module", params=["openvino", "onnx"])
def model(request: pytest.FixtureRequest, weights: dict[str, Path], vocabulary: Path) -> Iterator[Any]:
    """The small BLIP on each backend, in fp32; one for the module, so that it is exported once."""
    need(request.param)
    yield ite.load(weights["blip_itm_base_coco"], tokenizer=vocabulary, device="cpu", backend=request.param)


class TestVectors:
    def test_they_equal_those_of_torch(self, model: Any, exact: Any) -> None:
        np.testing.assert_allclose(model.encode_image(PICTURES), exact.encode_image(PICTURES), atol=1e-5)
        np.testing.assert_allclose(model.encode_image(PICTURES[1]), exact.encode_image(PICTURES[1]), atol=1e-5)
        np.testing.assert_allclose(model.encode_text(TEXTS), exact.encode_text(TEXTS), atol=1e-5)
        np.testing.assert_allclose(model.encode_text(TEXTS[0]), exact.encode_text(TEXTS[0]), atol=1e-5)
        bare = {"normalize_embeddings": False, "convert_to_tensor": True}
        torch.testing.assert_close(
            model.encode_text(TEXTS, **bare), exact.encode_text(TEXTS, **bare), atol=1e-4, rtol=1e-4
        )

    def test_threads(self, model: Any) -> None:
        one_by_one = [model.encode_image(picture) for picture in PICTURES]
        with ThreadPoolExecutor(4) as pool:
            at_once = list(pool.map(model.encode_image, PICTURES * 3))
        np.testing.assert_allclose(at_once, one_by_one * 3, atol=1e-6)

    def test_their_info(self, model: Any, exact: Any) -> None:
        info = model.info
        assert info["backend"] == model.backend in BACKENDS and info["precision"] == model.precision == "fp32"
        for part, quality in info["quality"].items():
            assert 0.99999 < quality["cosine_min"] <= quality["cosine_mean"] < 1.00001
            # A quarter of 48 drawings and as many made-up photos, or of the drawings' captions.
            assert quality["items"] == (12 if part == "text" else 24)
        assert {"image", "text"} <= set(info["quality"]) and json.dumps(info)
        assert f"by {model.backend} in fp32" in repr(model) and "image and text" in repr(model)
        manifest = manifest_of(info)
        assert manifest["backend"] == model.backend and manifest["precision"] == "fp32"
        assert exact.info["backend"] == "torch" and exact.info["quality"] == {}

    def test_an_index_needs_no_second_copy(self, model: Any, tmp_path: Path) -> None:
        pytest.importorskip("milvus_lite")
        with ite.Gallery.open(tmp_path / "g.db", model) as gallery:
            gallery.add(PICTURES, TEXTS)
            assert gallery.search(Path(PICTURES[0]), 1)[0].path == str(PICTURES[0])
            assert gallery.search(TEXTS[1], 1, find="text")[0].text == TEXTS[1]
        assert model.runtime.parts == {}

    def test_it_computes_the_states_of_pictures_too(self, model: Any, exact: Any) -> None:
        """For the heads, which stay on torch; in batches of other sizes than the exported one."""
        for count in (1, 3):
            pixels = [exact.runtime.pixels(picture) for picture in PICTURES[:count]]
            with torch.inference_mode():
                torch.testing.assert_close(
                    model.runtime.states(pixels), exact.runtime.states(pixels), atol=1e-4, rtol=1e-3
                )
        assert model.info["quality"]["states"]["cosine_min"] > 0.99999
        assert "states" not in repr(model)

    def test_heads_stay_on_torch(self, model: Any, exact: Any, tmp_path: Path) -> None:
        assert not set(model.runtime.parts) & {"match"}
        assert model.match(PICTURES[0], TEXTS[1]) == pytest.approx(exact.match(PICTURES[0], TEXTS[1]), abs=1e-6)
        model.save(tmp_path / "saved.safetensors")
        assert ite.load(tmp_path / "saved.safetensors", modality="image").dim == exact.dim


class TestExports:
    def test_one_copy_per_process_and_one_export(
        self, model: Any, weights: dict[str, Path], vocabulary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend.Backend, "_build", lambda *_: pytest.fail("it is already exported"))
        settings: dict[str, Any] = {"tokenizer": vocabulary, "device": "cpu", "backend": model.backend}
        again = ite.load(weights["blip_itm_base_coco"], modality="text", **settings)
        assert again.runtime.compiled["text"] is model.runtime.compiled["text"]
        monkeypatch.setattr(backend, "_towers", {})  # as in another process
        fresh = ite.load(weights["blip_itm_base_coco"], modality="text", **settings)
        assert fresh.runtime.compiled["text"] is not model.runtime.compiled["text"]
        np.testing.assert_array_equal(fresh.encode_text(TEXTS), model.encode_text(TEXTS))
        assert fresh.info["quality"] == {"text": model.info["quality"]["text"]}
        assert fresh.runtime.parts == {}, "no second copy of the weights"

    def test_what_they_depend_on(self, model: Any) -> None:
        folder = model.runtime.compiled["image"].folder
        key = json.loads((folder / export_cache.MANIFEST).read_text())["key"]
        assert key["sha256"] == model.info["sha256"] and key["precision"] == "fp32" and key["tower"] == "image"
        assert "image_size=64" in key["sizes"] and set(key["versions"]) >= {"torch"} and len(key["versions"]) > 1

    def test_a_damaged_export_and_a_cache_that_is_not_writable(
        self,
        exact: Any,
        weights: dict[str, Path],
        vocabulary: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        need("openvino")
        monkeypatch.setenv("IMAGE_TEXT_EMBEDDING_HOME", str(tmp_path))
        expected = exact.encode_text(TEXTS)

        def vectors() -> tuple[Path, np.ndarray]:
            monkeypatch.setattr(backend, "_towers", {})
            model = ite.load(weights["blip_itm_base_coco"], tokenizer=vocabulary, backend="openvino", modality="text")
            return model.runtime.compiled["text"].folder, model.encode_text(TEXTS)

        folder, got = vectors()
        np.testing.assert_allclose(got, expected, atol=1e-5)
        weights_file = folder / "model.bin"
        content = weights_file.read_bytes()
        # The old file may still be mapped into memory: the damaged one must be another file.
        weights_file.unlink()
        weights_file.write_bytes(content[:5000])
        again, got = vectors()
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert again == folder and weights_file.stat().st_size > 5000

        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "exports").write_text("in the way")
        monkeypatch.setenv("IMAGE_TEXT_EMBEDDING_HOME", str(tmp_path / "home"))
        with pytest.warns(UserWarning, match="is not writable"):
            folder, got = vectors()
        np.testing.assert_allclose(got, expected, atol=1e-5)

    def test_an_export_that_computes_something_else(
        self, weights: dict[str, Path], vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        need("openvino")
        monkeypatch.setenv("IMAGE_TEXT_EMBEDDING_HOME", str(tmp_path))
        real = compiled_tower.OpenVINOGraph.__call__
        monkeypatch.setattr(compiled_tower.OpenVINOGraph, "__call__", lambda self, *inputs: -real(self, *inputs))
        with pytest.raises(ite.ComputeError, match="expected the vectors of torch"):
            ite.load(weights["albef_14m"], tokenizer=vocabulary, backend="openvino", modality="text")
        assert not list((tmp_path / "exports").glob("*/export.json"))


class TestInt8:
    def test_openvino_by_nncf(self) -> None:
        need("openvino")
        with backends_quiet():
            pytest.importorskip("nncf")
        exact = ite.load("blip_demo", device="cpu")
        model = ite.load("blip_demo", backend="openvino", precision="int8")
        for modality, items in (("image", PICTURES), ("text", [entry["caption"] for entry in gallery()[:6]])):
            encode = f"encode_{modality}"
            cosines = (getattr(model, encode)(items) * getattr(exact, encode)(items)).sum(axis=1)
            assert cosines.min() > 0.9 and abs(cosines - 1).max() > 1e-6, "close to fp32, but not equal"
            quality = model.info["quality"][modality]
            photos, held_out = (" and 48 made-up photos", 24) if modality == "image" else ("", 12)
            assert quality["items"] == 200 and quality["calibrated_on"] == f"the packaged gallery{photos}"
            expected = f"a sample: {held_out} held-out items and {200 - held_out} random parts of them"
            assert quality["measured_on"] == expected
            assert 0.9 < quality["cosine_min_sampled"] == quality["cosine_min"] < quality["cosine_mean"]
            assert quality["cosine_mean"] == pytest.approx(cosines.mean(), abs=0.05)

    def test_onnx_calibrated_on_texts_of_the_user(self, weights: dict[str, Path], vocabulary: Path) -> None:
        need("onnx")
        texts = [f"{text} {more}" for text in TEXTS for more in ("by day", "at night")]
        exact = ite.load(weights["albef_14m"], tokenizer=vocabulary, device="cpu", modality="text")
        with warnings.catch_warnings():
            # Made-up weights may be below MIN_INT8_COSINE.
            warnings.simplefilter("ignore")
            model = ite.load(
                weights["albef_14m"],
                tokenizer=vocabulary,
                device="cpu",
                modality="text",
                backend="onnx",
                precision="int8",
                calibration={"text": texts},
            )
        cosines = (model.encode_text(TEXTS) * exact.encode_text(TEXTS)).sum(axis=1)
        assert cosines.min() > 0.9 and abs(cosines - 1).max() > 1e-6
        quality = model.info["quality"]["text"]
        assert quality["items"] == 200 and quality["calibrated_on"] == "10 texts given by the user"
        assert quality["measured_on"] == "a sample: 3 held-out items and 197 random parts of them"

    def test_inaccurate_vectors_warn(self, exact: Any) -> None:
        notes = {"quality": {"cosine_mean": 0.9, "cosine_min": 0.8, "items": 3}}
        tower = compiled_tower.CompiledTower(lambda *_: np.zeros(1), export_cache.CachedExport(Path(), notes))
        with pytest.warns(UserWarning, match=r"mean cosine of 0\.900 .* calibration="):
            backend.Backend("onnx", "int8")._warn_if_inaccurate(tower, "text")


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"backend": "openvin"}, "backend: expected one of torch, openvino, onnx, .* did you mean 'openvino'"),
            ({"precision": "int4"}, "precision: expected one of fp32, bf16, fp16, int8, got 'int4'"),
            ({"precision": torch.float16}, "precision: expected one of"),
            ({"precision": "int8"}, r"expected one of fp32, bf16, fp16, .*backend='torch'.* int8 needs backend"),
            ({"precision": "fp16", "dtype": "bf16"}, "expected precision or dtype, got"),
            ({"calibration": {"text": TEXTS * 2}}, "for precision='int8'; got 'text' for precision='fp32'"),
        ],
    )
    def test_settings_are_checked_before_the_model(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ite.InputError, match=message):
            ite.load("no such model", device="cpu", **settings)

    def test_dtype_is_the_same_as_precision(self, weights: dict[str, Path]) -> None:
        for settings in ({"precision": "bf16"}, {"dtype": "bf16"}, {"dtype": torch.bfloat16, "precision": "bf16"}):
            model = ite.load(weights["blip_base"], modality="image", device="cpu", **settings)
            assert model.dtype is torch.bfloat16 and model.info["precision"] == "bf16"

    def test_a_precision_or_device_that_openvino_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        need("openvino")
        monkeypatch.setattr(backend, "_openvino_capabilities", lambda: ["FP32", "INT8", "BIN"])
        with pytest.raises(ite.InputError, match="expected one of fp32, int8, which backend='openvino' can"):
            choose_backend("openvino", "bf16", CPU, None)
        with pytest.raises(ite.InputError, match="computes on the CPU, got device 'cuda'"):
            choose_backend("openvino", "fp32", torch.device("cuda"), None)

    def test_a_precision_or_device_that_onnx_runtime_lacks(self) -> None:
        need("onnx")
        import onnxruntime

        with pytest.raises(ite.InputError, match="expected one of fp32, int8, which backend='onnx' can"):
            choose_backend("onnx", "fp16", CPU, None)
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            with pytest.raises(ite.SetupError, match="pip install onnxruntime-gpu"):
                choose_backend("onnx", "fp16", torch.device("cuda"), None)

    @pytest.mark.parametrize(("backend", "module"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
    def test_a_backend_that_is_not_installed(self, backend: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ite.SetupError, match=rf"pip install .*\[{backend}\]'"):
            ite.load("blip_demo", device="cpu", backend=backend)

    @pytest.mark.parametrize("backend", NEEDED)
    def test_a_model_that_makes_no_vectors(self, backend: str, weights: dict[str, Path], vocabulary: Path) -> None:
        need(backend)
        options: dict[str, Any] = {"tokenizer": vocabulary, "device": "cpu"}
        model = ite.load(weights["blip_caption_base"], backend=backend, **options)
        assert set(model.info["quality"]) == {"states"} and "image" not in model.runtime.parts
        exact = ite.load(weights["blip_caption_base"], **options)
        assert model.caption(PICTURES) == exact.caption(PICTURES)
        assert "image" not in model.runtime.parts  # no second copy

    def test_unusable_calibration(self, weights: dict[str, Path], vocabulary: Path) -> None:
        need("openvino")
        settings: dict[str, Any] = {"tokenizer": vocabulary, "backend": "openvino", "precision": "int8"}
        with pytest.raises(ite.InputError, match="at least 8 pictures, got 3"):
            ite.load(weights["blip_base"], modality="image", calibration={"image": PICTURES[:3]}, **settings)
        with pytest.raises(ite.ImageError, match=r"item 6: no such file") as error:
            ite.load(
                weights["blip_base"],
                modality="image",
                calibration={"image": [*PICTURES, "no.jpg", "no.png"]},
                **settings,
            )
        assert error.value.index == 6
        for wrong, got in (({"pictures": PICTURES}, "'pictures'"), (PICTURES, "list")):
            with pytest.raises(ite.InputError, match=f"got {got} for precision='int8'"):
                ite.load(weights["blip_base"], calibration=wrong, **settings)


def test_exports_in_two_threads_leave_the_process_as_it_was() -> None:
    from image_text_embedding.inference.backends.quiet_exporters import quietly

    before = sys.stdout, logging.getLogger().level, list(warnings.filters)
    first_in, first_out = threading.Event(), threading.Event()

    def first() -> None:
        with quietly():
            first_in.set()
            # Time for the other thread to enter, if nothing stops it.
            first_out.wait(0.2)
        first_out.set()

    def second() -> None:
        assert first_in.wait(WAIT)
        with quietly():
            assert first_out.wait(WAIT)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert (sys.stdout, logging.getLogger().level, list(warnings.filters)) == before


CTRL_C = """
import gc, os, signal, sys, threading
from pathlib import Path
from image_text_embedding.inference.backends.compiled_tower import OpenVINOGraph

graphs = [OpenVINOGraph(Path(sys.argv[1]), "f32", 1) for _ in range(3)]
del graphs[0]
thread = threading.Thread(target=graphs.clear)
thread.start(); thread.join(); gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_models_are_gone(weights: dict[str, Path], vocabulary: Path) -> None:
    """OpenVINO left the thread a signal stack that was no longer mapped: Ctrl-C then was a segmentation fault."""
    need("openvino")
    model = ite.load(weights["blip_itm_base_coco"], tokenizer=vocabulary, device="cpu", backend="openvino")
    file = model.runtime.compiled["text"].folder / backend.OPENVINO_FILES[0]
    done = subprocess.run([sys.executable, "-c", CTRL_C, file], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_an_import_reports_to_nobody() -> None:
    need("openvino")
    with backends_quiet():
        assert sys.modules.get("openvino_telemetry", None) is None
