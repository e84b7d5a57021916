"""The commands `models`, `info` and `cache`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.environment import Run

import image_text_embedding as ite
from image_text_embedding.models.checkpoints.url_download import url_cache_path
from image_text_embedding.models.config_files import model_config


def test_models_as_json_and_as_a_table(home: Path, run: Run, tmp_path: Path) -> None:
    code, out, err = run("models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (code, err) == (0, "") and list(rows) == ite.list_models()
    source = ite.model_config("blip_base").source.url
    assert source is not None and url_cache_path(source).is_file()
    assert rows["blip_base"] == {
        "name": "blip_base",
        "family": "blip",
        "tasks": ["embed", "match", "caption"],
        "image_size": 224,
        "dim": 256,
        "license": "BSD-3-Clause",
        "source": source,
        "cached": True,
    }
    assert rows["blip_itm_base_coco"]["source"] == "Salesforce/blip-itm-base-coco"
    assert rows["blip_itm_base_coco"]["cached"] is False

    code, out, _ = run("models")
    header, *lines = out.splitlines()
    assert code == 0 and header.split() == ["name", "family", "tasks", "size", "dim", "cached"]
    for line, row in zip(lines, rows.values(), strict=True):
        dim, cached = "-" if row["dim"] is None else str(row["dim"]), "yes" if row["cached"] else "no"
        cells = [row["name"], row["family"], ",".join(row["tasks"]), str(row["image_size"]), dim, cached]
        # Every column is a word, so that awk can cut it out, and a line has no padding.
        assert line.split() == cells and line == line.strip() and len(line) <= 80
    code, out, _ = run("models", "--long")
    assert code == 0 and [line.split()[-1] for line in out.splitlines()[1:]] == [row["source"] for row in rows.values()]


def test_info_describes_what_is_cached_and_downloads_nothing(run: Run) -> None:
    code, out, _ = run("info", "--json")
    facts: dict[str, Any] = json.loads(out)
    assert code == 0 and facts["name"] == "blip_demo" and facts["cached"] is True
    assert facts["sha256"] == ite.load("blip_demo").info["sha256"] and facts["license"] == "Apache-2.0"
    code, out, _ = run("info", "blip-large", "--json")
    assert code == 0 and json.loads(out)["cached"] is False and "sha256" not in json.loads(out)
    code, out, _ = run("info", "blip_large")
    assert code == 0 and "image size" in out and "224" in out
    code, out, _ = run("info")
    lines = out.splitlines()
    assert "name: blip_demo" in lines and "cached: yes" in lines and "revision: -" in lines
    assert "preprocessing image mean: 0.48145466, 0.4578275, 0.40821073" in lines and "{" not in out
    assert run("info", "salesforce/BLIP-itm-base-coco", "--json")[1] == run("info", "blip_itm_base_coco", "--json")[1]
    code, _, err = run("info", "blip_bsae")
    assert code == 1 and "unknown model 'blip_bsae' — did you mean 'blip_base'?" in err


def test_info_is_wrapped_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = run("info", "blip_large")
    assert code == 0 and max(map(len, out.splitlines())) <= 60
    assert "\nsummary: BLIP large, pretrained on 129M pairs\n" in out
    assert "\nsummary: demonstration model on drawn scenes, packaged;\n  vectors, matching" in run("info")[1]


def test_cache_lists_and_removes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_TEXT_EMBEDDING_HOME", str(tmp_path))
    assert run("cache") == (0, "no downloaded weights are in the cache\n", "")
    url = model_config("albef_coco").source.url
    assert url is not None
    path = url_cache_path(url)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 3_000_000)
    code, out, _ = run("cache", "--json")
    assert code == 0 and json.loads(out) == [{"name": "albef_coco", "bytes": 3_000_000, "path": str(path)}]
    assert run("cache")[1].split()[-3:] == ["albef_coco", "3", str(path)]
    assert run("cache", "--remove", "albef_coco")[:2] == (0, f"removed {path}\n") and not path.exists()
    code, _, err = run("cache", "--remove", "blip_demo")
    assert code == 1 and "no downloaded weights" in err
    assert (Path(ite.__file__).parent / "demo" / "blip_demo.safetensors").is_file()
