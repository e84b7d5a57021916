"""Hostile input of every kind, and what became of it: `python tests/benchmarks/fuzz.py`, about six minutes; needs Linux.

Every kind has a process of its own. Allowed are a result, or one of the package's own errors; foreign errors, crashes, hangs
and cases that take too much time or memory are faults, listed with the case's number. `--seed`, `--only`, `--start` and
`--cases 1` repeat one.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from collections.abc import Callable, Sequence

from fuzzing import execution
from fuzzing.cases import Case, Kind


def _from(module: str, name: str = "case") -> Callable[[random.Random, int], Case | None]:
    """A function of `fuzzing`; its module is imported in the worker that needs it."""

    def case(random: random.Random, number: int) -> Case | None:
        found: Case | None = getattr(importlib.import_module(f"fuzzing.{module}"), name)(random, number)
        return found

    return case


KINDS = [
    Kind("pictures", _from("pictures")),
    Kind("bombs", _from("bombs"), max_seconds=90.0),
    Kind("tables", _from("tables")),
    Kind("data-urls", _from("strings", "data_url"), max_seconds=30.0),
    Kind("configurations", _from("strings", "config"), max_seconds=30.0),
    Kind("metadata", _from("strings", "metadata"), max_seconds=30.0),
    Kind("texts", _from("strings", "text"), max_seconds=60.0),
    Kind("safetensors", _from("checkpoints", "safetensors")),
    Kind("pickles", _from("checkpoints", "pickles")),
    Kind("config.json", _from("checkpoints", "huggingface_config")),
    Kind("recipes", _from("checkpoints", "recipes")),
    Kind("vocabularies", _from("checkpoints", "vocabularies")),
    Kind("shards", _from("checkpoints", "shards")),
    Kind("requests", _from("service_requests"), max_seconds=120.0),
]


def main(arguments: Sequence[str] | None = None, kinds: Sequence[Kind] = KINDS, script: str = __file__) -> int:
    """Print a table, and all faults below it. 1 if there is a fault.

    Args:
        script: the file that calls this function with these kinds; it is run again for each kind.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=25.0, help="for each kind")
    parser.add_argument("--cases", type=int, help="stop a kind after so many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[kind.name for kind in kinds], metavar="KIND")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    given = parser.parse_args(arguments)
    if given.worker:
        (kind,) = (kind for kind in kinds if kind.name == given.worker)
        execution.work(kind, given.seed, given.start, given.seconds, given.cases)
        return 0
    kinds = [kind for kind in kinds if given.only is None or kind.name in given.only]
    print("kind            cases  accepted  refused  faults  slowest   largest")
    faults = []
    for kind in kinds:
        found = execution.run_kind(script, kind, given.seed, given.start, given.seconds, given.cases)
        faults += [f"{kind.name}: {fault}" for fault in found.faults]
        print(
            f"{kind.name:14} {found.cases:6} {found.accepted:9} {found.refused:8} {len(found.faults):7} "
            f"{found.slowest[0]:7.2f}s {found.largest[0]:7}MB"
        )
        print(f"{'':14} slowest: {found.slowest[1]}; largest: {found.largest[1]}", flush=True)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
