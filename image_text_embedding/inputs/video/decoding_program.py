"""The program of a decoding process: takes requests on stdin, decodes a few frames of a video, and writes them to stdout.

A damaged or hostile video can make a decoder hang, crash or fill the memory. Here that ends a process which holds nothing,
and which the system itself limits. `decoding_process` starts it by the path of this file, so it imports nothing of ours: that
would take a second. Its messages are lines of JSON, some with bytes after them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

# FFmpeg's names of the containers that are read. None of them names other files, as playlists, lists and drawings do: with
# these a video could make its reader show a file of this machine, or open a connection.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
ANIMATIONS = ("GIF", "WEBP", "PNG")  # PIL's names: these also come as videos

MAX_STREAMS = 64
MAX_THREADS = 4
LARGE = 1280 * 720  # pixels from which several threads decode
IDLE = 60.0  # seconds after which a process that nobody needs ends
OPENING_MEMORY = 256 * 2**20  # bytes for reading a header
LATE_START = 2.0  # seconds
ROUNDING = Fraction(1, 50)  # of a second, at most


class Refusal(Exception):
    """Why a video cannot be used, in words that quote nothing of it."""


def frame_indices(count: int, wanted: int) -> list[int]:
    """Which frames of a video stand for it.

    The official `data/video_dataset.py` truncates the step, `count // wanted`, so that up to `wanted - 1` frames, and with
    them the end of a short video, are out of reach. Its rule would take the first frame of a video with fewer frames again
    and again; here each of its frames is used once.
    """
    step = count // wanted
    return [step * i for i in range(wanted)] if step else list(range(count))


def main() -> None:
    """Answer requests until stdin ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.path[:] = json.loads(requests.readline())
    while True:
        timer = threading.Timer(IDLE, os._exit, [0])
        timer.daemon = True
        timer.start()
        line = requests.readline()
        timer.cancel()
        if not line:
            return
        request = json.loads(line)
        content = requests.read(request["bytes"])
        try:
            frames, payload = _answer(request, content, requests, answers)
        except Refusal as refusal:
            frames, payload = {"error": str(refusal)}, b""
        except MemoryError:
            frames, payload = {"error": "decoding it takes more memory than its size promises"}, b""
        except Exception as error:  # of the many that damaged files cause
            frames, payload = {"error": f"damaged: it cannot be decoded ({type(error).__name__})"}, b""
        _send(answers, frames, payload)


def _send(answers: Any, message: dict[str, Any], payload: bytes = b"") -> None:
    answers.write(json.dumps({**message, "bytes": len(payload)}).encode() + b"\n" + payload)
    answers.flush()


def _answer(request: dict[str, Any], content: bytes, requests: Any, answers: Any) -> tuple[dict[str, Any], bytes]:
    import numpy as np

    _limit(OPENING_MEMORY, request["seconds"])
    try:
        with open(request["path"], "rb") if request["path"] is not None else io.BytesIO(content) as file:
            video = open_video(file, request["max_pixels"])
            # The frames that are sent, and the message with them
            pixels = request["size"] ** 2 if request["size"] else video.pixels
            memory = video.memory() + 6 * pixels * request["frames"]
            # The reader of the answer waits until there is so much memory.
            _send(answers, {"memory": memory})
            requests.readline()
            _limit(memory + OPENING_MEMORY, request["seconds"])
            frames = [prepared(frame, request["size"]) for frame in video.frames(request["frames"])]
    except OSError as error:
        raise Refusal(f"cannot read it: {error.strerror or type(error).__name__}") from error
    if not frames:
        raise Refusal("expected a video with frames, got none")
    return {"shapes": [frame.shape for frame in frames]}, b"".join(np.ascontiguousarray(f).tobytes() for f in frames)


def _limit(memory: int, seconds: float) -> None:
    """Have the system end this process if it takes more memory, or more time on the processor; as far as it can."""
    try:
        import resource
    except ImportError:  # Windows: the deadline is all there is
        return
    with (
        open("/proc/self/statm", encoding="ascii") if os.path.exists("/proc/self/statm") else io.StringIO("0 " * 7) as f
    ):
        used = int(f.read().split()[5]) * resource.getpagesize()
    if used:
        _set_limit(resource, resource.RLIMIT_DATA, used + memory)
    times = os.times()
    _set_limit(resource, resource.RLIMIT_CPU, int(times.user + times.system + 8 * seconds + 2))
    _set_limit(resource, resource.RLIMIT_CORE, 0)
    _set_limit(resource, resource.RLIMIT_FSIZE, 0)  # nothing here writes a file


def _set_limit(resource: Any, kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def prepared(frame: Any, size: int | None) -> Any:
    """A PIL image in RGB -> uint8 (H, W, 3), or (size, size, 3) as `pixels.to_pixels` makes it."""
    import numpy as np
    from PIL import Image

    return np.asarray(frame if size is None else frame.resize((size, size), Image.Resampling.BICUBIC))


def open_video(file: Any, max_pixels: int) -> Any:
    """A video with `pixels` (of a frame), `memory()` and `frames(wanted)`.

    Args:
        file: an open binary file that can be searched.

    Raises:
        Refusal: it is none, or too large.
    """
    head = file.read(64)
    file.seek(0)
    if head[:4] in (b"GIF8", b"\x89PNG") or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return _Animation(file, max_pixels)
    return _Film(file, max_pixels)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise Refusal("expected a video with frames, got one that states no size")
    if width * height > max_pixels:
        raise Refusal(f"{width} x {height} pixels are more than {max_pixels}. Limits(max_pixels=...) sets the limit")


class _Animation:
    """An animated GIF, WebP or PNG, read by PIL."""

    def __init__(self, file: Any, max_pixels: int) -> None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None  # the size is checked here
        try:
            self._picture = Image.open(file, formats=ANIMATIONS)
            _check_size(*self._picture.size, max_pixels)
            self._count = getattr(self._picture, "n_frames", 1)
        except (SyntaxError, ValueError, OSError, EOFError) as error:
            raise Refusal("expected a video, got a picture that cannot be read") from error
        self.pixels = self._picture.width * self._picture.height
        if self._count < 2:
            raise Refusal("expected a video, got a still picture: a video of one frame is a list, [picture]")

    def memory(self) -> int:
        """Bytes that decoding takes: a few copies of the canvas."""
        return 40 * self.pixels

    def frames(self, wanted: int) -> Iterator[Any]:
        """The frames that stand for the video, as PIL images."""
        for index in frame_indices(self._count, wanted):
            try:
                self._picture.seek(index)
                yield self._picture.convert("RGB")
            except (SyntaxError, ValueError, OSError, EOFError) as error:
                raise Refusal(f"damaged: frame {index} of {self._count} cannot be decoded") from error


class _Film:
    """A video that FFmpeg reads, by PyAV."""

    def __init__(self, file: Any, max_pixels: int) -> None:
        import av

        av.logging.set_level(None)
        self._av, self._max_pixels = av, max_pixels
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none", "max_streams": str(MAX_STREAMS)}
        try:
            # Not options=, which PyAV 17 also gives to the streams, and writes beyond their list where there are none yet.
            self._container = av.open(file, container_options=options)
        except MemoryError:
            raise
        except Exception as error:
            raise Refusal("expected a video (MP4, WebM, MKV, AVI, MPEG, ...), got none, or a damaged one") from error
        streams = [stream for stream in self._container.streams.video if not self._is_cover(stream)]
        if not streams:
            kinds = sorted({stream.type for stream in self._container.streams if stream.type != "video"})
            raise Refusal(f"expected a video, got a file with {' and '.join(kinds) or 'nothing'} only")
        self._stream = streams[0]
        codec = self._stream.codec_context
        _check_size(codec.width, codec.height, max_pixels)
        self.pixels = codec.width * codec.height
        codec.options = {"max_pixels": str(max_pixels)}
        self._threads = min(MAX_THREADS, os.cpu_count() or 1) if self.pixels >= LARGE else 1
        codec.thread_count = self._threads
        codec.thread_type = "AUTO" if self._threads > 1 else "SLICE"

    def _is_cover(self, stream: Any) -> bool:
        """Whether a stream is the cover of an album."""
        return bool(stream.disposition & self._av.stream.Disposition.attached_pic)

    def memory(self) -> int:
        """Bytes that decoding takes: frames that others refer to, those of the threads, and copies in RGB (measured)."""
        format = self._stream.codec_context.format
        bits = format.padded_bits_per_pixel if format else 0  # 12 in most videos
        return 2**25 + self.pixels * (48 + 8 * self._threads) * max(bits, 12) // 12

    def frames(self, wanted: int) -> Iterator[Any]:
        """The frames that stand for the video, as PIL images."""
        start = self._stream.start_time or 0
        length, count = self._length()
        step = Fraction(length) / count
        reader = _FrameReader(self._av, self._container, self._stream, start)
        for index in frame_indices(count, wanted):
            frame = reader.shown_at(start + index * step, step)
            _check_size(frame.width, frame.height, self._max_pixels)
            yield self._upright(frame)

    def _upright(self, frame: Any) -> Any:
        """A PIL image, turned as the file says (phones film with the camera on its side)."""
        from PIL import Image

        turns = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
        picture = frame.to_image()
        turn = turns.get(round(frame.rotation) % 360)
        return picture if turn is None else picture.transpose(turn)

    def _length(self) -> tuple[int, int]:
        """The video's length in units of its stream, and the number of its frames."""
        stream, unit = self._stream, self._stream.time_base
        length = (
            stream.duration or self._tagged_length() or (self._container.duration or 0) / (unit * self._av.time_base)
        )
        rate = stream.average_rate or stream.guessed_rate
        # FFmpeg only guesses the length of an MPEG program stream, from its bit rate or the last time that it states.
        if length <= 0 or not rate or self._container.format.name == "mpeg":
            return self._measured_length()
        return max(1, int(length)), stream.frames or max(1, round(length * unit * rate))

    def _tagged_length(self) -> int:
        """The length that Matroska states for each stream, "00:00:04.000000000"; 0 if there is none."""
        try:
            hours, minutes, seconds = self._stream.metadata["DURATION"].split(":")
            return int((int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) / self._stream.time_base)
        except (KeyError, ValueError):
            return 0

    def _measured_length(self) -> tuple[int, int]:
        """By reading all packets: recordings that were streamed state no length."""
        times = [packet.pts for packet in self._container.demux(self._stream) if packet.pts is not None]
        if not times:
            raise Refusal("expected a video with frames, got none")
        start = self._stream.start_time or 0
        self._container.seek(start, stream=self._stream)
        last = max(times) - start
        return max(1, round(last * len(times) / max(1, len(times) - 1))), len(times)


class _FrameReader:
    """Finds frames by their time, in ascending order, and decodes only from the key frame before each of them."""

    def __init__(self, av: Any, container: Any, stream: Any, start: int) -> None:
        self._av, self._container, self._stream, self._start = av, container, stream, start
        self._decoded: Iterator[Any] = iter(())
        self._last: Any = None  # the latest frame that was decoded
        self._suspect = False  # whether that frame may refer to one that is damaged
        self._shown: tuple[Any, bool] = (None, False)  # the same, or the frame before it

    def shown_at(self, time: Fraction, step: Fraction) -> Any:
        """The frame that is on the screen at a time.

        Args:
            step: the usual time between two frames.

        Raises:
            Refusal: it is damaged, or the video ends before.
        """
        # Times are rounded in some containers.
        near = min(step / 2, ROUNDING / self._stream.time_base)
        limit = time + near
        if not self._shows_until(limit) and (self._last is None or self._has_key_frame_before(limit)):
            self._seek(limit, step)
        while self._last is not None and self._last.pts <= limit:
            self._shown = self._last, self._suspect
            if self._last.pts > time - near:
                break
            self._advance()
        shown, suspect = self._shown
        seconds = float((time - self._start) * self._stream.time_base)
        if shown is None and self._last is not None and self._begins_with(self._last):
            shown, suspect = self._last, self._suspect
        if shown is None:
            raise Refusal(f"damaged, or truncated: there is no frame at {seconds:.2f} s")
        if suspect:
            raise Refusal(f"damaged at {seconds:.2f} s")
        if self._last is None and shown.pts < time - 2 * step:
            ends = float((shown.pts - self._start) * self._stream.time_base)
            raise Refusal(
                f"damaged, or truncated: its last frame is at {ends:.2f} s, but it promises one at {seconds:.2f} s"
            )
        return shown

    def _shows_until(self, limit: Fraction) -> bool:
        """Whether the frame that was shown last stays until this time, because the next one follows later."""
        shown = self._shown[0]
        return shown is not None and shown.pts <= limit and self._last is not None and self._last.pts > limit

    def _begins_with(self, frame: Any) -> bool:
        """Whether there is nothing to see before a frame: recordings of broadcasts start between two key frames."""
        return float((frame.pts - self._start) * self._stream.time_base) < LATE_START

    def _has_key_frame_before(self, limit: Fraction) -> bool:
        """Whether the index of the file knows a key frame after the latest frame and before a time.

        A file without an index may have one; seeking is then the better guess.
        """
        entries = self._stream.index_entries
        found = entries.search_timestamp(int(limit)) if len(entries) else -1
        return self._last.pts > limit or found < 0 or entries[found].timestamp > self._last.pts

    def _seek(self, limit: Fraction, step: Fraction) -> None:
        """Continue at the key frame before a time."""
        back = 0
        while True:
            target = int(limit - back * step)
            with contextlib.suppress(self._av.FFmpegError):  # so long before the start that the container complains
                self._container.seek(target, stream=self._stream)
            self._stream.codec_context.flush_buffers()
            self._decoded, self._suspect, self._shown = self._decode(), False, (None, False)
            self._advance()
            # Some containers search by the order of decoding, or inexactly, and then find a key frame that is shown later.
            if (self._last is not None and self._last.pts <= limit) or target < self._start - 64 * step:
                return
            back = 4 * back + 16

    def _advance(self) -> None:
        self._last = next(self._decoded, None)

    def _decode(self) -> Iterator[Any]:
        errors = (self._av.FFmpegError, ValueError)
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except errors:  # what follows cannot be reached
                return
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except errors:
                self._suspect = True
                continue
            for frame in frames:
                if frame.pts is None:
                    continue
                self._suspect = frame.is_corrupt or packet.is_corrupt or (self._suspect and not frame.key_frame)
                yield frame


if __name__ == "__main__":
    main()
