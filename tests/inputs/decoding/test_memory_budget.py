"""The memory that all decoding shares: bombs at once, waiting, nested use, and the end of every wait."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.pictures import ALL, RGB, encoded

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.decoding import memory_budget
from image_text_embedding.inputs.decoding.memory_budget import DECODING_MEMORY, MemoryBudget, default_decoding_memory
from image_text_embedding.inputs.image_loading import decoded_picture, load_picture
from image_text_embedding.inputs.limits import Limits

BOMBS = """
import io, struct, sys, threading, warnings, zlib
from PIL import Image
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits

def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

def encoded(format, mode, side, **options):
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, format, **options)
    return file.getvalue()

def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith(name))

turned = b"MM\\0*\\0\\0\\0\\x08\\0\\1\\1\\x12\\0\\3\\0\\0\\0\\1\\0\\6\\0\\0\\0\\0\\0\\0"
head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3500, 3500, 1, 0, 0, 0, 0))
bombs = [
    encoded("WEBP", "RGB", 2400, lossless=True, quality=0, method=0),
    b"\\x89PNG\\r\\n\\x1a\\n" + head + chunk(b"eXIf", turned) + chunk(b"IDAT", zlib.compress(bytes(439 * 3500))),
    encoded("GIF", "P", 3500, disposal=2),
    encoded("JPEG", "RGB", 2900, progressive=True),
    encoded("JPEG2000", "L", 2000),
    encoded("WEBP", "RGB", 4000, lossless=True, quality=0, method=0),
]
open("/proc/self/clear_refs", "w").write("5")
before, limits, done = memory("VmRSS"), Limits(decoding_memory=100 * 2**20), []

def work(content):
    try:
        done.append(load_picture(content, limits).width)
    except ValueError as error:
        assert "decoding_memory" in str(error), error
        done.append("refused")

threads = [threading.Thread(target=work, args=(bombs[i % len(bombs)],)) for i in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(memory("VmHWM") - before, sorted(map(str, done)))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak memory is read from Linux's /proc")
def test_sixteen_bombs_at_once_stay_within_the_budget(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    peak, _, done = result.stdout.partition(" ")
    assert int(peak) < 100 + 300
    expected = ["2400"] * 3 + ["3500"] * 6 + ["2900"] * 3 + ["2000"] * 2 + ["refused"] * 2
    assert done.strip() == str(sorted(expected))


@pytest.mark.parametrize("format", ALL)
def test_every_format_reserves_more_than_its_pixels(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = MemoryBudget.take

    def record(self: MemoryBudget, amount: int, limit: int) -> None:
        taken.append(amount)
        take(self, amount, limit)

    monkeypatch.setattr(MemoryBudget, "take", record)
    content = encoded(Image.fromarray(RGB), format)
    for item in (content, Image.open(io.BytesIO(content))):
        taken.clear()
        load_picture(item)
        assert sum(taken) >= 6 * 600 and DECODING_MEMORY.reserved == 0
        with pytest.raises(ImageError, match=r"more than the 0 MiB .*Limits\(decoding_memory="):
            load_picture(item if item is content else Image.open(io.BytesIO(content)), Limits(decoding_memory=2400))
        assert DECODING_MEMORY.reserved == 0


def test_a_picture_in_memory_is_not_decoded() -> None:
    for item in (RGB, Image.fromarray(RGB)):
        load_picture(item, Limits(decoding_memory=1))


def test_the_picture_counts_until_the_end_of_the_block() -> None:
    with decoded_picture(encoded(Image.fromarray(RGB))) as picture:
        assert DECODING_MEMORY.reserved == 4 * 600 and picture.size == (30, 20)
        with decoded_picture(encoded(Image.fromarray(RGB))):
            assert DECODING_MEMORY.reserved == 8 * 600
    assert DECODING_MEMORY.reserved == 0


def test_nested_use_does_not_wait_for_itself() -> None:
    content = encoded(Image.fromarray(RGB))
    limits = Limits(decoding_memory=8 * 600)
    with decoded_picture(content, limits), decoded_picture(content, limits), decoded_picture(content, limits):
        assert DECODING_MEMORY.reserved == 12 * 600


def start(budget: MemoryBudget, amount: int, limit: int, order: list[int], hold: threading.Event | None = None) -> Any:
    def work() -> None:
        with budget.reservation(limit) as reservation:
            reservation.grow(amount)
            order.append(amount)
            assert hold is None or hold.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_until(condition: Any) -> None:
    waiter = threading.Event()
    for _ in range(2000):
        if condition():
            return
        waiter.wait(0.005)
    pytest.fail("nothing happened within 10 s")


def test_what_does_not_fit_waits_and_small_ones_pass_it() -> None:
    budget, order, hold = MemoryBudget(), [], threading.Event()
    first = start(budget, 80, 100, order, hold)
    wait_until(lambda: order == [80])
    large = start(budget, 90, 100, order)
    wait_until(lambda: budget._waiting)
    start(budget, 10, 100, order).join(20)
    assert order == [80, 10]
    hold.set()
    first.join(20), large.join(20)
    assert order == [80, 10, 90] and budget.reserved == 0


def test_who_has_waited_long_is_not_passed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "PATIENCE", 0.0)
    budget, order, hold = MemoryBudget(), [], threading.Event()
    first = start(budget, 80, 100, order, hold)
    wait_until(lambda: order == [80])
    large = start(budget, 90, 100, order)
    wait_until(lambda: len(budget._waiting) == 1)
    small = start(budget, 10, 100, order)
    wait_until(lambda: len(budget._waiting) == 2)
    hold.set()
    for thread in (first, large, small):
        thread.join(20)
    assert order == [80, 90, 10] and budget.reserved == 0


def test_every_wait_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "MAX_WAIT", 0.02)
    budget, hold = MemoryBudget(), threading.Event()
    first = start(budget, 80, 100, [], hold)
    wait_until(lambda: budget.reserved == 80)
    with budget.reservation(100) as reservation, pytest.raises(ImageError, match=r"waited 0\.02 s"):
        reservation.grow(30)
    hold.set()
    first.join(20)
    assert budget.reserved == 0 and not budget._waiting


def test_a_failed_decode_returns_its_memory() -> None:
    for content in (encoded(Image.fromarray(RGB))[:-100], b"GIF89a" + bytes(20), b"nothing"):
        with pytest.raises(ImageError):
            load_picture(content)
    assert DECODING_MEMORY.reserved == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_does_not_wait_for_threads_that_it_does_not_have() -> None:
    code = (
        "import os, threading\n"
        "from image_text_embedding.inputs.decoding.memory_budget import DECODING_MEMORY as memory\n"
        "with memory.reservation(100) as outer:\n"
        "    outer.grow(100)\n"
        "    assert outer.run(os.getpid) == os.getpid()\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        with memory.reservation(100) as inner:\n"
        "            inner.grow(90)\n"
        "            os._exit(0 if memory.reserved == 90 and inner.run(os.getpid) == os.getpid() else 1)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_default_follows_the_machine() -> None:
    default_decoding_memory.cache_clear()
    assert 0 < default_decoding_memory() <= 2**30
    assert Limits().decoding_memory == default_decoding_memory() and Limits().max_pixels == 100_000_000


def test_a_container_has_a_smaller_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "max").write_text(f"{400 * 2**20}\n")
    monkeypatch.setattr(memory_budget, "_CGROUP_LIMITS", (str(tmp_path / "max"), str(tmp_path / "none")))
    default_decoding_memory.cache_clear()
    assert default_decoding_memory() == 100 * 2**20
    default_decoding_memory.cache_clear()
