"""`doctor` finds what is broken, whatever it is, and says what to do; what is only absent is no fault."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from support.environment import Run

import image_text_embedding as ite
from image_text_embedding.interfaces import doctor
from image_text_embedding.interfaces.doctor import ABSENT, BROKEN, OK, Finding, examine


def found(name: str) -> Finding:
    return next(each for each in examine() if each.name == name)


def test_a_good_installation(run: Run) -> None:
    code, out, err = run("doctor")
    assert code == 0 and err == "" and out.splitlines()[-1] == "everything works"
    code, out, _ = run("doctor", "--json")
    answer: dict[str, Any] = json.loads(out)
    states = {each["name"]: each["state"] for each in answer["findings"]}
    assert code == 0 and answer["ok"] and BROKEN not in states.values()
    assert {"package", "python", "dependencies", "cache", "hub cache", "models", "towhee", "cpu"} <= states.keys()
    texts = {each["name"]: each["text"] for each in answer["findings"]}
    assert f"torch {metadata.version('torch')}" in texts["dependencies"]
    assert f"image-text-embedding {ite.__version__}" in texts["package"] and "blip_demo" in texts["models"]
    extras = set(metadata.metadata("image-text-embedding").get_all("Provides-Extra") or ()) - {"test"}
    assert {name.removeprefix("extra ") for name in states if name.startswith("extra ")} == extras
    assert states["vector on cpu"] == OK


def test_a_wrong_vector(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TEXT", "two dogs")
    code, out, _ = run("doctor")
    assert code == 1 and "BROKEN  vector on cpu   expected the cosine 0.3131 of blip_demo, got " in out
    assert "pip install --force-reinstall" in out and out.splitlines()[-1].endswith("checks found a fault")


def test_a_model_that_cannot_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("illegal\n instruction")

    monkeypatch.setattr(torch.nn.functional, "layer_norm", fail)
    finding = found("vector on cpu")
    assert finding.state == BROKEN and "illegal instruction" in finding.text and "torch" in finding.fix


@pytest.mark.parametrize("version", ["0.4.12", None])
def test_a_dependency_that_does_not_fit(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def other(name: str) -> str:
        if name != "timm":
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", other)
    broken = [each for each in examine() if each.state == BROKEN]
    reason = "timm 0.4.12 is installed, >=1.0.9 is needed" if version else "timm is missing"
    assert broken == [Finding("dependencies", BROKEN, reason, "pip install 'timm>=1.0.9'")]


def test_an_extra_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def without(name: str) -> str:
        if name == "pyarrow":  # an extra of an extra
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", without)
    for extra in ("bulk", "search", "ray"):
        finding = found(f"extra {extra}")
        assert finding.state == ABSENT and "pyarrow is missing" in finding.text
        assert finding.fix.startswith("pip install") and finding.fix.endswith(f"[{extra}]'")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMAGE_TEXT_EMBEDDING_HOME", str(tmp_path / "file"))
    finding = found("cache")
    assert finding.state == BROKEN and "$IMAGE_TEXT_EMBEDDING_HOME" in finding.fix
    monkeypatch.setenv("IMAGE_TEXT_EMBEDDING_HOME", str(tmp_path / "new" / "folder"))
    assert found("cache").state == OK and not (tmp_path / "new").exists()  # nothing is changed


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ite.ConfigError("no configs/ in the package")

    monkeypatch.setattr(doctor, "list_models", fail)
    findings = {each.name: each for each in examine()}
    assert findings["models"].state == BROKEN and "no configs/" in findings["models"].text
    assert findings["towhee"].state == OK  # the others go on
