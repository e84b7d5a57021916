"""`backend="auto"` and `precision="auto"`: the choice, what is kept of it, and the command that shows it."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import image_text_embedding as ite
from image_text_embedding.foundation.cache_folder import HOME_VARIABLE
from image_text_embedding.inference.backends import automatic_choice
from image_text_embedding.inference.backends.automatic_choice import candidates, pick

CPU = torch.device("cpu")


def row(backend: str, precision: str, pictures: float, cosine: float) -> dict[str, Any]:
    return {
        "backend": backend,
        "precision": precision,
        "pictures_per_second": pictures,
        "texts_per_second": 100.0,
        "cosine_min": cosine,
        "seconds_per_pair": 1 / pictures + 1 / 100,
        "memory": 1,
    }


MEASURED = [row("torch", "fp32", 2, 1.0), row("torch", "bf16", 5, 0.9999), row("onnx", "int8", 9, 0.994)]


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def measured(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was measured, each time; the figures are made up."""
    asked: list[list[str]] = []

    def measure(resolved: Any, tokenizer: Any, device: Any, wanted: Any, *_: Any) -> list[dict[str, Any]]:
        asked.append([f"{each.name} {each.precision}" for each in wanted])
        found = {(each["backend"], each["precision"]): each for each in MEASURED}
        slow = [row(each.name, each.precision, 1, 1.0) for each in wanted]
        return [found.get((each["backend"], each["precision"]), each) for each in slow]

    monkeypatch.setattr(automatic_choice, "measure", measure)
    monkeypatch.setattr(automatic_choice, "has_bf16_units", lambda: True)
    return asked


class TestPick:
    @pytest.mark.parametrize(
        ("min_cosine", "expected"), [(0.999, ("torch", "bf16")), (0.99, ("onnx", "int8")), (1.0, ("torch", "fp32"))]
    )
    def test_the_fastest_that_is_accurate_enough(self, min_cosine: float, expected: tuple[str, str]) -> None:
        chosen = pick(MEASURED, min_cosine)
        assert (chosen.name, chosen.precision) == expected
        assert chosen.choice is not None and " ".join(expected) in chosen.choice["why"]
        assert chosen.choice["measured"] == MEASURED

    def test_errors_are_passed_over(self) -> None:
        broken = {"backend": "openvino", "precision": "fp32", "error": "it cannot"}
        assert pick([broken, MEASURED[0]], 0.999).name == "torch"

    def test_nothing_is_accurate_enough(self) -> None:
        with pytest.raises(ite.ComputeError, match=r"at least 0\.999 to torch in fp32, got onnx int8 0\.99400: lower"):
            pick(MEASURED[2:], 0.999)
        with pytest.raises(ite.ComputeError, match="none could be computed"):
            pick([], 0.999)


class TestCandidates:
    def test_only_what_this_processor_is_good_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for units in (True, False):
            monkeypatch.setattr(automatic_choice, "has_bf16_units", lambda units=units: units)
            found = [each.precision for each in candidates("torch", "auto", CPU)]
            assert found == (["fp32", "bf16"] if units else ["fp32"])
        assert [each.precision for each in candidates("torch", "fp16", CPU)] == ["fp16"]  # who asks for it gets it

    def test_what_is_unknown_or_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ite.InputError, match="backend: expected one of"):
            candidates("torsch", "auto", CPU)
        with pytest.raises(ite.InputError, match="precision: expected one of"):
            candidates("auto", "fp23", CPU)
        for module in ("openvino", "onnxruntime"):
            monkeypatch.setitem(__import__("sys").modules, module, None)
        assert {each.name for each in candidates("auto", "auto", CPU)} == {"torch"}
        with pytest.raises(ite.SetupError, match="pip install"):
            candidates("openvino", "auto", CPU)


class TestLoad:
    def test_measured_once(self, measured: list[list[str]], own_home: Path) -> None:
        first, second = (ite.load("blip_demo", device="cpu", precision="auto") for _ in range(2))
        assert len(measured) == 1 and measured[0] == ["torch fp32", "torch bf16"]
        assert first.precision == second.precision == "bf16" and first.backend == "torch"
        assert first.info["choice"]["min_cosine"] == 0.999 and json.dumps(first.info)
        assert "torch bf16 is the fastest of 2" in second.info["choice"]["why"]
        assert "choice" not in ite.load("blip_demo", device="cpu").info
        assert len(list((own_home / "choices").glob("blip_demo-*.json"))) == 1

    def test_another_bar_needs_no_other_measurement(self, measured: list[list[str]]) -> None:
        options: dict[str, Any] = {"device": "cpu", "precision": "auto"}
        assert ite.load("blip_demo", **options).precision == "bf16"
        assert ite.load("blip_demo", min_cosine=1.0, **options).precision == "fp32"
        assert len(measured) == 1

    def test_other_weights_do(self, measured: list[list[str]]) -> None:
        for name in ("blip_demo", "albef_demo"):
            ite.load(name, device="cpu", precision="auto")
        assert len(measured) == 2

    @pytest.mark.parametrize(
        "damage",
        [b"", b"{", b"[]", b'{"key": 1, "measured": []}', b"\xff", b'{"measured": [{}]}'],
    )
    def test_a_damaged_file_is_measured_again(self, damage: bytes, measured: list[list[str]], own_home: Path) -> None:
        ite.load("blip_demo", device="cpu", precision="auto")
        (kept,) = (own_home / "choices").iterdir()
        good = kept.read_bytes()
        kept.write_bytes(damage)
        with pytest.warns(UserWarning, match=r"damaged .*: measuring again"):
            assert ite.load("blip_demo", device="cpu", precision="auto").precision == "bf16"
        assert len(measured) == 2 and kept.read_bytes() == good

    def test_figures_that_make_no_sense_are_measured_again(self, measured: list[list[str]], own_home: Path) -> None:
        ite.load("blip_demo", device="cpu", precision="auto")
        (kept,) = (own_home / "choices").iterdir()
        for name, value in (("cosine_min", "high"), ("backend", "rm -rf"), ("seconds_per_pair", None)):
            content = json.loads(kept.read_bytes())
            content["measured"][1][name] = value
            kept.write_text(json.dumps(content))
            with pytest.warns(UserWarning, match="damaged"):
                ite.load("blip_demo", device="cpu", precision="auto")

    def test_a_folder_that_cannot_be_written(
        self, measured: list[list[str]], own_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (own_home / "choices").write_text("in the way")
        with pytest.warns(UserWarning, match="cannot be kept"):
            assert ite.load("blip_demo", device="cpu", precision="auto").precision == "bf16"

    def test_what_is_given_is_not_measured(self, measured: list[list[str]]) -> None:
        ite.load("blip_demo", device="cpu", precision="bf16")
        ite.load("blip_demo", device="cpu")
        assert measured == []

    def test_wrong_settings(self, measured: list[list[str]]) -> None:
        for value in (1.5, -0.1, "high", float("nan"), True):
            with pytest.raises(ite.InputError, match="min_cosine: expected a number from 0 to 1"):
                ite.load("blip_demo", precision="auto", min_cosine=value)
        with pytest.raises(ite.InputError, match="calibration and dtype belong to"):
            ite.load("blip_demo", precision="auto", dtype="bf16")
        with pytest.raises(ite.InputError, match="calibration and dtype belong to"):
            ite.load("blip_demo", backend="auto", calibration={"text": ["a"] * 8})
        assert measured == []

    def test_a_pickle_chooses_again(self, measured: list[list[str]]) -> None:
        model = ite.load("blip_demo", device="cpu", precision="auto", min_cosine=1.0)
        assert pickle.loads(pickle.dumps(model)).precision == "fp32"

    def test_an_operator(self, measured: list[list[str]]) -> None:
        from image_text_embedding.blip import Blip

        operator = Blip(model_name="blip_demo", modality="text", device="cpu", precision="auto")
        assert operator("a dog").shape == (128,) and len(measured) == 1


def test_a_real_measurement(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic_choice, "SECONDS", 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ite.load("blip_demo", device="cpu", precision="auto")
    rows = model.info["choice"]["measured"]
    exact = rows[0]
    assert (exact["backend"], exact["precision"]) == ("torch", "fp32") and exact["cosine_min"] > 0.99999
    assert all(each["pictures_per_second"] > 0 and each["texts_per_second"] > 0 for each in rows)
    assert all(0.999 < each["cosine_min"] < 1.00001 for each in rows)
    assert model.encode_text("a dog").shape == (128,)


def test_a_model_that_makes_no_vectors(
    own_home: Path, small_weights: dict[str, Path], vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic_choice, "SECONDS", 0.05)
    model = ite.load(small_weights["blip_caption_base"], tokenizer=vocabulary, device="cpu", precision="auto")
    for each in model.info["choice"]["measured"]:
        assert each["texts_per_second"] is None and each["pictures_per_second"] > 0 and each["cosine_min"] > 0.99
    assert isinstance(model.caption(Image.new("RGB", (64, 64))), str)


class TestCommand:
    def test_table_and_chart(self, measured: list[list[str]], run: Any, tmp_path: Path) -> None:
        chart = tmp_path / "speeds.png"
        code, out, error = run("benchmark", "blip_demo", "--plot", chart)
        assert code == 0, error
        lines = out.splitlines()
        assert lines[0].split()[:3] == ["backend", "pictures/s", "texts/s"]
        assert any(line.startswith("torch bf16") and line.endswith("auto") for line in lines)
        assert "torch bf16 is the fastest of" in lines[-1]
        with Image.open(chart) as picture:
            assert picture.width > 800
        _, out, _ = run("benchmark", "blip_demo", "--json")
        assert json.loads(out)["chosen"] == ["torch", "bf16"] and len(measured) == 2

    def test_a_chart_that_cannot_be_written(self, measured: list[list[str]], run: Any, tmp_path: Path) -> None:
        code, _, error = run("benchmark", "--plot", tmp_path / "none" / "x.png")
        assert code == 1 and "--plot: cannot write" in error
