"""Videos that are damaged, endless, huge, or that name other files; and decoders that hang or die."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from support.environment import ROOT
from support.picture_server import Server
from support.videos import number_of, numbered, video_bytes, write_video

from image_text_embedding.foundation.errors import VideoError
from image_text_embedding.inputs.decoding.memory_budget import DECODING_MEMORY
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.video import decoding_process
from image_text_embedding.inputs.video.decoding_process import DecodingProcesses
from image_text_embedding.inputs.video.video_loading import load_video

LOOSE = Limits(allow_private=True)


def numbers(video: Any, frames: int = 8, **limits: Any) -> list[int]:
    return [number_of(frame) for frame in load_video(video, frames, Limits(**limits))]


def noisy(count: int) -> list[np.ndarray]:
    """Numbered frames that take room when they are encoded."""
    random = np.random.default_rng(0)
    noise = [random.integers(-30, 30, (64, 64, 3)) for _ in range(count)]
    return [np.clip(numbered(i) + each, 0, 255).astype(np.uint8) for i, each in enumerate(noise)]


# Damaged


@pytest.mark.parametrize(
    ("codec", "format", "options"),
    [
        ("libx264", "mp4", {"movflags": "faststart"}),
        ("libx264", "mp4", {}),
        ("libx264", "matroska", {}),
        ("libvpx-vp9", "webm", {}),
        ("mpeg4", "avi", {}),
    ],
)
def test_damaged_and_truncated(codec: str, format: str, options: dict[str, str], tmp_path: Path) -> None:
    write_video(tmp_path / "v", noisy(100), codec, format=format, options={"g": "25"}, container_options=options)
    content = (tmp_path / "v").read_bytes()
    assert numbers(content) == [12 * i for i in range(8)]
    middle, third = len(content) // 2, len(content) // 3
    for damaged in (content[:middle], content[:middle] + bytes(third) + content[middle + third :], content[:200]):
        with pytest.raises(VideoError, match=r"^the bytes: (damaged|expected a video)"):
            load_video(damaged)


def test_frames_outside_of_the_damage_are_read(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", noisy(100), options={"g": "25"}, container_options={"movflags": "faststart"})
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    content[-2000:] = bytes(2000)
    assert numbers(bytes(content), 2) == [0, 50]


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_gives_frames_or_one_of_our_errors(seed: int, short_video: bytes) -> None:
    random = np.random.default_rng(seed)
    content = bytearray(short_video)
    for _ in range(random.integers(1, 20)):
        content[random.integers(len(content))] = random.integers(256)
    try:
        frames = load_video(bytes(content), limits=Limits(video_timeout=20))
    except VideoError:
        return
    assert 0 < len(frames) <= 8


@pytest.fixture(scope="module")
def short_video() -> bytes:
    return video_bytes(range(12))


# Long, large, or no video at all


def test_ten_hours() -> None:
    content = video_bytes(range(11), "mpeg4", times=[3600 * i for i in range(11)], rate=1)
    since = time.process_time()
    assert len(numbers(content)) == 8
    assert time.process_time() - since < 1


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "JPEG"])
def test_still_pictures(format: str) -> None:
    file = io.BytesIO()
    Image.fromarray(numbered(1)).save(file, format)
    message = "expected a video" if format == "JPEG" else r"got a still picture: a video of one frame is a list"
    with pytest.raises(VideoError, match=message):
        load_video(file.getvalue())


def test_sound_alone_or_with_a_cover(tmp_path: Path) -> None:
    for cover in (False, True):
        with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as container:
            sound: Any = container.add_stream("aac", rate=8000)
            picture: Any = container.add_stream("mjpeg") if cover else None
            if cover:
                picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
                picture.disposition = av.stream.Disposition.attached_pic
                container.mux(picture.encode(av.VideoFrame.from_ndarray(numbered(1), format="rgb24")))
                container.mux(picture.encode(None))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
        with pytest.raises(VideoError, match="expected a video, got a file with audio only"):
            load_video(tmp_path / "song.m4a")


def test_too_many_pixels() -> None:
    content = video_bytes([numbered(1, 640, 640)] * 3)
    with pytest.raises(VideoError, match="640 x 640 pixels are more than 1000"):
        load_video(content, limits=Limits(max_pixels=1000))
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 60_000, 60_000)
        + b"\0\0\0"
        + b"\x21\xf9\x04\0\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    )
    with pytest.raises(VideoError, match="60000 x 60000 pixels are more than 100000000"):
        load_video(gif)


def test_pictures_that_grow_in_the_middle() -> None:
    parts = [
        video_bytes([numbered(1, side, side)] * 20, "mpeg2video", "mpegts", options={"bf": "0"}) for side in (64, 640)
    ]
    joined, time, stream = io.BytesIO(), 0, None
    with av.open(joined, "w", format="mpegts") as output:
        for part in parts:
            with av.open(io.BytesIO(part)) as source:
                stream = stream or output.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.stream, packet.pts, packet.dts, time = stream, time, time, time + 3600
                        output.mux(packet)
    assert {frame.shape for frame in load_video(joined.getvalue())} == {(64, 64, 3), (640, 640, 3)}
    with pytest.raises(VideoError, match=r"640 x 640 pixels are more than 4096|damaged"):
        load_video(joined.getvalue(), limits=Limits(max_pixels=64 * 64))


def test_more_memory_than_allowed() -> None:
    content = video_bytes([numbered(1, 640, 640)] * 3)
    with pytest.raises(VideoError, match=r"decoding takes about \d+ MiB, more than the \d+ MiB"):
        load_video(content, limits=Limits(decoding_memory=2**23))
    assert DECODING_MEMORY.reserved == 0


def test_many_streams(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "many.mkv"), "w") as container:
        streams: list[Any] = [container.add_stream("mpeg4", rate=5) for _ in range(100)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for stream in streams:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(0)[:16, :16].copy(), format="rgb24")))
            container.mux(stream.encode(None))
    assert load_video(tmp_path / "many.mkv")[0].shape == (16, 16, 3), "the first 64 are looked at"


# Files that name other files


def test_playlists_read_nothing(tmp_path: Path, serve: Callable[..., Server]) -> None:
    """Playlists, lists of parts, manifests and drawings are not opened, by whatever name, and their parts neither."""
    secret = tmp_path / "secret.mp4"
    write_video(secret, range(9))
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
    for part in (
        str(secret),
        f"file:{secret}",
        f"{server.url}/part.ts",
        f"concat:{secret}",
        f"subfile,,start,0,end,9,,:{secret}",
    ):
        texts = {
            "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{part}\n#EXT-X-ENDLIST\n",
            "ffconcat": f"ffconcat version 1.0\nfile '{part}'\n",
            "mpd": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
            f'<Representation id="1"><BaseURL>{part}</BaseURL></Representation></AdaptationSet></Period></MPD>',
            "sdp": "v=0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        }
        for suffix, text in texts.items():
            for name in (f"a.{suffix}", "a.mp4"):
                path = tmp_path / name
                path.write_text(text)
                for form in (path, text.encode()):
                    with pytest.raises(VideoError, match="expected a video"):
                        load_video(form)
    assert server.heads == []


@pytest.mark.parametrize("protocol", ["file:", "concat:", "subfile,,start,0,end,0,,:", "pipe:", "crypto:", "async:"])
def test_a_path_is_a_path(protocol: str, tmp_path: Path) -> None:
    """FFmpeg would take these as its protocols."""
    write_video(tmp_path / "a.mp4", range(3))
    with pytest.raises(VideoError, match="no such file"):
        load_video(f"{protocol}{tmp_path / 'a.mp4'}")


def test_references_inside_a_mov(tmp_path: Path) -> None:
    """A MOV may say that its samples are in another file, here by an alias with an absolute path."""
    write_video(tmp_path / "secret.mov", noisy(9))
    content = (tmp_path / "secret.mov").read_bytes()
    name = str(tmp_path / "secret.mov").encode()
    here = content.index(b"dref")
    size = int.from_bytes(content[here - 4 : here], "big")
    alias = bytes(150) + struct.pack(">HH", 18, len(name)) + name + bytes(len(name) % 2) + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", len(alias) + 12, b"alis", 0) + alias
    table = struct.pack(">I4sII", len(entry) + 16, b"dref", 0, 1) + entry
    changed = bytearray(content[: here - 4] + table + content[here - 4 + size :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = changed.index(box)
        changed[at - 4 : at] = (int.from_bytes(changed[at - 4 : at], "big") + len(table) - size).to_bytes(4, "big")
    start = changed.index(b"mdat")
    changed[start + 4 : changed.index(b"moov") - 4] = bytes(changed.index(b"moov") - start - 8)
    with pytest.raises(VideoError, match="damaged"):
        load_video(bytes(changed))


# Decoders that hang or die


@pytest.fixture
def own_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodingProcesses]:
    """Processes that no other test uses."""
    processes = DecodingProcesses()
    monkeypatch.setattr("image_text_embedding.inputs.video.video_loading.DECODING_PROCESSES", processes)
    yield processes
    processes.end()


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Replaces the program of decoding processes by one that reads two lines, then does what `code` says."""
    path = tmp_path / "program.py"
    path.write_text(f"import os, sys, time\nfor _ in range(2): sys.stdin.buffer.readline()\n{code}\n")
    monkeypatch.setattr(decoding_process, "PROGRAM", path)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("time.sleep(60)", r"took more than 1 s. Limits\(video_timeout=...\) sets the limit"),
        ("print('{\"memory\": 1, \"bytes\": 0}', flush=True); time.sleep(60)", "took more than 1 s"),
        ("os.abort()", "ended the decoder"),
        ("print('{\"memory\": 1, \"bytes\": 0}', flush=True); os.abort()", "ended the decoder"),
        ("sys.exit(0)", "cannot be started"),
        ("print('{\"bytes\": 99999999999999}', flush=True)", "ended the decoder"),
        ("print('x' * 10**6)", "ended the decoder"),
        ("print('no JSON')", "reading it failed"),
    ],
)  # fmt: skip
def test_a_decoder_that_hangs_or_dies(
    own_processes, short_video: bytes, tmp_path: Path, monkeypatch, code: str, message: str
) -> None:
    program(tmp_path, monkeypatch, code)
    with pytest.raises(VideoError, match=message):
        load_video(short_video, limits=Limits(video_timeout=1))
    assert DECODING_MEMORY.reserved == 0
    monkeypatch.undo()
    assert len(load_video(short_video)) == 8, "the next video has a new process"


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/statm").exists(), reason="Linux limits memory so")
def test_the_system_limits_what_a_decoder_takes(own_processes, short_video: bytes, tmp_path: Path, monkeypatch) -> None:
    source = decoding_process.PROGRAM.read_text()
    greedy = source.replace("video = open_video(file", "bytearray(2 * OPENING_MEMORY); video = open_video(file")
    assert greedy != source
    (tmp_path / "greedy.py").write_text(greedy)
    monkeypatch.setattr(decoding_process, "PROGRAM", tmp_path / "greedy.py")
    with pytest.raises(VideoError, match="more memory than its size promises"):
        load_video(short_video)


def test_a_process_serves_many_videos_and_a_new_one_follows_one_that_ended(
    own_processes, short_video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    class Counted(decoding_process.DecodingProcess):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    monkeypatch.setattr(decoding_process, "DecodingProcess", Counted)
    for _ in range(3):
        load_video(short_video)
        with pytest.raises(VideoError):
            load_video(b"no video")
    assert len(started) == 1
    process = started[0]._process
    process.stdin.close()  # it ends, as if nobody had needed it for a while
    assert process.wait(10) == 0
    process.stdin = open(os.devnull, "wb")  # noqa: SIM115
    assert len(load_video(short_video)) == 8
    assert len(started) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows forks no processes")
def test_a_forked_process_has_processes_of_its_own(tmp_path: Path, short_video: bytes) -> None:
    (tmp_path / "short.mp4").write_bytes(short_video)
    code = """
import gc, os
from image_text_embedding.inputs.video.video_loading import load_video
load_video("short.mp4")
child = os.fork()
if not child:
    gc.collect()
    print("child", len(load_video("short.mp4")), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", len(load_video("short.mp4")))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["child", "8", "parent", "8"], done.stderr
    assert "ResourceWarning" not in done.stderr


def test_threads_have_processes_of_their_own(short_video: bytes) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: numbers(short_video, 4), range(12)))
    assert found == [[0, 3, 6, 9]] * 12
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
