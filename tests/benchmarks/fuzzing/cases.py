"""What a kind of hostile input is: numbered cases, each a function to call; and damaged copies of bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
