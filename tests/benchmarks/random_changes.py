"""Random changes of good files, for fuzzing: bytes and JSON values."""

from __future__ import annotations

import copy
import random
import struct
from typing import Any

HOSTILE: tuple[Any, ...] = (
    *(
        0,
        -1,
        -0.0,
        1,
        2,
        2**31,
        2**63,
        10**30,
        1e20,
        float("nan"),
        float("inf"),
        True,
        False,
        None,
        "",
        "\0",
        "\x1b[31m",
    ),
    *(
        "x" * 100_000,
        "../../../../etc/passwd",
        "/etc/passwd",
        [],
        {},
        [[[[]]]],
        [0] * 5000,
        {"a": {"b": []}},
        "F4",
        "F8_E4M3",
    ),
)


def changed_bytes(content: bytes, chance: random.Random) -> bytes:
    """The content with a few bytes changed, doubled, removed, or cut off."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        position = chance.randrange(len(changed) or 1)
        kind = chance.randrange(10)
        if kind < 6 and changed:
            changed[position] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 6:
            del changed[position : position + chance.randint(1, 50)]
        elif kind == 7:
            changed[position:position] = changed[position : position + chance.randint(1, 50)] * chance.choice(
                (1, 2, 100)
            )
        elif kind == 8 and len(changed) > position + 8:
            struct.pack_into("<Q", changed, position, chance.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)))
        elif kind == 9 and chance.random() < 0.3:
            del changed[position:]
    return bytes(changed)


def changed_json(value: Any, chance: random.Random) -> Any:
    """A copy of a JSON value in which some values are hostile, and some keys are missing or new."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        parent = value
        while isinstance(parent, (dict, list)) and parent:
            key = chance.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            if isinstance(parent[key], (dict, list)) and parent[key] and chance.random() < 0.85:
                parent = parent[key]
                continue
            action = chance.randrange(8)
            if action == 0:
                del parent[key]
            elif action == 1 and isinstance(parent, dict):
                parent[chance.choice(("x", "", "__class__", "model.x", "a" * 1000))] = parent[key]
            else:
                parent[key] = copy.deepcopy(chance.choice(HOSTILE))
            break
    return value
