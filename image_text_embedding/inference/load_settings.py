"""How an encoder was loaded: a pickle or a copy of it loads the model again, and contains no weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from image_text_embedding.foundation.errors import CheckpointError, InputError
from image_text_embedding.models.model_lookup import ResolvedModel


@dataclass(frozen=True)
class LoadSettings:
    """A call of `load`, as another process can repeat it.

    Attributes:
        load: the function.
        arguments: of the call, by name, with absolute paths, as the other process may be in another folder.
        sha256: of the weights that it found.
    """

    load: Callable[..., Any]
    arguments: dict[str, Any]
    sha256: str

    def require_repeatable(self) -> None:
        """
        Raises:
            InputError: an argument is in memory only.
        """
        for kind, items in (self.arguments["calibration"] or {}).items():
            if not isinstance(items, list) or not all(isinstance(item, (str, os.PathLike)) for item in items):
                raise InputError(
                    f"an encoder can be pickled or copied if its calibration items are paths, URLs or texts in a list; those "
                    f"for {kind!r} are in memory, or come from an iterator"
                )


def repeatable_arguments(arguments: dict[str, Any], resolved: ResolvedModel) -> dict[str, Any]:
    """The arguments of `load` with absolute paths. Nothing is read from iterators."""
    model, checkpoint, calibration = (arguments[name] for name in ("model", "checkpoint", "calibration"))
    if checkpoint is not None:
        checkpoint = os.path.abspath(checkpoint)
    elif not resolved.official:
        model = os.path.abspath(model)
    if calibration is not None:
        calibration = {
            kind: [_absolute(item) if kind == "image" else item for item in items]
            if isinstance(items, (list, tuple))
            else items
            for kind, items in calibration.items()
        }
    tokenizer = _absolute(arguments["tokenizer"])
    return {**arguments, "model": model, "checkpoint": checkpoint, "tokenizer": tokenizer, "calibration": calibration}


def load_again(settings: LoadSettings) -> Any:
    """The encoder that `settings` describe.

    Raises:
        CheckpointError: the weights have changed since.
        And as `load`.
    """
    encoder = settings.load(**settings.arguments)
    found = encoder.runtime.resolved
    if found.sha256 != settings.sha256:
        raise CheckpointError(
            f"{found.source}: expected the weights of the pickled model (sha256 {settings.sha256[:12]}...), got others "
            f"({found.sha256[:12]}...), whose vectors cannot be compared to its vectors. Pickle the model again"
        )
    return encoder


def _absolute(location: Any) -> Any:
    """An existing path made absolute; anything else (a hub id, a URL, a picture) unchanged."""
    is_path = isinstance(location, (str, os.PathLike)) and os.path.exists(location)
    return os.path.abspath(location) if is_path else location
