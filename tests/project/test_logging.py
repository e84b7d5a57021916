"""Logging is the program's: our loggers have standard names, we configure none, and ordinary work writes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from support.environment import ROOT
from support.packaged_pictures import PATHS

PACKAGE = ROOT / "image_text_embedding"
# `serve` is a program of its own.
PROGRAMS = {PACKAGE / "interfaces" / "serving" / "server.py"}

QUIET = """
import logging, sys
import image_text_embedding as ite
picture = sys.argv[1]
for name in ("blip_demo", "albef_demo"):
    model = ite.load(name)
    vectors = model.encode_image([picture] * 3), model.encode_text(["a dog"])
    model.similarity(*vectors), model.match(picture, "a dog"), model.rerank("a dog", [picture])
    model.coalesce().encode_text("a dog"), list(model.stream_text(["a dog"])), model.explain(picture, "a dog")
model = ite.load("blip_demo")
model.caption(picture), model.answer(picture, "what is it?"), model.analyze(picture)
with ite.Gallery.open("gallery.db", model) as gallery:
    gallery.add([picture])
    gallery.search("a dog", rerank=1)
assert logging.root.handlers == [] and logging.root.level == logging.WARNING, logging.root.handlers
ours = {name: logging.getLogger(name) for name in logging.root.manager.loggerDict if "text_embedding" in name}
assert all(name.split(".")[0] == "image_text_embedding" for name in ours), ours
assert not [name for name, logger in ours.items() if logger.handlers or logger.level], ours
"""


def test_ordinary_work_writes_nothing_and_configures_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", QUIET, str(PATHS[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loggers_have_our_names_and_only_programs_configure_them() -> None:
    loggers, configured = [], []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("logging.basicConfig", "logging.config.dictConfig", "logging.captureWarnings"):
                configured.append(path)
            if called == "logging.getLogger" and isinstance(node.args[0] if node.args else None, ast.Constant):
                loggers.append(node.args[0].value)
            # The root logger's own functions: logging.warning(...) configures it.
            assert called not in [f"logging.{level}" for level in ("debug", "info", "warning", "error", "critical")], (
                path
            )
            assert called != "logging.getLogger" or node.args, path
    assert set(configured) == PROGRAMS
    others = {"ray.data", "grpc._server", "milvus_lite.server_manager"}  # that others log too much to
    assert {name for name in loggers if not name.startswith("image_text_embedding.")} <= others and len(loggers) > 3
