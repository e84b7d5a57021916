"""Keeps other packages from changing the host program's logging, warning filters and error hooks.

Some configure logging when they are imported: pymilvus closes every handler of the process, Towhee gives the root logger a
handler, Ray replaces `sys.excepthook`. That is for the program to do, which may have done so already, or may do so later.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import logging.config
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

# These change the logging of the process; in a guarded thread they do nothing.
_FUNCTIONS: tuple[tuple[Any, str], ...] = (
    (logging, "basicConfig"),
    (logging, "captureWarnings"),
    (logging, "disable"),
    (logging, "shutdown"),
    (logging.config, "fileConfig"),
    (logging.config.DictConfigurator, "configure"),  # dictConfig calls it
)
# In a guarded thread these do nothing to a logger that the host program may have.
_LOGGER_METHODS = ("addFilter", "addHandler", "removeFilter", "removeHandler", "setLevel")
# What code may also assign to directly, without calling one of the functions above.
_LOGGER_FIELDS = ("level", "propagate", "disabled")
_HANDLER_FIELDS = ("level", "formatter")
_HOOKS: tuple[tuple[Any, str], ...] = (
    (logging, "lastResort"),
    (logging, "raiseExceptions"),
    (logging.Logger.manager, "disable"),
    (sys, "excepthook"),
    (sys, "unraisablehook"),
    (threading, "excepthook"),
    (warnings, "formatwarning"),
    (warnings, "showwarning"),
)


@contextlib.contextmanager
def host_unchanged() -> Iterator[None]:
    """Whatever this thread does meanwhile, existing loggers and handlers, warning filters and hooks stay as they were.

    Loggers that are created meanwhile are left to their creator. Warnings are hidden meanwhile: our users cannot do anything
    about those of other packages, and with `python -W error` a package could not be imported. Other threads can log, and
    configure logging, as always; only a warning, a warning filter or a hook of theirs is lost at this moment.
    """
    with _guard.lock:
        _guard.enter()
    try:
        yield
    finally:
        with _guard.lock:
            _guard.leave()


class _Guard:
    """The guarded threads, and what they must not change: saved when the first one enters, restored when one leaves."""

    def __init__(self) -> None:
        # The lock of logging itself: with one of our own, two threads that take both could wait for each other. It is not
        # held while a package is imported.
        self.lock: threading.RLock = logging._lock  # type: ignore[attr-defined]
        self._depths: dict[int, int] = {}  # guarded thread -> how many times it has entered
        self._loggers: dict[logging.Logger, list[Any]] = {}
        self._handlers: list[tuple[logging.Handler, list[Any]]] = []
        self._undo: list[Callable[[], None]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_other_threads)

    def enter(self) -> None:
        if not self._depths:
            self._save()
            self._patch()
        thread = threading.get_ident()
        self._depths[thread] = self._depths.get(thread, 0) + 1

    def leave(self) -> None:
        thread = threading.get_ident()
        self._depths[thread] -= 1
        if not self._depths[thread]:
            del self._depths[thread]
            self._restore()
            self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._depths:
            warnings.simplefilter("ignore")
        else:
            for undo in reversed(self._undo):
                undo()
            self._undo, self._handlers, self._loggers = [], [], {}

    def _forget_other_threads(self) -> None:
        thread = threading.get_ident()
        self._depths = {thread: self._depths[thread]} if thread in self._depths else {}
        self._end_if_unused()

    def _save(self) -> None:
        named = [each for each in list(logging.Logger.manager.loggerDict.values()) if isinstance(each, logging.Logger)]
        self._loggers = {logger: _state(logger, _LOGGER_FIELDS) for logger in (logging.root, *named)}
        references = list(logging._handlerList)  # type: ignore[attr-defined]
        # A program that used dictConfig has emptied that list, and its loggers may still have handlers from before.
        handlers = dict.fromkeys(
            handler
            for handler in (
                *(reference() for reference in references),
                *(handler for logger in self._loggers for handler in logger.handlers),
            )
            if handler is not None
        )
        self._handlers = [(handler, _state(handler, _HANDLER_FIELDS)) for handler in handlers]
        self._hooks = [getattr(owner, name) for owner, name in _HOOKS]
        self._logger_class, self._record_factory = logging.getLoggerClass(), logging.getLogRecordFactory()
        self._level_names = {level: logging.getLevelName(level) for level in range(0, 60, 10)}
        # The list itself, because another thread's `catch_warnings` may replace it before the end.
        self._filters: Any = warnings.filters
        self._filters_before = list(self._filters)
        warnings.simplefilter("ignore")

    def _restore(self) -> None:
        for logger, state in self._loggers.items():
            _set_state(logger, _LOGGER_FIELDS, state)
        for handler, state in self._handlers:
            _set_state(handler, _HANDLER_FIELDS, state)
        for (owner, name), value in zip(_HOOKS, self._hooks):
            setattr(owner, name, value)
        logging.setLoggerClass(self._logger_class)
        logging.setLogRecordFactory(self._record_factory)
        for level, name in self._level_names.items():
            if logging.getLevelName(level) != name:
                logging.addLevelName(level, name)
        # Loggers remember which levels are enabled.
        logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]
        if self._filters != self._filters_before:
            self._filters[:] = self._filters_before

    def _patch(self) -> None:
        for owner, name in _FUNCTIONS:
            self._replace(owner, name, self._ignored(getattr(owner, name)))
        for name in _LOGGER_METHODS:
            self._replace(logging.Logger, name, self._ignored_for_existing(getattr(logging.Logger, name)))
        for handler, _ in self._handlers:
            self._replace(handler, "close", self._ignored(handler.close))

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        own = vars(owner).get(name)  # None: inherited

        def undo() -> None:
            if vars(owner).get(name) is not function:
                return  # someone else has replaced it since, and calls ours
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

        setattr(owner, name, function)
        self._undo.append(undo)

    def _is_guarded(self) -> bool:
        return threading.get_ident() in self._depths

    def _ignored(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return None if self._is_guarded() else function(*args, **kwargs)

        return call

    def _ignored_for_existing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(logger: logging.Logger, *args: Any, **kwargs: Any) -> None:
            with self.lock:
                existing = logger in self._loggers
                if existing and self._is_guarded():
                    return
                method(logger, *args, **kwargs)
                if existing:
                    self._loggers[logger] = _state(logger, _LOGGER_FIELDS)

        return call


def _state(owner: logging.Logger | logging.Handler, fields: tuple[str, ...]) -> list[Any]:
    """The values of a logger's or handler's fields, behind copies of its lists."""
    return [list(owner.filters), list(getattr(owner, "handlers", ())), *(getattr(owner, name) for name in fields)]


def _set_state(owner: logging.Logger | logging.Handler, fields: tuple[str, ...], state: list[Any]) -> None:
    filters, handlers, *values = state
    if owner.filters != filters:
        owner.filters = list(filters)
    if isinstance(owner, logging.Logger) and owner.handlers != handlers:
        owner.handlers = list(handlers)
    for name, value in zip(fields, values):
        if getattr(owner, name) != value:
            setattr(owner, name, value)


_guard = _Guard()
