"""Any supported video input (path, URL, bytes, file, frames, array) -> the few frames that stand for it, upright, in RGB."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import ImageError, VideoError, at_index, item_errors_as
from image_text_embedding.inputs.decoding.memory_budget import DECODING_MEMORY
from image_text_embedding.inputs.image_loading import decoded_picture
from image_text_embedding.inputs.item_lists import has_attribute, snapshot_pictures
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.pixels import to_pixels
from image_text_embedding.inputs.url_fetch import display_url, fetch_picture, is_url
from image_text_embedding.inputs.video.decoding_process import DECODING_PROCESSES, require_decoder
from image_text_embedding.inputs.video.decoding_program import frame_indices

DEFAULT_FRAMES = 8  # of the official `eval_retrieval_video.py`
MAX_FRAMES = 256

_LIMITS = Limits()

ACCEPTED = (
    "a path, an http(s) or data: URL, encoded bytes, an open binary file, a list of pictures, or an array (T, H, W, 3)"
)


def load_video(
    video: Any, frames: int | None = DEFAULT_FRAMES, limits: Limits = _LIMITS, size: int | None = None
) -> list[np.ndarray]:
    """The frames that stand for a video, uint8 (H, W, 3) in RGB each.

    Frame i of `frames` is frame i * (n // frames) of the n in the video, as in the official `data/video_dataset.py`; a video
    with fewer frames gives all that it has. Only what lies between those frames and the key frames before them is decoded,
    in a process of its own, which has no more time and memory than the limits allow, and opens no other file. Frames are
    found by their times: in a video whose frames last differently long, they are equally far apart in time.

    Args:
        video: a path, an http(s) or data: URL, encoded bytes or an open binary file of a video or an animated GIF, WebP or
            PNG; or its frames: a list of pictures as `load_picture` takes them, or an array (T, H, W, 3).
        frames: how many, at most MAX_FRAMES. None = all of a list or an array, and DEFAULT_FRAMES of a file.
        limits: what the video may cost; max_pixels counts for each frame.
        size: resize each frame to (size, size), as `to_pixels` resizes pictures. None = the size they have.

    Raises:
        VideoError: it is of another type, no video, without frames, damaged, too large, too slow to decode, or not found.
        ImageError: a frame of a list cannot be used.
        FetchError: its URL is refused, too slow, too large, or not found.
        InputError: `frames` is out of range.
        SetupError: the extra `video` is not installed.
    """
    wanted = None if frames is None else require_integer("frames", frames, maximum=MAX_FRAMES)
    with item_errors_as(VideoError):
        if _is_encoded(video):
            return _decode(video, wanted or DEFAULT_FRAMES, limits, size)
        return _of_list(video, wanted, limits, size)


def is_single_video(videos: Any) -> bool:
    """Whether an argument is one video, not several: no list, or a list of frames that are arrays or PIL images.

    A list of strings, bytes or files is a list of videos; a list of lists, too.
    """
    if isinstance(videos, np.ndarray) and videos.dtype.kind not in "OUS":
        return videos.ndim < 5
    if _is_encoded(videos) or not isinstance(videos, Iterable):
        return True
    return isinstance(videos, (list, tuple)) and len(videos) > 0 and all(map(_is_frame, videos))


def _is_frame(item: Any) -> bool:
    return isinstance(item, Image.Image) or (isinstance(item, np.ndarray) and 2 <= item.ndim <= 3)


def _is_encoded(video: Any) -> bool:
    return isinstance(video, (str, bytes, bytearray, memoryview, os.PathLike)) or has_attribute(video, "read")


def _of_list(video: Any, wanted: int | None, limits: Limits, size: int | None) -> list[np.ndarray]:
    if isinstance(video, np.ndarray) and video.ndim != 4:
        raise VideoError(f"expected a video (T, H, W, 3), got an array of shape {video.shape}")
    if not isinstance(video, Iterable) or isinstance(video, Image.Image):
        raise VideoError(f"expected {ACCEPTED}; got {type(video).__module__}.{type(video).__qualname__}")
    given = snapshot_pictures(video, "frames")
    if not given:
        raise VideoError("expected a video with frames, got none")
    if wanted is None and len(given) > MAX_FRAMES:
        raise VideoError(f"expected at most {MAX_FRAMES} frames, got {len(given)}: frames=... takes some of them")
    found = []
    for index in frame_indices(len(given), wanted or len(given)):
        try:
            with decoded_picture(given[index], limits) as picture:
                found.append(np.array(picture) if size is None else to_pixels(picture, size))
        except ImageError as error:
            raise type(error)(f"frame {index}: {at_index(error, None)}") from error.__cause__
    return found


def _decode(video: Any, wanted: int, limits: Limits, size: int | None) -> list[np.ndarray]:
    """Frames of an encoded video."""
    require_decoder()
    shown, path, content = _opened(video, limits)
    request = {
        "path": path,
        "frames": wanted,
        "size": size,
        "max_pixels": limits.max_pixels,
        "seconds": limits.video_timeout,
    }
    with DECODING_MEMORY.reservation(limits.decoding_memory) as memory:
        try:
            return DECODING_PROCESSES.frames(request, content, memory.grow)
        except ImageError as error:
            raise VideoError(f"{shown}: {error}") from error.__cause__


def _opened(video: Any, limits: Limits) -> tuple[str, str | None, bytes]:
    """What names a video in errors, and its absolute path or its bytes."""
    if isinstance(video, str) and is_url(video):
        return display_url(video), None, fetch_picture(video, limits)
    if isinstance(video, (str, os.PathLike)):
        return _file(video, limits)
    if isinstance(video, (bytes, bytearray, memoryview)):
        return "the bytes", None, bytes(video)
    try:
        content = video.read()
    except Exception as error:
        raise VideoError(f"cannot read the file object {type(video).__name__}: {error}") from error
    if not isinstance(content, (bytes, bytearray)):
        raise VideoError(f"expected a file opened in binary mode ('rb'), got one that returns {type(content).__name__}")
    return "the file object", None, bytes(content)


def _file(path: str | os.PathLike[Any], limits: Limits) -> tuple[str, str, bytes]:
    if not limits.allow_files:
        raise VideoError("a path is not allowed here (Limits.allow_files is False): pass the video's bytes or its URL")
    name = os.fsdecode(path)
    shown = repr(name) if len(name) <= 300 else f"{name[:300]!r}… ({len(name)} characters)"
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise VideoError(f"no such file: {shown}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise VideoError(f"cannot open {shown}: {getattr(error, 'strerror', error)}") from error
    # Opening anything else, such as a pipe, might wait forever.
    if not stat.S_ISREG(kind):
        raise VideoError(f"expected a video's file, got a {'folder' if stat.S_ISDIR(kind) else 'device'}: {shown}")
    return shown, os.path.abspath(name), b""
