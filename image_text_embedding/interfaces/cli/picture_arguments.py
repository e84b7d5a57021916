"""The pictures and the text among a command's arguments: in which order they are, and folders, globs and stdin.

Everything is found before a model is loaded, so that a wrong path costs no wait.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import EmbeddingError, ImageError, InputError, at_index
from image_text_embedding.interfaces.cli.output import print_json, print_passed_over, print_result, print_skipped

STDIN = "-"

PICTURES_HELP = "Paths, URLs, folders, quoted globs; - is stdin: a picture, or a path or URL per line."

Pictures = Annotated[list[str], typer.Argument(metavar="PICTURE...", help=f"{PICTURES_HELP}", show_default=False)]


@dataclass(frozen=True)
class NamedPicture:
    """A picture that has not been read yet.

    Attributes:
        name: what to call it in the output.
        item: what `load_picture` takes.
        error: why it cannot be used, if that is known already.
    """

    name: str
    item: Any = None
    error: ImageError | None = None


def pictures_and_text(words: Sequence[str], what: str) -> tuple[list[str], str]:
    """The pictures and the text among arguments: the text is last, or first (as in version 0.1.0).

    Args:
        what: the text's name in --help, such as "QUESTION".

    Raises:
        BadParameter: there are not both.
    """
    if len(words) < 2:
        raise typer.BadParameter(f"expected PICTURE... {what}, got only {' '.join(words)!r}")
    if _may_be_picture(words[-1]) and not _may_be_picture(words[0]):
        return [*words[1:]], words[0]
    return [*words[:-1]], words[-1]


def _may_be_picture(word: str) -> bool:
    from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES, suffix_of
    from image_text_embedding.inputs.url_fetch import is_url

    return (
        word == STDIN
        or is_url(word)
        or suffix_of(word) in PICTURE_SUFFIXES
        or os.path.exists(word)
        or (glob.has_magic(word) and next(glob.iglob(word), None) is not None)
    )


def find_pictures(words: Iterable[str]) -> list[NamedPicture]:
    """The pictures that arguments name. Files that are missing have an error; nothing else is opened, except stdin.

    Raises:
        InputError: a folder, a glob or stdin has no pictures.
    """
    from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES, suffix_of

    words = list(words)
    # As in `Collection`: a .txt beside pictures is a caption, not a list.
    if any(suffix_of(word) in PICTURE_SUFFIXES for word in words):
        words = [word for word in words if suffix_of(word) != ".txt"]
    return [picture for word in words for picture in _pictures_of(word)]


def _pictures_of(word: str) -> list[NamedPicture]:
    from image_text_embedding.inputs.collections.source_paths import KNOWN_SUFFIXES, PICTURE_SUFFIXES, suffix_of
    from image_text_embedding.inputs.url_fetch import is_url

    if word == STDIN:
        return _pictures_of_stdin()
    if is_url(word):
        return [NamedPicture(word, word)]
    is_collection = os.path.isdir(word) or suffix_of(word) in set(KNOWN_SUFFIXES) - set(PICTURE_SUFFIXES)
    if is_collection if os.path.exists(word) else glob.has_magic(word):
        return collection_pictures(word)
    return [NamedPicture(word, word, None if os.path.exists(word) else _missing(word))]


def collection_pictures(source: str) -> list[NamedPicture]:
    """The pictures of a folder, a glob, a list, a table or a tar, in the order of names.

    Raises:
        InputError: there are none.
    """
    from image_text_embedding.inputs.collections.collection import Collection
    from image_text_embedding.inputs.collections.content_reading import picture_input
    from image_text_embedding.inputs.url_fetch import is_url

    collection = Collection(source, "image")
    found = []
    for item in collection:
        name = item.path if os.path.isabs(source) or is_url(item.path) else os.path.relpath(item.path)
        try:
            found.append(NamedPicture(name, picture_input(item)))
        except ImageError as error:
            found.append(NamedPicture(name, error=error))
    if not found:
        raise collection.nothing_found()
    print_passed_over(collection.passed_over.counts)
    return found


def _pictures_of_stdin() -> list[NamedPicture]:
    """
    Raises:
        InputError: it is empty, or too large.
    """
    from image_text_embedding.inputs.collections.collection_items import MAX_PICTURE_BYTES
    from image_text_embedding.inputs.decoding.formats import recognized_format

    content = sys.stdin.buffer.read(MAX_PICTURE_BYTES + 1)
    if len(content) > MAX_PICTURE_BYTES:
        raise InputError(f"stdin: expected a picture or a list of at most {MAX_PICTURE_BYTES:,} bytes, got more")
    if not content.strip():
        raise InputError("stdin: expected a picture, or a path or URL per line, got nothing")
    if recognized_format(content[:64]) is None and b"\0" not in content:
        lines = [line.strip() for line in os.fsdecode(content).splitlines()]
        return find_pictures(line for line in lines if line and line != STDIN)
    return [NamedPicture(STDIN, content)]


def _missing(path: str) -> ImageError:
    from image_text_embedding.demo.example_pictures import SAMPLE_NAMES

    hint = "; `image-text-embedding samples` writes it" if path in SAMPLE_NAMES else ""
    return ImageError(f"no such file: {path!r}{hint}")


def require_found(path: str, what: str = "") -> None:
    """Check that a picture's file exists, before a model is loaded for it.

    Raises:
        ImageError: it does not; the message begins with `what`.
    """
    from image_text_embedding.inputs.url_fetch import is_url

    if not is_url(path) and not os.path.exists(path):
        raise ImageError(f"{what}{_missing(path)}")


def run_on_pictures(
    pictures: Sequence[NamedPicture], task: Callable[[list[Any]], tuple[Any, list[tuple[int, EmbeddingError]]]]
) -> tuple[list[Any], dict[int, str]]:
    """Run a task on the pictures that can be used.

    Args:
        task: pictures -> their results, and the (index, error) of each that cannot be used. It loads the model, and is not
            called without pictures.

    Returns:
        The results, None where there is none; and for each of these its index and why.
    """
    results: list[Any] = [None] * len(pictures)
    failed = {index: str(picture.error) for index, picture in enumerate(pictures) if picture.error is not None}
    usable = [index for index in range(len(pictures)) if index not in failed]
    if usable:
        found, errors = task([pictures[index].item for index in usable])
        for position, error in errors:
            name, message = pictures[usable[position]].name, str(at_index(error, None))
            # Errors of files begin with their path.
            failed[usable[position]] = message if repr(name)[1:-1] in message else f"{name}: {message}"
        for index, result in zip(usable, found):
            results[index] = None if index in failed else result
    return results, failed


def print_results(
    pictures: Sequence[NamedPicture], results: list[Any], failed: dict[int, str], key: str, as_json: bool
) -> None:
    """Print a line or a JSON row for each picture, and on stderr why the others have none.

    Args:
        results, failed: as `run_on_pictures` returns them. A float is printed as a probability.
        key: the name of the result in a row.

    Raises:
        Exit: with code 1, if a picture cannot be used.
    """
    if as_json:
        errors = [{"error": failed[index]} if index in failed else {} for index in range(len(pictures))]
        print_json(
            [
                {"picture": picture.name, key: result, **error}
                for picture, result, error in zip(pictures, results, errors)
            ]
        )
    for index, (picture, result) in enumerate(zip(pictures, results)):
        if index not in failed and not as_json:
            value = f"{result:.3f}" if isinstance(result, float) else result
            print_result(value if len(pictures) == 1 else f"{picture.name}: {value}")
    for index in sorted(failed):
        print_skipped(failed[index])
    if failed:
        raise typer.Exit(1)


def require_picture_file(path: Path, option: str = "--out") -> None:
    """Check, before anything is computed, that a drawing can be written to a file of this name.

    Raises:
        InputError: its suffix is not that of a picture that we write.
    """
    from image_text_embedding.inference.visualization.contact_sheet import PICTURE_FORMATS

    is_device = path.exists() and not path.is_file() and not path.is_dir()
    if path.suffix.lower() not in PICTURE_FORMATS and not is_device:
        raise InputError(f"{option}: expected a file named {', '.join(PICTURE_FORMATS)}, got {str(path)!r}")
