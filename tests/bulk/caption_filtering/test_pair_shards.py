"""Killed, stopped and repeated runs of capfilt: every picture once, every pair once, and the same as without a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.environment import TESTS

from image_text_embedding.bulk import embed, read_pairs
from image_text_embedding.bulk.caption_filtering import pair_judging
from image_text_embedding.bulk.shard_folder import ShardFolder
from image_text_embedding.foundation.errors import ConfigError, InputError

pa = pytest.importorskip("pyarrow")

Filtered = Callable[..., tuple[Any, list[dict[str, Any]]]]

KILLED = """
import os, sys
from image_text_embedding import bulk
count, replace = 0, os.replace
def stop(*given):
    global count
    if "pairs-" in str(given[1]):
        count += 1
        if count == 2 and sys.argv[3] == "before":
            print("now", flush=True)
            sys.stdin.read()  # until we are killed
    replace(*given)
    if count == 2 and sys.argv[3] == "after":
        print("now", flush=True)
        sys.stdin.read()
os.replace = stop
bulk.capfilt(sys.argv[1], "blip_demo", "blip_demo", sys.argv[2], max_length=28, shard_size=2, batch_size=1, workers=1,
             device="cpu")
"""


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> bool:
    for one, other in zip(ours, theirs, strict=True):
        for name in ("itm", "cosine"):
            assert one.pop(name) == pytest.approx(other.pop(name), abs=1e-4)
        assert one == other
    return True


@pytest.mark.parametrize(("moment", "kept"), [("before", 2), ("after", 4)])
def test_a_kill_loses_at_most_the_shard_in_hand(
    web: Path, filtered: Filtered, tmp_path: Path, moment: str, kept: int
) -> None:
    out = tmp_path / "out"
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, web, out, moment],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS,
    )
    assert run.stdout and run.stdin
    late = threading.Timer(300, run.kill)
    late.start()
    with run.stdout, run.stdin:
        assert run.stdout.readline() == "now\n"
        run.send_signal(signal.SIGKILL)
        assert run.wait(60) == -signal.SIGKILL
    late.cancel()
    rows = [row for table in read_pairs(out) for row in table.to_pylist()]
    assert sorted({row["picture"] for row in rows}) == list(range(kept)) and not (out / "kept.json").exists()
    done, rows = filtered(web, shard_size=2)
    assert (done.new, done.already) == (6 - kept, kept)
    assert same(rows, filtered(web, "whole", shard_size=2)[1])
    assert (out / "kept.json").read_bytes() == (tmp_path / "whole" / "kept.json").read_bytes()
    assert list(out.glob(".*.part")) == []


def test_ctrl_c_keeps_all_that_is_done(web: Path, filtered: Filtered, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, left = pair_judging.PairJudge._compute, [2]

    def stopping(self: Any, pictures: list[Any]) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return compute(self, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(pair_judging.PairJudge, "_compute", stopping)
        with pytest.raises(KeyboardInterrupt):
            filtered(web, batch_size=2)
    done, rows = filtered(web)
    assert (done.new, done.already) == (2, 4)
    assert same(rows, filtered(web, "whole")[1])


def test_what_is_there_is_not_seen_again_and_what_changed_is(
    web: Path, filtered: Filtered, vit_passes: list[int]
) -> None:
    _, before = filtered(web)
    vit_passes.clear()
    assert filtered(web)[0].already == 6 and vit_passes == []
    entries = json.loads(web.read_text())
    entries[1]["caption"] = entries[0]["caption"]  # another web text
    entries.append({"image": "0.png", "caption": "a dog"})  # a further text of a picture that is not the row before
    web.write_text(json.dumps(entries))
    done, after = filtered(web)
    assert (done.total, done.new, done.already) == (7, 2, 5) and sum(vit_passes) == 2
    assert after[: len(before)] == before
    new = after[len(before) :]
    assert [(Path(row["path"]).name, row["origin"], row["caption"]) for row in new] == [
        ("1.png", "web", entries[0]["caption"]),
        ("0.png", "web", "a dog"),
    ]
    os.utime(web.parent / "2.png", ns=(1, 1))  # written again, with the same content
    assert filtered(web)[0].already == 7


def test_a_picture_that_makes_no_finite_values_is_an_error_of_its_own(
    web: Path, filtered: Filtered, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, broken = pair_judging.states_of, []

    def some(runtime: Any, pixels: list[Any]) -> Any:
        found = states(runtime, pixels)
        broken[:] = broken or [pixels[1].sum()]
        for i, picture in enumerate(pixels):
            if picture.sum() == broken[0]:
                found[i] = float("nan")
        return runtime.require_finite(found)

    monkeypatch.setattr(pair_judging, "states_of", some)
    done, rows = filtered(web, max_errors=0.5)
    assert (done.new, done.failed) == (5, 1)
    assert {Path(row["path"]).name for row in rows} == {f"{i}.png" for i in (0, 2, 3, 4, 5)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"threshold": 0.6}, "threshold was 0.5, got 0.6"),
        ({"seed": 1}, "seed was 0, got 1"),
        ({"captions": 2}, "captions was 1, got 2"),
    ],
)
def test_other_settings_are_refused(web: Path, filtered: Filtered, given: dict[str, Any], says: str) -> None:
    filtered(web.parent / "1.png")
    with pytest.raises(ConfigError, match=f"cannot resume with different settings: {says}"):
        filtered(web.parent / "1.png", **given)


def test_folders_of_other_kinds_are_refused(web: Path, filtered: Filtered, demo: Any, tmp_path: Path) -> None:
    picture = web.parent / "1.png"
    filtered(picture)
    with pytest.raises(ConfigError, match="made with another model"):
        embed(picture, demo, tmp_path / "out")
    embed(picture, demo, tmp_path / "vectors")
    with pytest.raises(ConfigError, match="expected a folder that capfilt wrote"):
        filtered(picture, "vectors")
    with pytest.raises(InputError, match="expected a folder that capfilt wrote"):
        next(read_pairs(tmp_path / "vectors"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest["filter"]["sha256"] = "0" * 64
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="the filter: made with another model"):
        filtered(picture)


def test_damaged_shards_and_two_runs_at_once(web: Path, filtered: Filtered, monkeypatch: pytest.MonkeyPatch) -> None:
    out = web.parents[1] / "out"
    close = ShardFolder.close

    def second_run(self: ShardFolder[Any]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ShardFolder, "close", close)
            with pytest.raises(InputError, match="another run is writing there"):
                filtered(web)
        close(self)

    with monkeypatch.context() as patch:
        patch.setattr(ShardFolder, "close", second_run)
        filtered(web, shard_size=2)
    (out / "pairs-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"pairs-00001\.parquet: the shard is damaged"):
        filtered(web)
    (out / "pairs-00001.parquet").unlink()
    assert filtered(web)[0].new == 2
