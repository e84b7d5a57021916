"""Recognises a process that was forked after a model had been loaded, because torch would hang there.

OpenMP gives each thread that computes a pool of threads of its own. A forked process begins with a copy of one thread, whose
pool seems to exist but has no threads: its first parallel computation waits for them forever. Threads that the new process
starts have new pools, and a computation in a single thread needs none.
"""

from __future__ import annotations

import os
import threading

from image_text_embedding.foundation.errors import ComputeError
from image_text_embedding.models.devices import DeviceSpec, compute_threads


class _Process:
    """What is known of this process.

    Attributes:
        has_model: whether a model was loaded in it, or before it was forked.
        forked_thread: in a process that was forked with a model, its first thread.
    """

    has_model = False
    forked_thread: int | None = None


def note_loaded_model() -> int:
    """Remember that this process loads a model. Returns the process's id, for `require_computing`."""
    _Process.has_model = True
    return os.getpid()


def require_computing(device: DeviceSpec, loaded_in: int) -> None:
    """Check that this thread can compute with a model.

    Args:
        loaded_in: the id of the process that loaded it.

    Raises:
        ComputeError: torch would hang, or cannot use the GPU; the message says what to do.
    """
    if device.type != "cpu" and loaded_in != os.getpid():
        raise ComputeError(f"this process was forked after the model was loaded on {device}: {_ADVICE}")
    if _Process.forked_thread == threading.get_ident() and compute_threads() > 1:
        raise ComputeError(
            "this process was forked after a model was loaded, and torch hangs there when it computes in more than one "
            f"thread: {_ADVICE}, or call torch.set_num_threads(1) in the new process"
        )


_ADVICE = 'load models only after the fork, or start the process with multiprocessing.get_context("spawn")'


def _after_fork() -> None:
    if _Process.has_model:
        _Process.forked_thread = threading.get_ident()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
