"""Bulk embedding on Ray: two workers on this machine, one of them killed on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray")

from support.environment import TESTS  # noqa: E402

from image_text_embedding.bulk import capfilt, item_embedding, read_pairs  # noqa: E402
from image_text_embedding.bulk.embed_collection import embed  # noqa: E402
from image_text_embedding.bulk.shard_reading import read_shards  # noqa: E402

pytestmark = pytest.mark.ray
VICTIM = "17.png"


def kill_once() -> None:
    """In each worker's process as it starts: the first that has the victim's vector in hand dies of it, once."""
    import signal

    mark, original = Path(os.environ["ITE_TEST_MARK"]), item_embedding.item_result

    def done(row: Any, vector: Any) -> Any:
        if row.path.endswith(VICTIM):
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                return original(row, vector)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(row, vector)

    item_embedding.item_result = done


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Path]:
    """Two; and the file that says that one was killed."""
    mark = tmp_path / "killed"
    ray.init(
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={
            "env_vars": {"ITE_TEST_MARK": str(mark), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(_path())},
            "worker_process_setup_hook": "test_ray_execution.kill_once",
        },
    )
    yield mark
    ray.shutdown()


def _path() -> list[str]:
    return [str(Path(__file__).parent), str(TESTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]


def test_a_worker_that_is_killed_costs_nothing(workers: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(24):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(photos / f"{i:02d}.png")
    (photos / "03.png").write_bytes(b"no picture")
    embed(photos, "blip_demo", tmp_path / "alone", shard_size=10, batch_size=4)
    given: dict[str, Any] = {"shard_size": 10, "batch_size": 4, "workers": 2, "ray": True}
    done = embed(photos, "blip_demo", tmp_path / "out", **given)
    assert workers.exists()
    assert (done.new, done.failed, done.rows) == (23, 1, 23)
    ours, theirs = (
        [row for part in read_shards(tmp_path / out) for row in part.to_pylist()] for out in ("out", "alone")
    )
    vectors = [np.array([row.pop("vector") for row in rows]) for rows in (ours, theirs)]
    assert ours == theirs
    np.testing.assert_allclose(*vectors, atol=1e-5)
    names = [sorted(file.name for file in (tmp_path / out).iterdir()) for out in ("out", "alone")]
    assert names[0] == names[1]
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (tmp_path / "alone" / "manifest.json").read_bytes()
    assert embed(photos, "blip_demo", tmp_path / "out", **given).already == 23
    check_capfilt(photos, tmp_path)


def check_capfilt(photos: Path, tmp_path: Path) -> None:
    """CapFilt on the same cluster gives the rows of CapFilt on this machine."""
    found = []
    for name, ray_or_not in (("clean", True), ("clean-alone", False)):
        out = tmp_path / name
        done = capfilt(photos, "blip_demo", "blip_demo", out, batch_size=4, workers=1, ray=ray_or_not)
        assert (done.new, done.failed) == (23, 1)
        found.append(sorted((row for part in read_pairs(out) for row in part.to_pylist()), key=lambda row: row["path"]))
    scores = [np.array([(row.pop("itm"), row.pop("cosine")) for row in rows]) for rows in found]
    np.testing.assert_allclose(*scores, atol=1e-4)
    assert found[0] == found[1] and len(found[0]) == 23
