"""The files and folders that a source names, with globs expanded."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES, suffix_of
from image_text_embedding.inputs.collections.folders import FolderLinks, contains_path, walk_folder
from image_text_embedding.inputs.collections.tables import TABLE_SUFFIXES

_FOLDER_SUFFIXES = (".tar", *PICTURE_SUFFIXES)  # what is taken of a folder

KNOWN_SUFFIXES = (".txt", *TABLE_SUFFIXES, *_FOLDER_SUFFIXES)


def expand_paths(given: list[str]) -> tuple[list[str], list[str]]:
    """Absolute paths of the files and folders; and the files that a glob matches but that are of no known kind.

    Raises:
        InputError: one does not exist, is of no known kind, or is a glob that matches nothing known.
    """
    paths: list[str] = []
    unknown: list[str] = []
    for path in given:
        if os.path.exists(path):
            if not os.path.isdir(path) and suffix_of(path) not in KNOWN_SUFFIXES:
                raise InputError(_expectation(path))
            paths.append(path)
        elif glob.has_magic(path):
            found: list[str] = []
            # Beside pictures and shards, a .json says something about them, unless the glob asks for it.
            taken = {*KNOWN_SUFFIXES} - ({".json"} - {suffix_of(path)})
            for match in sorted(_matches(path)):
                (found if suffix_of(match) in taken or os.path.isdir(match) else unknown).append(match)
            if not found:
                raise InputError(f"{_expectation(path)}: nothing of a known kind matches")
            paths += _without_repeated_links(found)
        else:
            raise InputError(f"{_expectation(path)}, which does not exist")
    if any(suffix_of(path) in PICTURE_SUFFIXES for path in paths):
        paths = [path for path in paths if suffix_of(path) not in (".txt", ".json")]
    return [os.path.abspath(path) for path in paths], unknown


def _matches(pattern: str) -> Iterator[str]:
    """What a glob matches. With `**`, files only: those in folders that match are among them."""
    parts = PurePath(pattern).parts
    if "**" not in parts:
        # glob itself hides names that start with a dot.
        yield from (
            path for path in glob.iglob(pattern) if "__MACOSX" in parts or "__MACOSX" not in PurePath(path).parts
        )
        return
    first = parts.index("**")
    beginning = os.path.join("", *parts[:first])
    # glob itself would follow links in circles.
    for folder in glob.iglob(beginning) if beginning else [""]:
        links = FolderLinks([os.path.realpath(folder or os.curdir)])
        for entry in walk_folder(folder or os.curdir, links):
            if not entry.is_folder:
                name = os.path.relpath(entry.path, folder or os.curdir)
                matches, is_below_match = _fits(name, parts[first:])
                if matches or (is_below_match and suffix_of(name) in _FOLDER_SUFFIXES):
                    yield os.path.join(folder, name)


def _fits(name: str, parts: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether a relative path matches the parts of a glob; and whether a folder that it is in does."""

    def after_stars(positions: Iterable[int]) -> set[int]:
        """The positions, and those behind a `**`, which may stand for no folder."""
        reached = set(positions)
        for position, part in enumerate(parts):
            if part == "**" and position in reached:
                reached.add(position + 1)
        return reached

    # The positions in `parts` up to which the names so far may match.
    reached, is_below_match = after_stars([0]), False
    for each in PurePath(name).parts:
        is_below_match = is_below_match or len(parts) in reached
        possible = [position for position in reached if position < len(parts)]
        reached = after_stars(
            position + (parts[position] != "**")
            for position in possible
            if parts[position] == "**" or fnmatch.fnmatchcase(each, parts[position])
        )
    return len(parts) in reached, is_below_match


def _without_repeated_links(found: list[str]) -> list[str]:
    """The matches without links to folders that are, or contain, or are in folders that are read anyway."""
    links = {path: os.path.realpath(path) for path in found if os.path.islink(path) and os.path.isdir(path)}
    if not links:
        return found
    read = [os.path.realpath(path) for path in found if path not in links and os.path.isdir(path)]
    kept = []
    for path in found:
        if path in links:
            beside = os.path.realpath(os.path.dirname(path))
            if contains_path(links[path], beside) or any(contains_path(folder, links[path]) for folder in read):
                continue
            read.append(links[path])
        kept.append(path)
    return kept


def _expectation(path: str) -> str:
    hint = "; webdataset shards must not be compressed" if path.lower().endswith((".tar.gz", ".tgz", ".zip")) else ""
    return (
        f"source: expected a folder, a glob, a picture, or a file named {', '.join(('.txt', '.tar', *TABLE_SUFFIXES))}, got "
        f"{path}{hint}"
    )
