"""Videos in an index: adding, finding, re-ranking, removing, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.environment import Run
from support.packaged_pictures import CAPTIONS, PATHS, Gallery
from support.videos import write_video

from image_text_embedding.foundation.errors import InputError, VideoError

COUNT = 6


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A video of each of a few packaged pictures, which a camera crosses."""
    folder = tmp_path_factory.mktemp("clips")
    paths = []
    for number in range(COUNT):
        picture = np.array(Image.open(PATHS[number]).convert("RGB").resize((144, 144)))
        frames = [picture[i : i + 128, i : i + 128] for i in range(16)]
        write_video(folder / f"{number}.mp4", frames)
        paths.append(str(folder / f"{number}.mp4"))
    return paths


@pytest.fixture
def gallery(tmp_path: Path, model: Any, clips: list[str]) -> Any:
    with Gallery.open(tmp_path / "videos.db", model) as found:
        assert found.add(PATHS[:COUNT], CAPTIONS[:COUNT], videos=clips) == 3 * COUNT
        yield found


def test_texts_find_videos(gallery: Any, model: Any, clips: list[str]) -> None:
    for number, text in enumerate(CAPTIONS[:COUNT]):
        found = gallery.search(text, k=3, find="video")
        assert {result.kind for result in found} == {"video"} and found[0].id.startswith("video:")
        assert found[0].path == clips[number]
        assert found[0].itc == pytest.approx(
            float(model.encode_video(clips[number]) @ model.encode_text(text)), abs=1e-5
        )
    assert {result.kind for result in gallery.search(CAPTIONS[0], k=20)} == {"image"}


def test_reranking_equals_that_of_the_encoder(
    gallery: Any, model: Any, clips: list[str], vit_passes: list[int]
) -> None:
    expected = model.rerank_video(CAPTIONS[1], clips, k=4, modality="text")
    found = gallery.search(CAPTIONS[1], k=4, rerank=4, find="video")
    assert [result.path for result in found] == [clips[index] for index, _ in expected]
    np.testing.assert_allclose([result.score for result in found], [score for _, score in expected], atol=1e-4)
    vit_passes.clear()
    assert gallery.search(CAPTIONS[1], k=4, rerank=4, find="video") == found
    assert vit_passes == [], "the states are in the cache"


def test_a_video_finds_texts_pictures_and_videos(gallery: Any, clips: list[str]) -> None:
    for find, expected in (("video", clips[2]), ("image", PATHS[2])):
        assert gallery.search(clips[2], k=1, modality="video", find=find)[0].path == expected
    assert gallery.search(clips[2], k=1, rerank=3, modality="video", find="text")[0].text == CAPTIONS[2]
    with pytest.raises(InputError, match="a text with a picture"):
        gallery.search(clips[2], rerank=3, modality="video", find="image")
    with pytest.raises(VideoError, match="no such file"):
        gallery.search("missing.mp4", modality="video")


def test_nothing_is_added_twice_and_bad_videos_are_named(gallery: Any, clips: list[str], tmp_path: Path) -> None:
    content = Path(clips[0]).read_bytes()
    frames = [np.array(Image.open(PATHS[9]).convert("RGB"))] * 3
    assert gallery.add(videos=clips) == 0 == gallery.add(videos=content)
    assert gallery.add(videos=frames) == 1 and gallery.add(videos=[frames]) == 0
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    new, errors = gallery.add(
        PATHS[:1], videos=[clips[0], tmp_path / "bad.mp4", tmp_path / "none.mp4"], on_error="skip"
    )
    assert new == 0 and [index for index, _ in errors] == [2, 3]
    assert all(isinstance(error, VideoError) for _, error in errors)
    with pytest.raises(VideoError, match="item 1: "):
        gallery.add(videos=[clips[0], b"no video"])
    with pytest.raises(VideoError, match=r"^the bytes: "):
        gallery.add(videos=b"no video")


def test_removing(gallery: Any, clips: list[str]) -> None:
    assert gallery.remove(clips[0]) == 1 and len(gallery) == 3 * COUNT - 1
    assert clips[0] not in [result.path for result in gallery.search(CAPTIONS[0], k=COUNT, find="video")]


def test_commands(run: Run, clips: list[str], tmp_path: Path) -> None:
    folder = Path(clips[0]).parent
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    uri = tmp_path / "c.db"
    code, out, err = run("index", folder, "--modality", "video", "--uri", uri)
    assert code == 0 and f"{COUNT} new videos" in out, err
    code, out, err = run("index", tmp_path / "broken.mp4", "--modality", "video", "--uri", uri, "--json")
    assert code == 1 and json.loads(out)["failed"] == 1 and "expected a video" in err
    assert "found none" in run("index", PATHS[0], "--modality", "video", "--uri", uri)[2]
    sheet = tmp_path / "sheet.png"
    code, out, err = run("search", CAPTIONS[0], "--find", "video", "--uri", uri, "--json", "--sheet", sheet)
    assert code == 0 and json.loads(out)[0]["path"] == clips[0] and sheet.exists(), err
    code, out, err = run("match", CAPTIONS[0], *clips[:2], tmp_path / "broken.mp4", "--video", "--json")
    rows = json.loads(out)
    assert code == 1 and rows[0]["probability"] > rows[1]["probability"] and "error" in rows[2]
