"""Lists of items: whether an argument is one item or many, errors per item, batches, and the progress bar."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import ComputeError, EmbeddingError, InputError, as_item_error, at_index

# For type checkers: what is surely one picture, and what surely several items. (An array may be either.)
Picture = str | bytes | os.PathLike[str] | Image.Image | BinaryIO
Many = list[Any] | tuple[Any, ...]

OnError = Literal["raise", "skip"]
ItemErrorList = list[tuple[int, EmbeddingError]]  # by index


class ItemErrors:
    """The errors of one call's items: raised at once with their index, or collected.

    Args:
        on_error: "raise" or "skip".
        one: whether there is a single item; its error then names no index.
    """

    def __init__(self, on_error: str, one: bool) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
        self.skip = on_error == "skip"
        self.one = one
        self.errors: list[tuple[Any, EmbeddingError]] = []

    def each(self, items: Iterable[tuple[int, Any]], function: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        """(index, function(item)) of the usable items. Any exception of `function` is an error of its item."""
        for index, item in items:
            try:
                yield index, function(item)
            except Exception as unforeseen:
                error = as_item_error(unforeseen)
                # Other errors, such as one of a checkpoint, concern all items.
                if not isinstance(error, (InputError, ComputeError)):
                    raise
                if not self.skip:
                    error = error if self.one else at_index(error, index)
                    raise error from error.__cause__
                self.errors.append((index, at_index(error, index)))

    def result(self, value: Any) -> Any:
        """The value; with on_error="skip" a pair of the value and the errors, in the order of their items."""
        self.errors.sort(key=lambda pair: pair[0])
        return (value, self.errors) if self.skip else value


def is_single_picture(images: Any) -> bool:
    """Whether an argument is one picture, not several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and images.dtype.kind not in "OUS"
    single = (str, bytes, bytearray, memoryview, os.PathLike)
    return (
        isinstance(images, single)
        or has_attribute(images, "read")
        or (is_foreign_array(images) and images.ndim < 4)
        or not (isinstance(images, Iterable) or _is_table(images))
    )


def is_foreign_array(item: Any) -> bool:
    """Whether it is an array or tensor of another package than numpy, such as torch; not a column of a table."""
    if isinstance(item, np.ndarray) or not (has_attribute(item, "__array__") and has_attribute(item, "ndim")):
        return False
    return not _is_table(item) and isinstance(item.ndim, int) and item.ndim >= 2


def is_tensor(item: Any) -> bool:
    """Whether it is a torch tensor; torch is not imported to find out."""
    return isinstance(item, getattr(sys.modules.get("torch"), "Tensor", ()))


def is_single_text(texts: Any) -> bool:
    """Whether an argument is one text, not several. (bytes count as one item, so that the error is about bytes.)"""
    return isinstance(texts, (str, bytes, bytearray, memoryview))


def require_iterable(items: Any, what: str) -> Iterable[Any]:
    """The items unchanged, after a check that they can be iterated over as a list.

    Args:
        what: the plural that names the items in the error.

    Raises:
        InputError: a mapping, a set, a 0-d array, or a table (iterating over one yields column names).
    """
    kind = type(items).__name__
    if _is_table(items):
        raise InputError(
            f"expected one or a list of {what}, got a {kind}: pass one of its columns, such as df['caption']"
        )
    scalar = has_attribute(items, "ndim") and items.ndim == 0
    if scalar or not isinstance(items, Iterable) or isinstance(items, (set, frozenset)):
        raise InputError(f"expected one or a list of {what}, got {'a 0-d ' * scalar}{kind}")
    return items


def _is_table(items: Any) -> bool:
    """Whether it has named columns: a mapping, or a table of pandas, polars or pyarrow."""
    return isinstance(items, Mapping) or has_attribute(items, "columns") or has_attribute(items, "column_names")


def has_attribute(item: Any, name: str) -> bool:
    """As hasattr, also False for an attribute that raises another error: whoever uses the item reports that."""
    try:
        return hasattr(item, name)
    except Exception:
        return False


def is_stable_sequence(items: Iterable[Any]) -> bool:
    """Whether the items do not change while others are read."""
    return type(items) in (list, tuple, np.ndarray)


def snapshot_pictures(items: Any, what: str) -> list[Any]:
    """The pictures as a list that can be read later: some iterables yield one array or PIL image again with new content."""
    if is_stable_sequence(items):
        return list(require_iterable(items, what))
    return [_copied(item) for item in require_iterable(items, what)]


def _copied(item: Any) -> Any:
    if not isinstance(item, (np.ndarray, Image.Image)):
        return item
    try:
        return item.copy()
    # PIL reads a lazy image only now. The error of a damaged file is reported when the picture is used.
    except Exception:
        return item


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last one may be shorter."""
    size, remaining = require_integer("batch_size", size), iter(items)
    return iter(lambda: list(itertools.islice(remaining, size)), [])


def progress_bar(total: int | None, unit: str, show: bool | None, initial: int = 0, delay: float = 2.0) -> Any:
    """A progress bar: shown, hidden, or (None) shown on a terminal and in a notebook if the work takes longer than `delay`.

    On a terminal it is drawn on stderr. A notebook's output is no terminal: there it is a widget, or else text.
    """
    shown = shows_progress(show)
    kind: Any = tqdm
    if shown and _in_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as kind
    return kind(total=total, unit=unit, initial=initial, disable=not shown, delay=0.0 if show else delay)


def shows_progress(show: bool | None) -> bool:
    """Whether a progress bar is shown: as asked, or else on a terminal and in a notebook."""
    return show if show is not None else _in_notebook() or bool(sys.stderr and sys.stderr.isatty())


def _in_notebook() -> bool:
    """Whether the program runs in a kernel, whose output a notebook shows."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
