"""A few hundred mutated requests: no 500, no hang, no error of another shape. (`bench_serve.py` sends 100,000.)"""

from __future__ import annotations

import sys

import pytest
from support.environment import TESTS
from support.http_service import RunningService


@pytest.mark.parametrize("seed", [0, 1])
def test_mutated_requests(service: RunningService, data_urls, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(sys, "path", [str(TESTS / "benchmarks"), *sys.path])
    from serve_bench.mutated_requests import fuzz_service

    smallest = min(data_urls, key=len)
    load, faults = fuzz_service(service.port, smallest, 250, seed)
    assert faults == []
    assert load.counts[200] > 10 and load.counts[422] > 100
