"""The fuzz suite runs, and would report a foreign error, a crash and a hang."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.environment import ROOT

FUZZ = ROOT / "tests" / "benchmarks" / "fuzz.py"

BROKEN = f"""
import os, signal, sys
sys.path.insert(0, {str(FUZZ.parent)!r})
import fuzz
from fuzzing.cases import Kind

def foreign(): raise KeyError("unforeseen")
def crash(): os.kill(os.getpid(), signal.SIGKILL)
def hang(): signal.pause()

CALLS = [foreign, int, crash, hang, int]
def case(random, number): return (CALLS[number].__name__, CALLS[number]) if number < len(CALLS) else None

sys.exit(fuzz.main(kinds=[Kind("broken", case, max_seconds=1.0)], script=__file__))
"""


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, "--seconds", "30", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_some_cases_of_each_quick_kind() -> None:
    done = run(FUZZ, "--cases", "60", "--only", "pictures", "tables")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [(row[0], row[1]) for row in rows if row[0] in ("pictures", "tables")] == [
        ("pictures", "60"),
        ("tables", "60"),
    ]


def test_a_foreign_error_a_crash_and_a_hang_are_faults(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    done = run(script)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[1].split()[:5] == ["broken", "5", "2", "0", "3"], done.stdout
    foreign, crash, hang = [line for line in lines if line.startswith("broken: ")]
    assert "KeyError: \"'unforeseen'\"" in foreign and foreign.endswith("case 0: foreign")
    assert crash == "broken: crash (SIGKILL): case 2: crash" and hang == "broken: hang: case 3: hang"
