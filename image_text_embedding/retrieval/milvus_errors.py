"""Errors of Milvus as one sentence that says what is known, and nothing that is guessed."""

from __future__ import annotations

import re
from typing import Any


def is_milvus_error(error: BaseException) -> bool:
    """Whether it is an error of Milvus, of its connection, or of its files."""
    import grpc
    from pymilvus.exceptions import MilvusException

    return isinstance(error, (MilvusException, grpc.RpcError, OSError))


def known_reason(error: Exception, timeout: float) -> str | None:
    """Why a call failed, and what to do; None if the error does not say so."""
    message = one_line(error)
    if re.search(r"\[errno (28|122)\]", message, re.IGNORECASE):  # ENOSPC, EDQUOT
        return f"the disk is full ({message}). Rows written before are safe: free some space and repeat the command"
    if message.startswith("Fail connecting to server"):
        return f"no Milvus server answered within {timeout:g} s. Is it running, and are address and token right?"
    if _is_timeout(error, message):
        return f"the server did not answer within {timeout:g} s ({message})"
    return None


def one_line(error: Exception) -> str:
    """The message of an error, in one line and not longer than a few."""
    message = " ".join(str(getattr(error, "message", "") or error).split())[:300].rstrip(".")
    return message or type(error).__name__


def _is_timeout(error: Any, message: str) -> bool:
    # Not by a word in the message, which may quote a path or a text.
    code = getattr(error, "code", None)
    code = code() if callable(code) else code
    return getattr(code, "name", None) == "DEADLINE_EXCEEDED" or bool(re.match(r"\[\w+\] Retry timeout", message))
