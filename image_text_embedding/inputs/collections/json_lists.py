"""Lists of objects in JSON, `[{"url": ..., "caption": ...}, ...]`, as BLIP's data sets are released: read one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.text_files import MAX_LINE_CHARACTERS, open_text

CHUNK = 2**20  # characters read at once

_DECODER = json.JSONDecoder()


def json_list_rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any] | str]:
    """The objects of the list; for an entry that is none, a sentence that names it. No more than one entry is in memory.

    Raises:
        InputError: the file cannot be read, or is not a list in JSON. What comes before the damage has been returned by then.
    """
    with open_text(path) as file:
        text, position, number = file.read(CHUNK), 0, 0

        def following() -> str:
            """The next character that is not white space; "" at the end of the file."""
            nonlocal text, position
            while True:
                while position < len(text) and text[position] in " \t\r\n":
                    position += 1
                if position < len(text):
                    return text[position]
                text, position = file.read(CHUNK), 0
                if not text:
                    return ""

        def expect(*wanted: str) -> str:
            nonlocal position
            if (found := following()) not in wanted or not found:
                raise _damaged(path, number, f"{' or '.join(wanted)}, got {found or 'the end of the file'}")
            position += 1
            return found

        expect("[")
        if following() == "]":
            return
        while True:
            number += 1
            following()
            while True:
                try:
                    entry, end = _DECODER.raw_decode(text, position)
                    # A number at the end of what was read may go on.
                    if end < len(text):
                        break
                    reason = "the end of the file"
                except RecursionError as error:
                    raise _damaged(path, number, "an object, got too many brackets") from error
                except ValueError as error:
                    reason = str(error)
                more = file.read(CHUNK)
                if not more or len(text) - position > MAX_LINE_CHARACTERS:
                    raise _damaged(path, number, f"a complete entry, got {reason}")
                text, position = text[position:] + more, 0
            position = end
            yield (
                entry if isinstance(entry, dict) else f"entry {number}: expected an object, got {type(entry).__name__}"
            )
            if expect(",", "]") == "]":
                return


def _damaged(path: str | os.PathLike[str], number: int, problem: str) -> InputError:
    where = f", entry {number}" if number else ""
    return InputError(f"{os.fspath(path)}{where}: expected a list of objects in JSON, and in it {problem}")
