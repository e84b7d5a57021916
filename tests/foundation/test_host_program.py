"""Imports that this package causes leave the host program's logging, warnings and hooks as they were."""

from __future__ import annotations

import importlib.util
import logging
import logging.handlers
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_text_embedding.foundation.errors import SetupError
from image_text_embedding.foundation.host_program import host_unchanged
from image_text_embedding.foundation.optional_imports import import_optional, import_package

WAIT = 60  # seconds; nothing takes that long

# What packages do when they are imported, and worse.
RUDE = """
import logging, logging.config, sys, threading, warnings

warnings.warn("rude is deprecated", DeprecationWarning)
configuration = {"version": 1, "root": {"level": "DEBUG"}, "disable_existing_loggers": True}
own = logging.getLogger("rude")
own.addHandler(logging.StreamHandler())
own.setLevel("DEBUG")
logging.basicConfig(level="DEBUG")
logging.basicConfig(level="DEBUG", force=True)
logging.config.dictConfig(configuration)
logging.config.DictConfigurator(configuration).configure()
logging.warning("the first message on the root logger configures it")
logging.shutdown()
logging.captureWarnings(True)
logging.disable("CRITICAL")
logging.raiseExceptions = False
logging.lastResort = None
logging.addLevelName(logging.WARNING, "rude")
logging.setLogRecordFactory(lambda *args: logging.LogRecord(*args))
logging.setLoggerClass(type("Rude", (logging.Logger,), {}))
for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
    if isinstance(logger, logging.Logger) and logger is not own:
        logger.setLevel("DEBUG")
        logger.propagate, logger.disabled, logger.level = False, True, 17
        for handler in list(logger.handlers):
            handler.setLevel("CRITICAL")
            handler.addFilter(lambda record: False)
            handler.setFormatter(None)
            logger.removeHandler(handler)
            handler.close()
        logger.handlers.clear()
        logger.addFilter(lambda record: False)
        logger.filters.append(lambda record: False)
        logger.handlers.append(logging.NullHandler())
sys.excepthook = sys.unraisablehook = threading.excepthook = warnings.showwarning = print
warnings.formatwarning = repr
warnings.simplefilter("always")
"""


@pytest.fixture
def rude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that changes everything; it is not imported yet."""
    (tmp_path / "rude.py").write_text(RUDE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "rude"
    sys.modules.pop("rude", None)
    logging.root.manager.loggerDict.pop("rude", None)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[logging.Logger]:
    """A logger as a program has it: a file that is opened once, and a memory that is written to another file at the end."""
    logger = logging.Logger.manager.getLogger("a host program")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    file = logging.FileHandler(tmp_path / "file.log", mode="w")
    target = logging.FileHandler(tmp_path / "memory.log", mode="w")
    memory = logging.handlers.MemoryHandler(100, target=target)
    for handler in (file, memory):
        logger.addHandler(handler)
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    target.close()
    del logging.Logger.manager.loggerDict[logger.name]


def state() -> dict[str, Any]:
    """All that an import must not change."""
    found: dict[str, Any] = {
        "levels": [logging.getLevelName(level) for level in range(0, 60, 10)],
        "classes": (logging.getLoggerClass(), logging.getLogRecordFactory(), logging.lastResort),
        "flags": (logging.raiseExceptions, logging.root.manager.disable),
        "hooks": (
            sys.excepthook,
            sys.unraisablehook,
            threading.excepthook,
            warnings.showwarning,
            warnings.formatwarning,
        ),
        "filters": list(warnings.filters),
        "functions": (logging.basicConfig, logging.shutdown, logging.Logger.addHandler, logging.Logger.addFilter),
    }
    loggers = logging.root.manager.loggerDict
    for logger in [logging.root, *(each for each in loggers.values() if isinstance(each, logging.Logger))]:
        found[logger.name] = (
            logger.level,
            logger.disabled,
            logger.propagate,
            list(logger.handlers),
            list(logger.filters),
        )
        for handler in logger.handlers:
            found[f"{logger.name} {handler!r}"] = (
                handler.level,
                handler.formatter,
                list(handler.filters),
                handler.close,
            )
    return found


def test_an_import_changes_nothing_of_the_host_program(rude: str, host: logging.Logger, tmp_path: Path) -> None:
    host.info("before")
    before = state()
    module = import_package(rude)
    after = state()
    assert (module.own.level, len(module.own.handlers)) == (logging.DEBUG, 1)  # its own logger is its own affair
    assert {name: after[name] for name in before} == before
    assert len(host.handlers[1].buffer) == 1  # the memory was not written
    host.info("after")
    for handler in host.handlers:
        handler.flush()
    for file in ("file.log", "memory.log"):
        assert (tmp_path / file).read_text().split() == ["before", "after"]


def test_a_failed_import_changes_nothing_either(rude: str, tmp_path: Path) -> None:
    (tmp_path / "rude.py").write_text(RUDE + "import no_such_module")
    before = state()
    with pytest.raises(SetupError, match="no_such_module"):
        import_optional(rude, "rude", "a test")
    after = state()
    assert {name: after[name] for name in before} == before


def test_the_host_program_may_configure_logging_meanwhile(host: logging.Logger, tmp_path: Path) -> None:
    """What another thread does during an import stays, and its records are written."""
    added, removed = logging.FileHandler(tmp_path / "new.log", mode="w"), host.handlers[1]
    started, configured = threading.Event(), threading.Event()

    def importing() -> None:
        with host_unchanged():
            with host_unchanged():
                started.set()
            assert configured.wait(WAIT)
            host.removeHandler(added)
            added.close()
            host.setLevel(logging.CRITICAL)
            host.handlers.clear()

    thread = threading.Thread(target=importing)
    thread.start()
    assert started.wait(WAIT)
    host.addHandler(added)
    host.removeHandler(removed)
    removed.close()
    host.setLevel(logging.DEBUG)
    host.debug("meanwhile")
    configured.set()
    thread.join(WAIT)
    host.debug("afterwards")
    assert host.level == logging.DEBUG and added in host.handlers and removed not in host.handlers
    added.flush()
    assert (tmp_path / "new.log").read_text().split() == ["meanwhile", "afterwards"]


def test_two_imports_at_once(rude: str, host: logging.Logger) -> None:
    before, entered, left = state(), threading.Barrier(2), threading.Event()

    def importing(first: bool) -> None:
        with host_unchanged():
            entered.wait(WAIT)
            logging.root.addHandler(logging.NullHandler())
            host.handlers.clear()
            if not first:
                assert left.wait(WAIT)
                host.handlers.clear()
                logging.basicConfig(force=True)
        if first:
            assert host.handlers
            left.set()

    threads = [threading.Thread(target=importing, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert state() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_that_is_forked_during_an_import_can_configure_its_logging() -> None:
    started, ended = threading.Event(), threading.Event()

    def importing() -> None:
        with host_unchanged():
            started.set()
            ended.wait(WAIT)

    thread = threading.Thread(target=importing)
    thread.start()
    assert started.wait(WAIT)
    child = os.fork()
    if child == 0:
        os._exit("host_program" in logging.basicConfig.__code__.co_filename)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended.set()
    thread.join(WAIT)
    assert status == 0


# Packages that configure logging when they are imported, in a program that has configured it, or does so later.
PROGRAM = """
import logging, logging.handlers, sys, warnings
folder, configures_first = sys.argv[1], sys.argv[2] == "True"

def configure():
    file = logging.FileHandler(f"{folder}/file.log", mode="w")
    memory = logging.handlers.MemoryHandler(100, target=logging.FileHandler(f"{folder}/memory.log", mode="w"))
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[file, memory])
    logging.getLogger("host").info("before")

if configures_first:
    configure()
hooks = sys.excepthook, logging.getLogRecordFactory(), logging.getLoggerClass()
import image_text_embedding as ite
from image_text_embedding.foundation.optional_imports import import_optional
if configures_first:
    ite.Gallery.open(f"{folder}/gallery.db", modality="text").add(texts=["a dog"])
    import_optional("ray.data", "ray", "a test")
filters = list(warnings.filters)
import_optional("pymilvus", "search", "a test")
import_optional("onnxruntime.quantization", "onnx", "a test")
assert warnings.filters == filters
assert (sys.excepthook, logging.getLogRecordFactory(), logging.getLoggerClass()) == hooks
if not configures_first:
    assert (logging.root.handlers, logging.root.level) == ([], logging.WARNING), logging.root.handlers
    configure()
logging.getLogger("host").info("after")
"""


@pytest.mark.parametrize("configures_first", [True, False])
def test_the_real_packages(configures_first: bool, tmp_path: Path) -> None:
    for module in ("pymilvus", "milvus_lite", "ray", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(configures_first)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for file in ("file.log", "memory.log"):
        lines = (tmp_path / file).read_text().splitlines()
        assert [line for line in lines if line in ("before", "after")] == ["before", "after"]
