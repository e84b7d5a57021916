"""Which frames stand for a video, whatever contains it; and every form in which a video may be given."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.picture_server import Server
from support.videos import number_of, numbered, video_bytes, write_video

from image_text_embedding.foundation.errors import FetchError, ImageError, InputError, SetupError, VideoError
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.pixels import to_pixels
from image_text_embedding.inputs.video import video_loading
from image_text_embedding.inputs.video.video_loading import is_single_video, load_video

EASY = Limits(allow_private=True)
OFFICIAL = [0, 12, 24, 36, 48, 60, 72, 84]  # np.arange(0, 100, 100 / 8, dtype=int), as the official code ran


def numbers(video: Any, frames: int | None = 8, **settings: Any) -> list[int]:
    return [number_of(frame) for frame in load_video(video, frames, **settings)]


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx264", "mp4"), ("libx264", "mkv"), ("libx264", "mov"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"),
     ("libx264", "ts"), ("mpeg2video", "mpg"), ("flv1", "flv"), ("mjpeg", "mkv")],
)  # fmt: skip
@pytest.mark.parametrize("key_frames", [12, 1000])
def test_the_official_frames(tmp_path: Path, codec: str, suffix: str, key_frames: int) -> None:
    path = tmp_path / f"video.{suffix}"
    codec = "flv" if codec == "flv1" else codec
    write_video(path, range(100), codec, options={"g": str(key_frames), "b": "2M"})
    assert numbers(path) == OFFICIAL
    assert numbers(path, 3) == [0, 33, 66]


@pytest.mark.parametrize("rate", [24, 30, 60])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])  # mkv rounds times to milliseconds
def test_every_frame_of_every_rate(tmp_path: Path, rate: int, suffix: str) -> None:
    path = tmp_path / f"video.{suffix}"
    write_video(path, range(97), rate=rate, options={"g": "20"})
    assert numbers(path, 97) == list(range(97))


def test_a_short_video_gives_all_its_frames(tmp_path: Path) -> None:
    for count in (1, 5, 8):
        write_video(tmp_path / "short.mp4", range(count))
        assert numbers(tmp_path / "short.mp4") == list(range(count))


def test_frames_that_last_differently_long_are_found_by_their_time() -> None:
    """A screen recording: a frame is on the screen until the next one comes."""
    content = video_bytes(range(8), times=[0, 10, 11, 12, 13, 14, 60, 79], rate=10, options={"bf": "0"})
    assert numbers(content, 2) == [0, 5], "at 0 and 4 of 8 seconds"
    assert numbers(content) == [0, 1, 5, 5, 5, 5, 6, 6], "one for each second"


def test_frames_between_key_frames_far_apart_are_decoded_once(tmp_path: Path) -> None:
    """One pass, not one from the start for each frame: eight seeks would take several times as long."""
    from image_text_embedding.inputs.video import decoding_program as program

    write_video(tmp_path / "long.mp4", range(400), options={"g": "1000"})
    decoded: list[int] = []

    class Counting(program._FrameReader):
        def _advance(self) -> None:
            super()._advance()
            if self._last is not None:
                decoded.append(self._last.pts)

    reader = program._FrameReader
    program._FrameReader = Counting  # type: ignore[misc]
    try:
        with (tmp_path / "long.mp4").open("rb") as file:
            film = program.open_video(file, 10**8)
            found = [number_of(np.asarray(frame)) for frame in film.frames(8)]
    finally:
        program._FrameReader = reader  # type: ignore[misc]
    assert found == [50 * i for i in range(8)] and len(decoded) <= 360


def test_a_frame_that_stays_long_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_text_embedding.inputs.video import decoding_program as program

    seeks: list[int] = []
    real = program._FrameReader._seek
    monkeypatch.setattr(program._FrameReader, "_seek", lambda self, *where: (seeks.append(1), real(self, *where))[1])
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 90]
    content = video_bytes(range(10), times=times, rate=10, options={"bf": "0", "g": "1000"})
    film = program.open_video(io.BytesIO(content), 10**8)
    assert [number_of(np.asarray(frame)) for frame in film.frames(8)] == [0, *[8] * 7]
    assert len(seeks) == 1


def test_a_recording_that_states_no_length() -> None:
    content = video_bytes(range(40), "libvpx-vp9", "webm", container_options={"live": "1"})
    assert numbers(content) == [5 * i for i in range(8)]


@pytest.mark.parametrize(
    ("matrix", "turns"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_phones_film_with_the_camera_on_its_side(matrix: tuple[int, ...], turns: int) -> None:
    content = bytearray(video_bytes([numbered(1, 128, 64)] * 3))
    place = content.index(b"tkhd") + 44  # of the matrix (a, b, u, c, d, v, x, y, w) in the header of version 0
    a, b, c, d = (number * 2**16 for number in matrix)
    content[place : place + 20] = struct.pack(">5i", a, b, 0, c, d)
    upright = load_video(bytes(content), 1)[0]
    np.testing.assert_allclose(upright, np.rot90(numbered(1, 128, 64), turns), atol=40)


def test_a_stream_of_sound_beside_it(tmp_path: Path) -> None:
    write_video(tmp_path / "sound.mp4", range(16), audio=True)
    assert numbers(tmp_path / "sound.mp4") == [2 * i for i in range(8)]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animated_pictures(format: str) -> None:
    file = io.BytesIO()
    first, *others = [Image.fromarray(numbered(number)) for number in range(20)]
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    first.save(file, format, save_all=True, append_images=others, duration=40, **options)
    assert numbers(file.getvalue(), 5) == [0, 4, 8, 12, 16]


def test_forms(tmp_path: Path, serve: Callable[..., Server]) -> None:
    write_video(tmp_path / "a.mp4", range(16), options={"qp": "0"})
    content = (tmp_path / "a.mp4").read_bytes()
    expected = load_video(content, 4)
    assert expected[0].shape == (64, 64, 3) and expected[0].dtype == np.uint8
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    forms = [
        tmp_path / "a.mp4",
        str(tmp_path / "a.mp4"),
        bytearray(content),
        io.BytesIO(content),
        f"{server.url}/a.mp4",
    ]
    for form in forms:
        for one, other in zip(expected, load_video(form, 4, EASY)):
            np.testing.assert_array_equal(one, other)


def test_frames_as_a_list_or_an_array(tmp_path: Path) -> None:
    frames = [numbered(number) for number in range(20)]
    assert numbers(frames) == [2 * i for i in range(8)] == numbers(np.array(frames))
    assert numbers(iter(frames), None) == list(range(20))
    assert numbers([Image.fromarray(frame) for frame in frames[:5]]) == [0, 1, 2, 3, 4]
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(frames[number]).save(paths[-1])
    assert numbers(paths) == [0, 1, 2]


def test_frames_are_resized_as_pictures_are(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", range(9))
    for frame, small in zip(load_video(tmp_path / "a.mp4"), load_video(tmp_path / "a.mp4", size=40)):
        np.testing.assert_array_equal(to_pixels(Image.fromarray(frame), 40), small)


def test_one_or_many() -> None:
    frame = numbered(1)
    for single in ("a.mp4", Path("a.mp4"), b"", io.BytesIO(), [frame, frame], (Image.fromarray(frame),), frame[None]):
        assert is_single_video(single)
    for several in ([], ["a.mp4"], [[frame]], [frame[None]], np.array([[frame]]), [b"", b""], np.array(["a.mp4"])):
        assert not is_single_video(several)


@pytest.mark.parametrize(
    ("video", "kind", "message"),
    [
        ("missing.mp4", VideoError, "no such file: 'missing.mp4'"),
        ("/", VideoError, "got a folder"),
        ("/dev/zero", VideoError, "got a device"),
        ("a\0b.mp4", VideoError, "cannot open"),
        ("x" * 5000, VideoError, "cannot open 'xxx"),
        (b"", VideoError, "the bytes: expected a video"),
        (b"plain text, no video at all " * 9, VideoError, "the bytes: expected a video"),
        ([], VideoError, "expected a video with frames, got none"),
        (np.zeros((0, 4, 4, 3), np.uint8), VideoError, "expected a video with frames, got none"),
        (np.zeros((4, 4, 3), np.uint8), VideoError, r"expected a video \(T, H, W, 3\), got an array of shape \(4, 4, 3\)"),
        (np.zeros((2, 4, 4, 3)), ImageError, "frame 0: expected an array of uint8"),
        ([numbered(0), b"no picture"], ImageError, "frame 1: the bytes: expected a picture"),
        ({"a": 1}, InputError, "expected one or a list of frames, got a dict"),
        (3, VideoError, "expected a path"),
        (io.StringIO("text"), VideoError, "binary mode"),
        ("ftp://example.com/a.mp4", FetchError, "got 'ftp'"),
        ("http://127.0.0.1/a.mp4", FetchError, "not at a public address"),
        ("file:///etc/passwd", FetchError, "got 'file'"),
    ],
)  # fmt: skip
def test_what_is_no_video(video: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        load_video(video)


def test_how_many_frames() -> None:
    for wrong in (0, -1, 257, 2.5, "8", True):
        with pytest.raises(InputError, match="frames"):
            load_video([numbered(0)], wrong)  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="expected at most 256 frames, got 300"):
        load_video([numbered(0)] * 300, None)


def test_files_may_be_forbidden(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", range(3))
    with pytest.raises(VideoError, match="a path is not allowed here"):
        load_video(tmp_path / "a.mp4", limits=Limits(allow_files=False))
    with pytest.raises(ImageError, match="frame 0: a path is not allowed here"):
        load_video([tmp_path / "a.png"], limits=Limits(allow_files=False))
    assert numbers((tmp_path / "a.mp4").read_bytes(), limits=Limits(allow_files=False)) == [0, 1, 2]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"reading videos needs av: pip install .*\[video\]"):
        video_loading.load_video("a.mp4")
