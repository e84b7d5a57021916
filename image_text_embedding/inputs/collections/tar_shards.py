"""Tar shards in the webdataset layout: consecutive members that share a name up to its first dot are one sample."""

from __future__ import annotations

import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from image_text_embedding.inputs.collections.collection_items import (
    PICTURE_SUFFIXES,
    CollectionItem,
    ContentLocation,
    PassedOver,
    as_utf8,
    is_hidden,
    suffix_of,
)

CAPTION_SUFFIXES = (".txt", ".json")

MAX_HEADER_BYTES = 2**20  # that a tar header may ask for at once


class _Headers:
    """A tar file for tarfile to read headers from. A header that claims gigabytes is refused before they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


def tar_items(path: str, passed_over: PassedOver) -> Iterator[CollectionItem]:
    """A shard's pictures. Nothing is extracted: headers say where the bytes are. Damage becomes an item with a problem."""
    try:
        kind = os.stat(path).st_mode
        file = open(path, "rb") if stat.S_ISREG(kind) else None  # noqa: SIM115
    except OSError as error:
        yield CollectionItem(as_utf8(path), problem=f"cannot read the file: {error.strerror}")
        return
    if file is None:
        yield CollectionItem(as_utf8(path), problem="expected a file, got a device")
        return
    with file:
        sample: list[tarfile.TarInfo] = []
        problem = None
        names: Counter[str] = Counter()
        try:
            for member in _members(file, passed_over):
                if sample and _key(member.name) != _key(sample[0].name):
                    yield from _sample(path, sample, names, passed_over)
                    sample = []
                sample.append(member)
        except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, RecursionError) as error:
            problem = f"expected an uncompressed tar file, got something else or a damaged one: {error}"
        yield from _sample(path, sample, names, passed_over)
        if problem:
            yield CollectionItem(as_utf8(path), problem=problem)


def _members(file: BinaryIO, passed_over: PassedOver) -> Iterator[tarfile.TarInfo]:
    """The visible ordinary files of a tar; links and devices are passed over.

    Raises:
        TarError, OSError, ValueError: it is damaged. (tarfile itself reports this for the first header only.)
    """
    tar = tarfile.open(fileobj=_Headers(file), mode="r:", errorlevel=2)  # type: ignore[call-overload]  # noqa: SIM115
    count, last = 0, -1
    while (member := tar.next()) is not None:
        tar.members.clear()  # tarfile would hold all of them
        count += 1
        if member.offset <= last or member.size < 0:
            raise tarfile.ReadError("a header that points backwards")
        last = member.offset
        # macOS stores ._x.jpg before x.jpg, within its sample.
        if any(map(is_hidden, PurePosixPath(member.name).parts)):
            continue
        if member.isreg():
            yield member
        elif not member.isdir():
            passed_over.add_kind("links or devices in a tar")
    file.seek(tar.offset)
    if any(file.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"no header after {count} members")


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _sample(
    path: str, members: list[tarfile.TarInfo], names: Counter[str], passed_over: PassedOver
) -> Iterator[CollectionItem]:
    """
    Args:
        names: how many pictures of each name there were before: each gets a path of its own.
    """
    caption = None
    for end in CAPTION_SUFFIXES:
        found = next((m for m in members if m.name.lower().endswith(end) and not m.issparse()), None)
        if found is not None and caption is None:
            caption = ContentLocation(path, (found.offset_data, found.size), is_json=end == ".json")
    has_picture = any(suffix_of(member.name) in PICTURE_SUFFIXES for member in members)
    for member in members:
        suffix = suffix_of(member.name)
        if suffix not in PICTURE_SUFFIXES:
            if not (has_picture and suffix in CAPTION_SUFFIXES):
                passed_over.add(member.name)
            continue
        name = PurePosixPath(member.name)
        names[member.name] += 1
        again = f"#{names[member.name]}" if names[member.name] > 1 else ""
        if name.is_absolute() or ".." in name.parts:  # a reader of our output may take it for a file path
            yield CollectionItem(
                as_utf8(path), problem=f"a member name that points outside the archive: {as_utf8(member.name)[:200]!r}"
            )
        elif member.issparse():
            yield CollectionItem(
                f"{as_utf8(path)}/{as_utf8(member.name)}", problem="sparse files in a tar are not supported"
            )
        else:
            location = ContentLocation(path, (member.offset_data, member.size))
            yield CollectionItem(f"{as_utf8(path)}/{as_utf8(member.name)}{again}", location, caption)
