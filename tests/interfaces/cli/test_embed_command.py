"""The command embed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collections_of_pictures import table
from support.environment import Run
from support.mean_encoder import Mean

from image_text_embedding.bulk import embed_collection
from image_text_embedding.bulk.embed_collection import embed
from image_text_embedding.foundation.errors import EmbeddingError

pa = pytest.importorskip("pyarrow")


def test_embed_with_the_packaged_model(run: Run, tmp_path: Path) -> None:
    import image_text_embedding as ite
    from image_text_embedding.demo.packaged_gallery import gallery

    (tmp_path / "photos").mkdir()
    for entry in gallery()[:3]:
        (tmp_path / "photos" / Path(entry["path"]).name).write_bytes(Path(entry["path"]).read_bytes())
    out = tmp_path / "out"
    code, said, err = run("embed", tmp_path / "photos", "--model", "blip_demo", "--out", out, "--json")
    summary = json.loads(said)
    assert (code, err) == (0, "") and (summary["new"], summary["rows"], summary["model"]) == (3, 3, "blip_demo")
    rows = table(out)
    expected = ite.load("blip_demo", modality="image").encode_image([row["path"] for row in rows])
    np.testing.assert_allclose(np.array([row["vector"] for row in rows]), expected, atol=1e-5)
    (tmp_path / "photos" / "drawing.psd").write_bytes(b"no picture, and not called one")
    code, said, err = run("embed", tmp_path / "photos", "--model", "blip_demo", "--out", out, "--json")
    assert code == 0 and err.strip().endswith("passed over 1 file: 1 .psd")
    assert json.loads(said)["passed_over"] == {".psd": 1} and json.loads(said)["already"] == 3
    (tmp_path / "photos" / "drawing.psd").unlink()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    code, said, err = run("embed", tmp_path / "photos", "--model", "blip_demo", "--out", out, "--max-errors", "0.5")
    assert code == 1 and said.startswith("0 new, 3 already there, 1 failed") and "errors.parquet" in err
    code, said, err = run("embed", tmp_path / "photos", "--model", "blip_demo", "--out", out)
    assert code == 1 and said == "" and "more than max_errors" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("extra", "ray"),
    [([], False), (["--ray"], True), (["--ray", "auto"], "auto"), (["--ray", "ray://h:1"], "ray://h:1")],
)
def test_what_the_command_hands_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str], ray: Any
) -> None:
    given: dict[str, Any] = {}

    def embed(*arguments: Any, **options: Any) -> Any:
        given.update(options, arguments=arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(embed_collection, "embed", embed)
    command = ["embed", *extra, "a.jpg", "b.jpg", "--model", "m", "--out", str(tmp_path / "o")]
    code, _, err = run(*command, "--precision", "int8", "--batch-size", "7", "--checksum")
    assert code == 130 and "stopped" in err
    assert given["arguments"] == (["a.jpg", "b.jpg"], "m", tmp_path / "o") and given["ray"] == ray
    assert (given["precision"], given["batch_size"], "backend" in given) == ("int8", 7, False)
    assert given["checksum"] is True


@pytest.mark.parametrize(
    "extra", [["--batch-size", "0"], ["--format", "csv"], ["--max-errors", "2"], ["--modality", "x"]]
)
def test_wrong_usage(run: Run, tmp_path: Path, extra: list[str]) -> None:
    assert run("embed", tmp_path, "--model", "blip_demo", "--out", tmp_path / "o", *extra)[0] == 2
    assert run("embed", tmp_path)[0] == 2


def test_a_share_is_from_0_to_1(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="max_errors"):
        embed(tmp_path, Mean(), tmp_path / "o", max_errors=2)
