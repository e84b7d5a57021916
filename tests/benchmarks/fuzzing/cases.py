"""What a kind of hostile input is: numbered cases, each a function to call; and damaged copies of bytes and JSON."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HOSTILE: tuple[Any, ...] = (
    *(0, -1, -0.0, 1, 2, 2**31, 2**63, 10**30, 1e20, float("nan"), float("inf"), True, False, None),
    *("", "\0", "\x1b[31m", "x" * 100_000, "../../../../etc/passwd", "/etc/passwd", "F4", "F8_E4M3"),
    *([], {}, [[[[]]]], [0] * 5000, {"a": {"b": []}}),
)

Case = tuple[str, Callable[[], Any]]  # what it is, in a few words, and the call


@dataclass(frozen=True)
class Kind:
    """A kind of hostile input.

    Attributes:
        name: as `fuzz.py --only` takes it.
        case: (a generator for this case, its number) -> the case; None = there are no more.
        max_seconds: a case that runs longer counts as a hang.
        max_megabytes: a case that adds more to the process's memory counts as too large.
    """

    name: str
    case: Callable[[random.Random, int], Case | None]
    max_seconds: float = 10.0
    max_megabytes: int = 1400  # the default budget of all decoding, and what the interpreter needs besides


def mutated(content: bytes, other: bytes, random: random.Random) -> tuple[str, bytes]:
    """A damaged copy of `content`: (what was done, bytes). `other` is spliced in at times."""
    data = bytearray(content)
    ways = ("flip", "extreme", "cut", "repeat", "remove", "insert", "splice", "length")
    done = []
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        way = random.choice(ways)
        done.append(way)
        at = random.randrange(len(data)) if data else 0
        # Headers matter most: half of all changes are among the first bytes.
        at = min(at, random.randrange(128)) if random.random() < 0.5 else at
        length = random.choice((1, 2, 4, 8, 64, 1024))
        if way == "flip" and data:
            data[at] ^= 1 << random.randrange(8)
        elif way == "extreme":
            data[at : at + 1] = bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF))])
        elif way == "length":
            value = random.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, random.getrandbits(32)))
            data[at : at + 4] = value.to_bytes(4, random.choice(("big", "little")))
        elif way == "cut":
            del data[at:]
        elif way == "repeat":
            data[at:at] = data[at : at + length] * random.choice((1, 2, 100))
        elif way == "remove":
            del data[at : at + length]
        elif way == "insert":
            data[at:at] = random.randbytes(length)
        elif way == "splice":
            data[at:] = other[random.randrange(len(other) + 1) :]
    return "+".join(done), bytes(data[: 8 * 2**20])


def changed_json(value: Any, random: random.Random) -> Any:
    """A copy of a JSON value in which some values are hostile, and some keys are missing or new."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        parent = value
        while isinstance(parent, (dict, list)) and parent:
            key = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            if isinstance(parent[key], (dict, list)) and parent[key] and random.random() < 0.85:
                parent = parent[key]
                continue
            action = random.randrange(8)
            if action == 0:
                del parent[key]
            elif action == 1 and isinstance(parent, dict):
                parent[random.choice(("x", "", "__class__", "model.x", "a" * 1000))] = parent[key]
            else:
                parent[key] = copy.deepcopy(random.choice(HOSTILE))
            break
    return value
