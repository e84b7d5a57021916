"""Videos that are drawn here: each frame shows its number as black and white blocks, which survive any codec."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 12
BLOCK = 16
WIDTH, HEIGHT = 4 * BLOCK, 4 * BLOCK  # three rows of blocks, and one of grey


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame, uint8 (height, width, 3), that shows a number below 4096."""
    frame = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        value = 255 * (number >> bit & 1)
        frame[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = value
    return frame.repeat(height // HEIGHT, 0).repeat(width // WIDTH, 1)


def number_of(frame: np.ndarray) -> int:
    """The number that a frame shows."""
    height, width = frame.shape[0] // 4, frame.shape[1] // 4
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        block = frame[row * height : (row + 1) * height, column * width : (column + 1) * width]
        number |= int(block[height // 4 : -height // 4, width // 4 : -width // 4].mean() > 128) << bit
    return number


def write_video(
    file: str | Path | io.BytesIO,
    frames: Any,
    codec: str = "libx264",
    rate: int = 25,
    *,
    format: str | None = None,
    times: Any = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    audio: bool = False,
) -> None:
    """Encode frames, uint8 (H, W, 3) each, or numbers of `numbered` frames.

    Args:
        times: the time of each frame in units of 1 / rate; None = one after the other.
        audio: with a second stream of silence.
    """
    pictures = (numbered(each) if isinstance(each, (int, np.integer)) else each for each in frames)
    first = next(pictures)
    name = file if isinstance(file, io.BytesIO) else str(file)
    with av.open(name, "w", format=format, container_options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if audio:
            sound: Any = container.add_stream("aac", rate=8000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
        for index, picture in enumerate(itertools.chain([first], pictures)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts = int(times[index])
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio:
            container.mux(sound.encode(None))


def video_bytes(frames: Any, codec: str = "libx264", format: str = "mp4", **options: Any) -> bytes:
    """As `write_video`, in memory."""
    file = io.BytesIO()
    write_video(file, frames, codec, format=format, **options)
    return file.getvalue()
