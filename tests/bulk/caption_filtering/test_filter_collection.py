"""What capfilt writes: pairs with their scores, errors, the report, and the pairs to train on."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.collections_of_pictures import table
from support.mean_encoder import Mean
from support.picture_server import EASY, Server, reply

import image_text_embedding as ite
from image_text_embedding.bulk import capfilt, embed
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.foundation.errors import InputError, TextError
from image_text_embedding.training.data.pair_sources import read_pairs as read_training_pairs

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

VOCABULARY = Path(ite.__file__).parent / "demo" / "subwords.txt"

Filtered = Callable[..., tuple[Any, list[dict[str, Any]]]]


def test_pairs_scores_and_what_is_kept(web: Path, filtered: Filtered, demo: Any, vit_passes: list[int]) -> None:
    done, rows = filtered(web, captions=2)
    assert sum(vit_passes) == 6  # one pass in all, as both models are one
    assert (done.total, done.new, done.already, done.failed) == (6, 6, 0, 0)
    texts = [row for row in rows if row["origin"] == "web"]
    assert [Path(row["path"]).name for row in texts] == [f"{i}.png" for i in range(6)]
    assert [row["kept"] for row in texts] == [True, False] * 3
    assert [row["reason"] for row in texts] == [None, "unmatched"] * 3
    assert all(row["origin"] in ("web", "synthetic") and row["width"] == row["height"] for row in rows)
    written = [row for row in rows if row["origin"] == "synthetic"]
    assert 6 < len(written) <= 12 and len({(row["path"], row["caption"]) for row in rows}) == len(rows)
    pictures, captions = [row["path"] for row in rows], [row["caption"] for row in rows]
    assert [row["itm"] for row in rows] == pytest.approx(demo.match(pictures, captions), abs=1e-5)
    cosines = (demo.encode_image(pictures) * demo.encode_text(captions)).sum(1)
    assert [row["cosine"] for row in rows] == pytest.approx(cosines, abs=1e-5)
    assert all(row["kept"] == (row["itm"] > 0.5) == (row["reason"] is None) for row in rows)
    report = json.loads((web.parents[1] / "out" / "report.json").read_text())
    assert report == done.report
    assert report["web"] == {"pairs": 6, "kept": 3, "share": 0.5, "dropped": {"unmatched": 3}}
    assert report["pairs"] == len(rows) and sum(report["pictures_that_keep"].values()) == report["pictures"] == 6
    assert sum(report["histograms"]["itm of web texts"]) == 6


def test_what_train_reads(web: Path, filtered: Filtered, tmp_path: Path) -> None:
    _, rows = filtered(web)
    kept = [(row["path"], row["caption"]) for row in rows if row["kept"]]
    listed = json.loads((tmp_path / "out" / "kept.json").read_text())
    assert [(entry["image"], entry["caption"]) for entry in listed] == kept
    pairs = read_training_pairs(tmp_path / "out" / "kept.json")
    assert [(pairs[i]["image"], pairs[i]["caption"]) for i in range(len(pairs))] == kept
    for name in ("scores.png", "examples.png"):
        with Image.open(tmp_path / "out" / name) as drawn:
            assert drawn.width > 600 and len(drawn.convert("RGB").getcolors(10**6) or []) > 20


def test_seeds_depend_on_the_content_alone(web: Path, filtered: Filtered) -> None:
    """Not on the batch, on other pictures, on names, or on what is written in which shard."""

    def written(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for row in rows:
            if row["origin"] == "synthetic":
                found.setdefault(row["sha256"], []).append(row["caption"])
        return found

    whole = written(filtered(web, captions=3, shard_size=2)[1])
    (web.parent / "4.png").rename(web.parent / "a.png")
    part = written(
        filtered([str(web.parent / "a.png"), str(web.parent / "1.png")], "part", captions=3, batch_size=1)[1]
    )
    assert len(part) == 2 and part.items() <= whole.items()
    one, other = (written(filtered(web.parent / "1.png", f"s{seed}", captions=3, seed=seed)[1]) for seed in (0, 1))
    assert one.items() <= whole.items() and one != other


def test_beams_threshold_and_prompt(web: Path, filtered: Filtered, demo: Any) -> None:
    picture = web.parent / "1.png"
    _, rows = filtered(picture, beam=True, captions=2, threshold=1)
    assert [row["caption"] for row in rows] == demo.caption(str(picture), max_length=28, num_return_sequences=2)
    assert not any(row["kept"] for row in rows)
    _, rows = filtered(web, "all", beam=True, threshold=0)
    assert all(row["kept"] for row in rows)
    _, rows = filtered(picture, "prompt", beam=True, prompt="a picture of")
    assert rows[0]["caption"] == demo.caption(str(picture), "a picture of", max_length=28)


def test_two_models_agree_with_one(
    web: Path, filtered: Filtered, demo: Any, tmp_path: Path, vit_passes: list[int]
) -> None:
    _, one = filtered(web)
    copy = ite.load(demo.save(tmp_path / "copy.safetensors"), tokenizer=VOCABULARY, device="cpu")
    assert copy.info["sha256"] != demo.info["sha256"]
    vit_passes.clear()
    _, two = filtered(web, "two", (copy, demo))
    assert sum(vit_passes) == 12  # one for each model
    for ours, theirs in zip(one, two, strict=True):
        for name in ("itm", "cosine"):
            assert ours.pop(name) == pytest.approx(theirs.pop(name), abs=1e-4)
        assert ours == theirs


def test_several_texts_of_a_picture(web: Path, filtered: Filtered) -> None:
    """Rows in a row with one picture are one picture, which is seen once; a list is several texts."""
    right = gallery()[1]["caption"]
    rows = [{"image": "0.png", "caption": right}, {"image": "0.png", "caption": ["a dog", right, "!"]}]
    rows.append({"image": "1.png", "caption": None})
    web.write_text(json.dumps(rows))
    done, found = filtered(web)
    assert (done.total, done.new) == (2, 2)
    assert [(row["caption"], row["reason"]) for row in found if row["origin"] == "web"] == [
        (right, None),
        ("a dog", "unmatched"),
        ("!", "unusable text"),
    ]
    assert [row["picture"] for row in found] == [0, 0, 0, 0, 1]
    assert done.report["web"]["dropped"] == {"unmatched": 1, "unusable text": 1}


def test_rows_with_pictures_in_different_columns(web: Path, filtered: Filtered, tmp_path: Path) -> None:
    """Paths under "image" and URLs under "url": in the source, and in `kept.json`, which is a source as well."""
    content = (web.parent / "1.png").read_bytes()
    server = Server(lambda wire, path, stop: wire.sendall(reply(content, Content_Length=len(content))))
    try:
        names = [str(web.parent / "0.png"), f"{server.url}/1.png"]
        web.write_text(json.dumps([{"image": "0.png", "caption": "a teddy bear"}, {"url": names[1], "text": "a dog"}]))
        done, rows = filtered(web, threshold=0, limits=EASY)
        assert (done.total, done.new, done.failed) == (2, 2, 0)
        assert [(row["path"], row["caption"]) for row in rows if row["origin"] == "web"] == [
            (names[0], "a teddy bear"),
            (names[1], "a dog"),
        ]
        kept = tmp_path / "out" / "kept.json"
        listed = [("image" if "image" in entry else "url", *entry.values()) for entry in json.loads(kept.read_text())]
        assert [entry for entry in listed if entry[2].startswith("a dog")] == [("url", names[1], "a dog")]
        assert {entry[0] for entry in listed if entry[1] == names[0]} == {"image"}
        pairs = read_training_pairs(kept)
        assert [(pairs[i]["image"], pairs[i]["caption"]) for i in range(len(pairs))] == [row[1:] for row in listed]
        assert len(listed) > 2 and embed(kept, Mean(), tmp_path / "vectors", limits=EASY).failed == 0
        assert {row["path"] for row in table(tmp_path / "vectors")} == {*names}
        again, _ = filtered(kept, "again", threshold=0, limits=EASY)
        assert (again.total, again.failed) == (2, 0)
    finally:
        server.close()


def test_pictures_that_cannot_be_used(web: Path, filtered: Filtered, tmp_path: Path) -> None:
    (web.parent / "2.png").write_bytes((web.parent / "2.png").read_bytes()[:200])
    Image.new("RGB", (50, 20)).save(web.parent / "3.png")
    done, rows = filtered(web, max_errors=0.5, min_edge=32)
    assert (done.new, done.failed) == (5, 1)
    (error,) = pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
    assert error["path"] == str(web.parent / "2.png") and error["error"] == "ImageError"
    small = [row for row in rows if row["path"].endswith("3.png")]
    assert [(row["reason"], row["itm"], row["kept"], row["origin"]) for row in small] == [
        ("too small", None, False, "web")
    ]
    with pytest.raises(InputError, match="stopped: 1 of 3 items cannot be used"):
        filtered(web, "strict", max_errors=0.1, min_edge=32)


def test_exact_and_near_duplicates(web: Path, filtered: Filtered) -> None:
    folder = web.parent
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    with Image.open(folder / "1.png") as picture:
        picture.resize((200, 200)).save(folder / "larger.png")
    names = ["1.png", "copy.png", "larger.png", "4.png"]
    sources = [str(folder / name) for name in names]

    def reasons(out: str, **given: Any) -> list[str | None]:
        _, rows = filtered(sources, out, threshold=0, **given)
        assert all((row["duplicate_of"] == sources[0]) == ("duplicate" in (row["reason"] or "")) for row in rows)
        return [row["reason"] for row in rows]

    assert reasons("none") == [None] * 4
    assert reasons("exact", duplicates="exact") == [None, "duplicate", None, None]
    assert reasons("near", duplicates="near", near=0.97) == [None, "duplicate", "near duplicate", None]


def test_near_duplicates_of_an_earlier_run(web: Path, filtered: Filtered) -> None:
    with Image.open(web.parent / "1.png") as picture:
        picture.resize((200, 200)).save(web.parent / "larger.png")
    given = {"duplicates": "near", "near": 0.97, "threshold": 0}
    filtered(web.parent / "1.png", **given)
    done, rows = filtered([str(web.parent / "1.png"), str(web.parent / "larger.png")], **given)
    assert (done.new, done.already) == (1, 1)
    assert [row["reason"] for row in rows] == [None, "near duplicate"]


def test_pictures_in_a_tar_are_trained_on(web: Path, filtered: Filtered, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("0.png", "1.png"):
            tar.add(web.parent / name, name)
    filtered(tmp_path / "s.tar", threshold=0)
    listed = json.loads((tmp_path / "out" / "kept.json").read_text())
    assert [entry["image"] for entry in listed] == [f"{tmp_path / 's.tar'}/{name}" for name in ("0.png", "1.png")]
    pairs = read_training_pairs(tmp_path / "out" / "kept.json")
    assert [pairs[i]["image"] for i in range(2)] == [(web.parent / name).read_bytes() for name in ("0.png", "1.png")]


def test_models_without_the_head(web: Path, demo: Any, tmp_path: Path) -> None:
    plain = ite.load("blip_demo", device="cpu")  # it has no heads yet
    plain = ite.load(plain.save(tmp_path / "plain.safetensors"), tokenizer=VOCABULARY, device="cpu")
    assert plain.config.tasks == ("embed",)
    with pytest.raises(InputError, match=r"cannot caption.*Models that can caption: .*blip_caption_base"):
        capfilt(web, plain, demo, tmp_path / "out")
    with pytest.raises(InputError, match=r"cannot match.*Models that can match: .*blip_itm_base_coco"):
        capfilt(web, demo, plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"captions": 0}, "captions: expected a whole number of at least 1"),
        ({"threshold": 1.5}, "threshold: expected a number from 0 to 1"),
        ({"near": "much"}, "near: expected a number"),
        ({"duplicates": "exakt"}, "duplicates: expected None, 'exact' or 'near', got 'exakt'.*did you mean"),
        ({"top_p": 0}, "top_p"),
        ({"min_edge": 0}, "min_edge"),
        ({"seed": -1}, "seed"),
        ({"prompt": 3}, "prompt"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_errors": 2}, "max_errors"),
        ({"ray": True}, "expected names of models"),
    ],
)
def test_wrong_settings(web: Path, demo: Any, tmp_path: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"(?i){says}"):
        capfilt(web, demo, demo, tmp_path / "out", **given)


def test_sources_that_are_none(demo: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("caption\na dog\n")
    with pytest.raises(InputError, match="expected pictures, got a table of texts"):
        capfilt(tmp_path / "t.csv", demo, demo, tmp_path / "out")
    with pytest.raises(TextError, match="leaves room to write"):
        capfilt(gallery()[1]["path"], demo, demo, tmp_path / "out", prompt="a dog " * 30, max_length=8)
