"""Writing an answer line by line, so that the same command continues after a stop. Memory does not grow with the input."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.exclusive_lock import LockHeldError, acquire_lock
from image_text_embedding.inputs.item_lists import batches


def write_lines(
    out: Path, identity: dict[str, Any], items: Iterable[Any], answer: Callable[[list[Any]], list[str]], size: int
) -> tuple[int, int]:
    """Write a line for each item, `size` at a time. `out` appears when all are written; until then they are in `out`.part.

    Args:
        identity: what the lines depend on, as JSON; a run with another identity does not continue this one.
        answer: items -> a line for each, without its end.

    Returns:
        (how many are new, how many an earlier run had written)

    Raises:
        InputError: it was begun with other settings, another process writes it, or it cannot be written.
    """
    part, begun = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.part.json")
    try:
        lock = acquire_lock(out.with_name(f"{out.name}.lock"))
    except LockHeldError as error:
        raise InputError(f"another process is writing {out}") from error
    except OSError as error:
        raise _cannot_write(out, error) from error
    try:
        done = _continue(part, begun, identity)
        new = 0
        with part.open("a", encoding="utf-8", newline="") as file:
            for batch in batches(itertools.islice(items, done, None), size):
                file.writelines(f"{line}\n" for line in answer(batch))
                file.flush()
                new += len(batch)
            os.fsync(file.fileno())
        os.replace(part, out)
        begun.unlink(missing_ok=True)
        return new, done
    except OSError as error:
        raise _cannot_write(out, error) from error
    finally:
        # Its file stays: another process may hold it by now, and a third would lock a new file of that name.
        lock.release()


def _continue(part: Path, begun: Path, identity: dict[str, Any]) -> int:
    """How many lines are there already; what follows the last complete one is cut off."""
    if not part.exists():
        atomic_write(begun, json.dumps(identity).encode())
        return 0
    try:
        earlier = json.loads(begun.read_bytes())
    except (OSError, ValueError):
        earlier = None
    if earlier != json.loads(json.dumps(identity)):
        raise InputError(
            f"cannot resume {part} with another input, model or settings: repeat the earlier command, or remove the file"
        )
    lines = complete = 0
    with part.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, complete = lines + 1, complete + len(line)
        file.truncate(complete)
    return lines


def _cannot_write(out: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {out}: {error.strerror or error}")
