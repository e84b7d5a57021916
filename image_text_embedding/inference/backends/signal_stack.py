"""Undoes what OpenVINO does to a thread's signal stack, without which Ctrl-C may end the process in a segmentation fault.

When OpenVINO's CPU plugin is loaded, it gives the calling thread a signal stack of its own, and unmaps it when it is
unloaded. If two plugins are unloaded in the order of their loading, or one by another thread, the thread keeps a signal
stack that is no longer mapped, and the kernel ends the process at the next signal with a Python handler (OpenVINO 2026.4).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux; see sigaltstack(2)."""

    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextlib.contextmanager
def unchanged_signal_stack() -> Iterator[None]:
    """Give the calling thread the signal stack back that it had before. OpenVINO changes it on Linux only.

    If the kernel refuses the old one (it is too small for the registers that the process uses by now), OpenVINO's stays.
    """
    if sys.platform != "linux":
        yield
        return
    library, before = ctypes.CDLL(None), _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)
