"""What a request calls a picture -> its content, without reading anything of this machine that was not allowed.

A picture is an http(s) URL, which goes through the guarded fetch; a data: URL; base64; or a path below an allowed root.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.errors import EmbeddingError, ImageError, as_item_error
from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.inputs.prefetch import available_cpus
from image_text_embedding.inputs.url_fetch import fetch_picture, is_url
from image_text_embedding.interfaces.scoring.base64_pictures import decode_base64
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.settings import ServingSettings

# URLs that are fetched at the same time. Each has a thread of its own, as any of them may drip until the deadline.
MAX_FETCHES = 64

# Longer strings are no path.
MAX_PATH = 4096

EXPECTED = "a picture as an http(s) URL, a data: URL or base64 (files are read only below an allowed root)"


class PictureSources:
    """Reads the pictures of requests: URLs in threads of their own, so that slow ones hold up nobody else."""

    def __init__(self, settings: ServingSettings) -> None:
        self.limits = settings.limits()
        self._roots = tuple(Path(os.path.realpath(root)) for root in settings.allow_roots)
        self._fetching = 0
        self._fetchers = ThreadPoolExecutor(MAX_FETCHES, thread_name_prefix="fetch")
        # For whatever takes a processor, or waits for a disk.
        self._threads = max(2, available_cpus())
        self.decoders = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        # That the last picture took, as one of those that are decoded at the same time.
        self.seconds_per_picture: float | None = None

    def close(self) -> None:
        """End the threads when they have done what they are doing."""
        for pool in (self._fetchers, self.decoders):
            pool.shutdown(wait=False, cancel_futures=True)

    def names_a_picture(self, text: str) -> bool:
        """Whether a string is a URL, or the path of a file below an allowed root."""
        return is_url(text) or self._allowed_path(text) is not None

    async def fetch(self, values: list[Any]) -> list[Any]:
        """The values, where bytes or an error replace each http(s) URL.

        Raises:
            ServingError: 429, too many URLs are being fetched.
        """
        indices = [i for i, value in enumerate(values) if isinstance(value, str) and _is_remote(value)]
        if not indices:
            return values
        if self._fetching and self._fetching + len(indices) > MAX_FETCHES:
            raise ServingError(
                429, f"the server is fetching {self._fetching} URLs already: try again later", retry_after=1
            )
        loop = asyncio.get_running_loop()
        self._fetching += len(indices)
        try:
            fetched = await asyncio.gather(
                *(loop.run_in_executor(self._fetchers, fetch_picture, values[i], self.limits) for i in indices),
                return_exceptions=True,
            )
        finally:
            self._fetching -= len(indices)
        values = list(values)
        for i, content in zip(indices, fetched):
            values[i] = as_item_error(content, ImageError) if isinstance(content, Exception) else content
        return values

    async def decode(self, values: list[Any], function: Callable[[Any], Any]) -> list[Any]:
        """What `fetch` returned -> function(content), or an error, for each."""
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(self.decoders, self._decode, value, function) for value in values)
        )

    def _content(self, value: Any) -> Any:
        """What `fetch` returned -> what `load_picture` takes: bytes, or a data: URL. Reads a file, if that is allowed.

        Raises:
            ImageError: it is no picture.
        """
        if isinstance(value, EmbeddingError):
            raise value
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise ImageError(f"expected {EXPECTED}, got {abbreviate(value)}")
        if is_url(value):
            return value
        path = self._allowed_path(value)
        return decode_base64(value, EXPECTED) if path is None else self._read(path)

    def _decode(self, value: Any, function: Callable[[Any], Any]) -> Any:
        started = time.monotonic()
        try:
            found = function(self._content(value))
        except Exception as error:
            return as_item_error(error, ImageError)
        self.seconds_per_picture = (time.monotonic() - started) / self._threads
        return found

    def _allowed_path(self, text: str) -> Path | None:
        """The real path of a file below an allowed root, which may be given relative to the root; None for any other text."""
        if not self._roots or not text or len(text) > MAX_PATH or "\0" in text:
            return None
        for root in self._roots:
            try:
                real = Path(os.path.realpath(root / text))
                # Symbolic links are resolved before it is compared.
                if real.is_relative_to(root) and real.is_file():
                    return real
            except OSError:
                continue
        return None

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                content = file.read(self.limits.max_bytes + 1)
        except OSError as error:
            raise ImageError(f"cannot read the picture: {error.strerror}") from error
        if len(content) > self.limits.max_bytes:
            raise ImageError(f"expected a picture of at most {self.limits.max_bytes} bytes, got more")
        return content


def _is_remote(text: str) -> bool:
    """Whether it is a URL, but not a data: URL. Those of unknown schemes are refused by the fetch."""
    return is_url(text) and text[:5].lower() != "data:"
