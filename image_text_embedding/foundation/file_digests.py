"""The sha256 and other digests of files. A sha256 is remembered until the file changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.cache_folder import cache_dir
from image_text_embedding.foundation.errors import DownloadError

CHUNK_BYTES = 2**20  # read at a time


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hex. It is remembered in the cache until size, time or inode change.

    Raises:
        DownloadError: the file cannot be read.
    """
    real = Path(path).resolve()
    try:
        return recall_digest(real).get("sha256") or remember_digest(
            real, file_stamp(real), compute_digests(real, "sha256")["sha256"]
        )
    except OSError as error:
        raise DownloadError(f"cannot read {real}: {error}") from error


def compute_digests(path: Path, *algorithms: str) -> dict[str, str]:
    """The file's digests in hex by algorithm: "crc32c", or any name that hashlib knows. The file is read once."""
    from google_crc32c import Checksum

    hashers: dict[str, Any] = {
        name: Checksum() if name == "crc32c" else hashlib.new(name, usedforsecurity=False) for name in algorithms
    }
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            for hasher in hashers.values():
                hasher.update(chunk)
    return {name: hasher.digest().hex() for name, hasher in hashers.items()}


def file_stamp(real: Path) -> dict[str, Any]:
    """The path, size, time and inode of a file: some of them change when it is replaced or written to."""
    stat = real.stat()
    return {"path": str(real), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _memo(real: Path) -> Path:
    """The file that remembers the digest."""
    return cache_dir() / "sha256" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"


def recall_digest(real: Path) -> dict[str, str]:
    """The remembered sha256 and revision of a file; empty if it has changed or was never read."""
    try:
        memo = json.loads(_memo(real).read_bytes())
        return memo if memo.items() >= file_stamp(real).items() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def remember_digest(real: Path, stamp: dict[str, Any], sha256: str, revision: str | None = None) -> str:
    """Remember a sha256. `stamp` is taken before the file is read, so a file that changes meanwhile is not recognised."""
    memo = _memo(real)
    # If the cache is not writable, the file is merely read again next time.
    with contextlib.suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(memo, json.dumps({**stamp, "sha256": sha256, "revision": revision}).encode())
    return sha256
