"""Requests to the service of `serve`: bodies with something wrong. One case is REQUESTS of them, from 16 clients."""

from __future__ import annotations

import atexit
import base64
import functools
import random
import sys
from contextlib import ExitStack
from pathlib import Path

from serve_bench.mutated_requests import fuzz_service

from fuzzing.cases import Case
from fuzzing.pictures import seeds as picture_seeds

sys.path.append(str(Path(__file__).parents[2]))  # tests/, for `support`

from support.http_service import running_service

REQUESTS = 100


@functools.cache
def _port() -> int:
    """A service with the packaged model, which ends with the process."""
    open_services = ExitStack()
    atexit.register(open_services.close)
    return open_services.enter_context(running_service()).port


def case(random: random.Random, number: int) -> Case:
    """No 500, no hang, no broken connection, no error of another shape."""
    port, seed = _port(), random.getrandbits(31)
    picture = f"data:image/jpeg;base64,{base64.b64encode(picture_seeds()[0][1]).decode()}"

    def send() -> None:
        _, faults = fuzz_service(port, picture, REQUESTS, seed)
        if faults:
            raise RuntimeError(f"{len(faults)} faults: {faults[0]}")

    return f"{REQUESTS} requests, seed {seed}", send
