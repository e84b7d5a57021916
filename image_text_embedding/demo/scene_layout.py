"""Scenes as data: which things stand where, on which background, so that exactly the relations asked for hold.

`scene_drawing` draws a scene, and `scene_language` describes it in words. Composing a scene needs the font Noto Color Emoji
(OFL), because the outlines of its glyphs determine how things fit together: a seed gives the same scene only with the same
version of the font.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from image_text_embedding.demo.emoji_glyphs import OUTLINE_COLUMNS, Glyph, load_glyph
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

MARGIN = 0.03  # free at every edge; this and all lengths below are in widths of the picture

GAP = 0.04  # minimum between two things side by side; 2.5 pixels at 64

CLEAR = 0.08  # minimum between two things one above the other; with less, the upper seems to stand on the lower

NEAR = 0.12  # maximum between things that are next to each other

SLANT = 0.5  # how far "left of" may go up or down per unit to the left

MAX_THINGS = 4  # in a picture, each single one counted

SIZES = (0.20, 0.23, 0.26, 0.30, 0.34, 0.39, 0.45, 0.52, 0.60)  # few, so that scaled glyphs can be cached

_ATTEMPTS = 200  # at arranging the things; thousands of scenes need fewer than 40


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
    """The smallest box that contains all of them."""
    left, top, right, bottom = zip(*boxes)
    return Box(min(left), min(top), max(right), max(bottom))


@dataclass(frozen=True)
class Group:
    """One to three of one thing, side by side.

    Attributes:
        thing: what they are.
        level: their size, an index of SIZES: the longer side of each.
        boxes: where each is; tight around the visible part of the glyph.
    """

    thing: Thing
    level: int
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        return len(self.boxes)

    @functools.cached_property
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
        pattern: one of PATTERNS; "shaded" is a gradient from one shade to the other.
        shift: added to the RGB values of both shades, so that a colour varies a little.
        period: of the pattern, in widths of the picture.
        slope: of stripes and gradients: 0 vertical, 1 diagonal, infinity horizontal.
    """

    colour: str
    pattern: str
    shift: tuple[int, int, int] = (0, 0, 0)
    period: float = 0.16
    slope: float = 0.0


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Groups are drawn in their order, the first at the back."""

    seed: int
    split: Split
    groups: tuple[Group, ...]
    background: Background


@functools.lru_cache(maxsize=1024)  # the texts of a scene ask for the same relations again and again
def relation(a: Box, b: Box) -> Relation | None:
    """How a stands to b, if one relation clearly holds; else None.

    Left, right, above and below: a gap of at least GAP or CLEAR between them, and the line from centre to centre leans by at
    most SLANT. On: the lower edge of a lies on the upper half of b, and the centre of a is above b.
    """
    (ax, ay), (bx, by) = a.centre, b.centre
    is_level, is_upright = abs(ay - by) <= SLANT * abs(ax - bx), abs(ax - bx) <= SLANT * abs(ay - by)
    if is_level and a.right + GAP <= b.left:
        return "left of"
    if is_level and b.right + GAP <= a.left:
        return "right of"
    if is_upright and a.bottom + CLEAR <= b.top:
        return "above"
    if is_upright and b.bottom + CLEAR <= a.top:
        return "below"
    if b.left < ax < b.right and a.top < b.top <= a.bottom <= by:
        return "on"
    return None


def beside(a: Box, b: Box) -> bool:
    """Whether a is next to b: left or right of it, and near."""
    return relation(a, b) in ("left of", "right of") and max(a.left - b.right, b.left - a.right) <= NEAR


@functools.lru_cache(maxsize=8)
def random_scene(seed: int, split: Split = "train") -> Scene:
    """The scene of a seed. Every scene of the split "held_out" has a pair of things that never occurs in "train".

    Args:
        seed: 0 or more.
        split: "train" draws one to three kinds of things without held-out pairs; "held_out" draws two or three, with at
            least one held-out pair.

    Raises:
        ConfigError: an unknown split.
        SetupError: the font is missing.
    """
    if split not in SPLITS:
        raise ConfigError(f"expected a split of {', '.join(SPLITS)}, got {split!r}")
    rng = np.random.default_rng((seed, SPLITS.index(split)))
    kinds = int(rng.choice(3, p=(0.15, 0.5, 0.35) if split == "train" else (0.0, 0.6, 0.4))) + 1
    things = _draw_things(rng, kinds, split)
    sides: list[Relation] = []
    for _ in things[1:]:
        available = [side for side in RELATIONS if side not in sides and not {"on", "above"} <= {side, *sides}]
        sides.append(available[int(rng.integers(len(available)))])
    counts = [1] * kinds
    for i in rng.permutation(kinds):
        more = int(rng.choice(3, p=(0.72, 0.18, 0.10)))
        # A thing that stands on another is single, and so is the other.
        if "on" not in (sides if i == 0 else sides[i - 1 : i]):
            counts[i] += min(more, MAX_THINGS - sum(counts))
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
    """A scene of the given things. Positions, sizes and, if it is None, the background depend on the seed.

    Args:
        things: each with its count, at most MAX_THINGS in all. The others are arranged around the first.
        sides: for each further thing, how it stands to the first.

    Raises:
        ConfigError: too many things, or no arrangement fits into the picture.
        SetupError: the font is missing.
    """
    if not 1 <= sum(count for _, count in things) <= MAX_THINGS or len(sides) != len(things) - 1:
        raise ConfigError(
            f"expected 1 to {MAX_THINGS} things, and a side for each kind but the first; got {things}, {sides}"
        )
    rng = np.random.default_rng((seed, SPLITS.index(split), 1))
    glyphs = [load_glyph(thing.emoji) for thing, _ in things]
    total, available = sum(count for _, count in things), 1 - 2 * MARGIN
    levels = [int(rng.integers(3, len(SIZES) - total // 2)) for _ in things]
    # Things on the first one are placed first, because the others keep their distance from them.
    order = sorted(range(1, len(things)), key=lambda i: sides[i - 1] != "on")
    for attempt in range(_ATTEMPTS):
        for i, side in enumerate(sides, start=1):
            # The lower thing should not vanish behind the one on it.
            if side == "on":
                levels[i] = max(min(levels[i], levels[0] - 1), 0)
        looseness = max(1 - attempt / 20, 0.0)
        rows = [_row(rng, each, SIZES[level], count) for each, level, (_, count) in zip(glyphs, levels, things)]
        boxes = [around(row) for row in rows]
        hull = boxes[0]
        for i in order:
            if sides[i - 1] == "on":
                x, y = _move_onto(rng, boxes[i], glyphs[i], boxes[0], glyphs[0])
            else:
                x, y = _move_beside(rng, boxes[i], sides[i - 1], boxes[0], hull, looseness)
            rows[i] = [box.moved(x, y) for box in rows[i]]
            boxes[i] = around(rows[i])
            hull = around([hull, boxes[i]])
        width, height = hull.right - hull.left, hull.bottom - hull.top
        holds = all(relation(box, boxes[0]) == side for box, side in zip(boxes[1:], sides))
        if width <= available and height <= available and holds:
            break
        largest = int(np.argmax(levels))
        levels[largest] = max(levels[largest] - 1, 0)
    else:
        raise ConfigError(f"no room for {things} with {sides}: expected fewer things or other sides")
    x = MARGIN - hull.left + rng.random() * (available - width)
    y = MARGIN - hull.top + rng.random() * (available - height)
    groups = tuple(
        Group(thing, level, tuple(box.moved(x, y) for box in row))
        for (thing, _), level, row in zip(things, levels, rows)
    )
    return Scene(seed, split, groups, background or _draw_background(rng, glyphs))


def _row(rng: np.random.Generator, glyph: Glyph, size: float, count: int) -> list[Box]:
    """`count` boxes of one glyph from left to right, at slightly different heights."""
    width, height = glyph.width * size, glyph.height * size
    boxes, x = [], 0.0
    for _ in range(count):
        y = (rng.random() - 0.5) * 0.3 * height if count > 1 else 0.0
        boxes.append(Box(x, y, x + width, y + height))
        x += width + 0.01 + 0.03 * rng.random()
    return boxes


def _move_beside(
    rng: np.random.Generator, a: Box, side: Relation, b: Box, hull: Box, looseness: float
) -> tuple[float, float]:
    """How far a must move (x, y) to be on that side of b and outside `hull`.

    Args:
        hull: around everything that is placed so far.
        looseness: 0 to 1; at 0 the gap is as small as allowed.
    """
    (ax, ay), (bx, by) = a.centre, b.centre
    gap = (GAP if side in ("left of", "right of") else CLEAR) + 0.005 + 0.15 * looseness * rng.random() ** 2
    lean = (rng.random() - 0.5) * 2 * 0.9 * SLANT
    if side in ("left of", "right of"):
        x = hull.left - gap - a.right if side == "left of" else hull.right + gap - a.left
        return x, by - ay + lean * abs(ax + x - bx)
    y = hull.top - gap - a.bottom if side == "above" else hull.bottom + gap - a.top
    return bx - ax + lean * abs(ay + y - by), y


def _move_onto(rng: np.random.Generator, a: Box, mover: Glyph, b: Box, base: Glyph) -> tuple[float, float]:
    """How far a must move (x, y) to stand on b: until a third of its lower outline touches the upper outline of b."""
    x = b.centre[0] - a.centre[0] + (rng.random() - 0.5) * 0.2 * (b.right - b.left)
    a = a.moved(x, 0)
    columns = np.linspace(max(a.left, b.left), min(a.right, b.right), OUTLINE_COLUMNS)
    under = a.top + (a.bottom - a.top) * mover.bottom_outline[_column(columns, a)]
    upper = b.top + (b.bottom - b.top) * base.top_outline[_column(columns, b)]
    y = float(np.quantile(upper - under, 0.35))
    # The thing below must stay visible.
    max_y = b.top + 0.4 * (b.bottom - b.top) - a.bottom
    return x, max(min(y, max_y), b.top - a.bottom)


def _column(x: np.ndarray, box: Box) -> np.ndarray:
    """The columns of a glyph's outline at the positions x, if the glyph fills the box."""
    return np.clip((x - box.left) / (box.right - box.left) * OUTLINE_COLUMNS, 0, OUTLINE_COLUMNS - 1).astype(int)


def _draw_background(rng: np.random.Generator, glyphs: list[Glyph]) -> Background:
    """A random background of a colour on which every thing of the scene is visible."""
    colours = [colour for colour in COLOURS if not any(colour in glyph.hidden_on for glyph in glyphs)]
    return Background(
        colour=colours[int(rng.integers(len(colours)))],
        pattern=PATTERNS[int(rng.choice(len(PATTERNS), p=(0.4, 0.15, 0.15, 0.15, 0.15)))],
        shift=tuple(rng.integers(-4, 5, size=3).tolist()),
        period=float(rng.choice((0.12, 0.16, 0.22))),
        slope=float(rng.choice((0.0, 1.0, np.inf))),
    )
