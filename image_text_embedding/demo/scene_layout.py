"""The pictures that the demonstration models learn from: everyday things of the colour emoji font, placed so that words hold.

A scene is data first (what stands where, on which background), and the words about it are worked out from that data in
`vocabulary.py`. Drawing it needs Noto Color Emoji (OFL), which nothing else here does at run time. The same seed gives the
same scene for one version of that font: the outlines of its things decide how they fit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from image_text_embedding.demo.emoji_glyphs import COLUMNS, Glyph, load_glyph
from image_text_embedding.demo.scene_objects import (
    COLOURS,
    PATTERNS,
    RELATIONS,
    SPLITS,
    THINGS,
    Relation,
    Split,
    Thing,
    held_out_pairs,
    is_held_out,
)
from image_text_embedding.foundation.errors import ConfigError

MARGIN = 0.03  # free at every edge, in widths of the picture, as all lengths here

GAP = 0.04  # at least between two things side by side; 2.5 pixels at 64

CLEAR = 0.08  # at least between two things one above the other, lest the upper seem to stand on the lower

NEAR = 0.12  # at most between things that are next to each other

SLANT = 0.5  # "left of" may go up or down by this much per step to the left

MOST = 4  # things in a picture, counted singly

SIZES = (0.20, 0.23, 0.26, 0.30, 0.34, 0.39, 0.45, 0.52, 0.60)  # few, so that the scaled glyphs can be kept

_ATTEMPTS = 200  # to place things; thousands of scenes need fewer than 40


class Box(NamedTuple):
    """A rectangle; (0, 0) is the picture's upper left corner and (1, 1) its lower right."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def moved(self, x: float, y: float) -> Box:
        return Box(self.left + x, self.top + y, self.right + x, self.bottom + y)


def around(boxes: list[Box] | tuple[Box, ...]) -> Box:
    """The smallest box that holds them all."""
    left, top, right, bottom = zip(*boxes)
    return Box(min(left), min(top), max(right), max(bottom))


@dataclass(frozen=True)
class Group:
    """One to three of one thing, side by side.

    Attributes:
        thing: what they are.
        level: their size, an index of SIZES: the longer side of each.
        boxes: where each is, tight around what is seen of the glyph.
    """

    thing: Thing
    level: int
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        return len(self.boxes)

    @property
    def box(self) -> Box:
        return around(self.boxes)

    @property
    def word(self) -> str:
        return self.thing.word(self.count)

    @property
    def phrase(self) -> str:
        return self.thing.phrase(self.count)


@dataclass(frozen=True)
class Background:
    """A named colour, plain or patterned with a second shade of it.

    Attributes:
        colour: a name of COLOURS.
        pattern: one of PATTERNS; "shaded" runs from the one shade to the other.
        shift: added to both shades, so that a colour is not always the same.
        period: of the pattern, in widths of the picture.
        slope: how far stripes and shades lean: 0 upright, 1 diagonal, infinity level.
    """

    colour: str
    pattern: str
    shift: tuple[int, int, int] = (0, 0, 0)
    period: float = 0.16
    slope: float = 0.0


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Groups are drawn in their order, the first one at the back."""

    seed: int
    split: Split
    groups: tuple[Group, ...]
    background: Background


def relation(a: Box, b: Box) -> Relation | None:
    """How a stands to b where one word is plainly right, else None.

    Left, right, above and below: a gap of at least GAP or CLEAR between them, and the way from centre to centre leans by no
    more than SLANT. On: a stands with its lower edge on the upper part of b, and its middle is over b.
    """
    (ax, ay), (bx, by) = a.centre, b.centre
    level, upright = abs(ay - by) <= SLANT * abs(ax - bx), abs(ax - bx) <= SLANT * abs(ay - by)
    if level and a.right + GAP <= b.left:
        return "left of"
    if level and b.right + GAP <= a.left:
        return "right of"
    if upright and a.bottom + CLEAR <= b.top:
        return "above"
    if upright and b.bottom + CLEAR <= a.top:
        return "below"
    if b.left < ax < b.right and a.top < b.top <= a.bottom <= by:
        return "on"
    return None


def beside(a: Box, b: Box) -> bool:
    """Whether a is next to b: left or right of it, and near."""
    return relation(a, b) in ("left of", "right of") and max(a.left - b.right, b.left - a.right) <= NEAR


def random_scene(seed: int, split: Split = "train") -> Scene:
    """The scene of a seed. The two splits have no scene in common: in each held-out one, some pair of things is new.

    Args:
        seed: 0 or more; one number, one scene.
        split: "train" draws one to three kinds of things, no two of them a held-out pair; "held_out" draws two or three,
            two of which are one.

    Raises:
        ConfigError: no such split.
        SetupError: the font is missing.
    """
    if split not in SPLITS:
        raise ConfigError(f"expected a split of {', '.join(SPLITS)}, got {split!r}")
    rng = np.random.default_rng((seed, SPLITS.index(split)))
    kinds = int(rng.choice(3, p=(0.15, 0.5, 0.35) if split == "train" else (0.0, 0.6, 0.4))) + 1
    things = _draw_things(rng, kinds, split)
    sides: list[Relation] = []
    for _ in things[1:]:
        free = [side for side in RELATIONS if side not in sides and not {"on", "above"} <= {side, *sides}]
        sides.append(free[int(rng.integers(len(free)))])
    counts = [1] * kinds
    for i in rng.permutation(kinds):
        more = int(rng.choice(3, p=(0.72, 0.18, 0.10)))
        if "on" not in (sides if i == 0 else sides[i - 1 : i]):  # what stands on a thing, and that thing, are single
            counts[i] += min(more, MOST - sum(counts))
    return compose_scene(seed, split, list(zip(things, counts)), sides)


def _draw_things(rng: np.random.Generator, kinds: int, split: Split) -> list[Thing]:
    things: list[Thing] = []
    if split == "held_out":
        pairs = held_out_pairs()
        pair = pairs[int(rng.integers(len(pairs)))]
        things = list(pair if rng.random() < 0.5 else pair[::-1])
    while len(things) < kinds:
        new = THINGS[int(rng.integers(len(THINGS)))]
        if new not in things and not (split == "train" and any(is_held_out(new.name, old.name) for old in things)):
            things.append(new)
    return [things[i] for i in rng.permutation(kinds)]


def compose_scene(
    seed: int,
    split: Split,
    things: list[tuple[Thing, int]],
    sides: list[Relation],
    background: Background | None = None,
) -> Scene:
    """A scene of the things asked for; places, sizes and, if None, the background follow from the seed.

    Args:
        things: each with its count, MOST in all. The first is the one around which the others stand.
        sides: for each further thing, how it stands to the first.

    Raises:
        ConfigError: too many things, or no room for them as they should stand.
        SetupError: the font is missing.
    """
    if not 1 <= sum(count for _, count in things) <= MOST or len(sides) != len(things) - 1:
        raise ConfigError(f"expected 1 to {MOST} things, and a side for each kind but the first; got {things}, {sides}")
    rng = np.random.default_rng((seed, SPLITS.index(split), 1))
    glyphs = [load_glyph(thing.emoji) for thing, _ in things]
    total, room = sum(count for _, count in things), 1 - 2 * MARGIN
    levels = [int(rng.integers(3, len(SIZES) - total // 2)) for _ in things]
    order = sorted(range(1, len(things)), key=lambda i: sides[i - 1] != "on")  # the rest must keep clear of these
    for attempt in range(_ATTEMPTS):
        for i, side in enumerate(sides, start=1):
            if side == "on":  # what carries should not vanish behind what it carries
                levels[i] = max(min(levels[i], levels[0] - 1), 0)
        loose = max(1 - attempt / 20, 0.0)
        rows = [_row(rng, each, SIZES[level], count) for each, level, (_, count) in zip(glyphs, levels, things)]
        boxes = [around(row) for row in rows]
        hull = boxes[0]
        for i in order:
            if sides[i - 1] == "on":
                x, y = _way_onto(rng, boxes[i], glyphs[i], boxes[0], glyphs[0])
            else:
                x, y = _way_beside(rng, boxes[i], sides[i - 1], boxes[0], hull, loose)
            rows[i] = [box.moved(x, y) for box in rows[i]]
            boxes[i] = around(rows[i])
            hull = around([hull, boxes[i]])
        width, height = hull.right - hull.left, hull.bottom - hull.top
        holds = all(relation(box, boxes[0]) == side for box, side in zip(boxes[1:], sides))
        if width <= room and height <= room and holds:
            break
        largest = int(np.argmax(levels))
        levels[largest] = max(levels[largest] - 1, 0)
    else:
        raise ConfigError(f"no room for {things} with {sides}: expected fewer things, or other sides")
    x = MARGIN - hull.left + rng.random() * (room - width)
    y = MARGIN - hull.top + rng.random() * (room - height)
    groups = tuple(
        Group(thing, level, tuple(box.moved(x, y) for box in row))
        for (thing, _), level, row in zip(things, levels, rows)
    )
    return Scene(seed, split, groups, background or _draw_background(rng, glyphs))


def _row(rng: np.random.Generator, each: Glyph, size: float, count: int) -> list[Box]:
    """`count` boxes of one glyph from left to right, a little up and down."""
    width, height = each.width * size, each.height * size
    boxes, x = [], 0.0
    for _ in range(count):
        y = (rng.random() - 0.5) * 0.3 * height if count > 1 else 0.0
        boxes.append(Box(x, y, x + width, y + height))
        x += width + 0.01 + 0.03 * rng.random()
    return boxes


def _way_beside(
    rng: np.random.Generator, a: Box, side: Relation, b: Box, hull: Box, loose: float
) -> tuple[float, float]:
    """How far a must move to be at that side of b, beyond all that is there; at `loose` 0 no farther than needed."""
    (ax, ay), (bx, by) = a.centre, b.centre
    gap = (GAP if side in ("left of", "right of") else CLEAR) + 0.005 + 0.15 * loose * rng.random() ** 2
    lean = (rng.random() - 0.5) * 2 * 0.9 * SLANT
    if side in ("left of", "right of"):
        x = hull.left - gap - a.right if side == "left of" else hull.right + gap - a.left
        return x, by - ay + lean * abs(ax + x - bx)
    y = hull.top - gap - a.bottom if side == "above" else hull.bottom + gap - a.top
    return bx - ax + lean * abs(ay + y - by), y


def _way_onto(rng: np.random.Generator, a: Box, mover: Glyph, b: Box, base: Glyph) -> tuple[float, float]:
    """How far a must move to stand on b: until a third of its underside is in touch, as their outlines run."""
    x = b.centre[0] - a.centre[0] + (rng.random() - 0.5) * 0.2 * (b.right - b.left)
    a = a.moved(x, 0)
    columns = np.linspace(max(a.left, b.left), min(a.right, b.right), COLUMNS)
    under = a.top + (a.bottom - a.top) * mover.under[_column(columns, a)]
    upper = b.top + (b.bottom - b.top) * base.upper[_column(columns, b)]
    way = float(np.quantile(upper - under, 0.35))
    deepest = b.top + 0.4 * (b.bottom - b.top) - a.bottom  # what carries must still be seen
    return x, max(min(way, deepest), b.top - a.bottom)


def _column(x: np.ndarray, box: Box) -> np.ndarray:
    return np.clip((x - box.left) / (box.right - box.left) * COLUMNS, 0, COLUMNS - 1).astype(int)


def _draw_background(rng: np.random.Generator, glyphs: list[Glyph]) -> Background:
    """Of a colour in which no thing of the scene drowns."""
    colours = [colour for colour in COLOURS if not any(colour in each.drowns for each in glyphs)]
    return Background(
        colour=colours[int(rng.integers(len(colours)))],
        pattern=PATTERNS[int(rng.choice(len(PATTERNS), p=(0.4, 0.15, 0.15, 0.15, 0.15)))],
        shift=tuple(rng.integers(-4, 5, size=3).tolist()),
        period=float(rng.choice((0.12, 0.16, 0.22))),
        slope=float(rng.choice((0.0, 1.0, np.inf))),
    )
