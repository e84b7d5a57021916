"""The pictures that the demonstration models learn from: everyday things of the colour emoji font, placed so that words hold.

A scene is data first (what stands where, on which background), and the words about it are worked out from that data in
`vocabulary.py`. Drawing it needs Noto Color Emoji (OFL), which nothing else here does at run time. The same seed gives the
same scene for one version of that font: the outlines of its things decide how they fit together.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from image_text_embedding.errors import ConfigError, SetupError

Split: TypeAlias = Literal["train", "held_out"]
Relation: TypeAlias = Literal["left of", "right of", "above", "below", "on"]

SPLITS = ("train", "held_out")
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below", "on")
PATTERNS = ("plain", "striped", "dotted", "checked", "shaded")
# Two shades to a colour, for a pattern must not make its name doubtful.
COLOURS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((218, 54, 54), (186, 34, 38)),
    "orange": ((245, 145, 45), (228, 118, 18)),
    "yellow": ((250, 218, 80), (240, 196, 36)),
    "green": ((88, 180, 98), (60, 148, 70)),
    "blue": ((76, 138, 224), (48, 104, 194)),
    "purple": ((148, 94, 198), (118, 66, 168)),
    "pink": ((250, 176, 206), (244, 146, 184)),
    "brown": ((144, 100, 66), (116, 76, 46)),
    "grey": ((164, 164, 164), (134, 134, 134)),
    "black": ((28, 28, 28), (58, 58, 58)),
    "white": ((250, 250, 250), (226, 226, 226)),
}
# Emoji and name; after a slash the plural where no rule gives it. One code point each: PIL's basic layout joins none.
# Nothing is a kind of another ("car", "red car"), no name lies within another ("dog", "hot dog"), and none is a colour
# ("orange"), so that "is there a ..." has one answer. No two look alike at 20 pixels.
TABLE = """
🐶 dog, 🐱 cat, 🐭 mouse/mice, 🐰 rabbit, 🦊 fox, 🐼 panda, 🐯 tiger, 🦁 lion, 🐮 cow, 🐷 pig, 🐸 frog, 🐵 monkey,
🐔 chicken, 🐧 penguin, 🐤 chick, 🦆 duck, 🦉 owl, 🦇 bat, 🐴 horse, 🦄 unicorn, 🐝 bee, 🦋 butterfly, 🐌 snail, 🐞 ladybug,
🕷 spider, 🐢 turtle, 🐍 snake, 🦖 dinosaur, 🐙 octopus, 🦀 crab, 🐠 fish/fish, 🐬 dolphin, 🦈 shark, 🐊 crocodile,
🦓 zebra, 🐘 elephant, 🐪 camel, 🦒 giraffe, 🦘 kangaroo, 🐑 sheep/sheep, 🦌 deer/deer, 🦚 peacock, 🦜 parrot, 🦢 swan,
🦩 flamingo, 🦝 raccoon, 🐿 squirrel, 🌵 cactus/cacti, 🎄 christmas tree, 🌲 pine tree, 🌴 palm tree, 🌹 rose,
🌻 sunflower, 🌷 tulip, 🍄 mushroom, 🍁 leaf/leaves, 🌙 moon, ⭐ star, ☀ sun, 🌈 rainbow, ☁ cloud, ⚡ lightning bolt,
❄ snowflake, ⛄ snowman/snowmen, 🔥 flame, 🍏 green apple, 🍎 red apple, 🍐 pear, 🍋 lemon, 🍌 banana, 🍉 watermelon,
🍓 strawberry, 🍑 peach, 🍍 pineapple, 🥥 coconut, 🥝 kiwi, 🍆 eggplant, 🥑 avocado, 🌶 chili pepper, 🌽 corn cob,
🥕 carrot, 🥐 croissant, 🥚 egg, 🍳 frying pan, 🥞 pancake, 🍔 hamburger, 🍕 pizza, 🍦 ice cream, 🎂 birthday cake,
🧁 cupcake, 🍭 lollipop, 🍩 donut, 🍪 cookie, ☕ coffee cup, 🍺 beer mug, 🍷 wine glass, 🚗 red car, 🚙 blue car, 🚕 taxi,
🚌 bus, 🚓 police car, 🚑 ambulance, 🚒 fire engine, 🚚 truck, 🚜 tractor, 🚲 bicycle, 🏍 motorcycle, 🚂 train,
🚁 helicopter, ✈ airplane, 🚀 rocket, 🛸 flying saucer, ⛵ sailboat, 🛶 canoe, 🚢 ship, ⚓ anchor, 🚦 traffic light,
🛑 stop sign, 🎡 ferris wheel, ⛲ fountain, ⛺ tent, 🏠 house, 🏰 castle, ⛪ church, 🏥 hospital, 🏫 school,
🌋 volcano/volcanoes, 🚪 door, 🛏 bed, 🛋 sofa, 🪑 chair, 🚽 toilet, 🛁 bathtub, ⚽ soccer ball, 🏀 basketball,
🏈 football, ⚾ baseball, 🥊 boxing glove, 🛹 skateboard, 🛼 roller skate, 🎯 dartboard, 🪁 kite, 🧸 teddy bear,
🎹 piano, 🥁 drum, 🎺 trumpet, 🎸 guitar, 🏆 trophy, 🎈 balloon, 🎁 present, 🔮 crystal ball, 🎃 pumpkin, 📱 phone,
💻 laptop, 📷 camera, 📺 television, 📻 radio, ⏰ alarm clock, ⏳ hourglass, 💡 light bulb, 🕯 candle, 💎 diamond,
🔨 hammer, 💣 bomb, 🔬 microscope, 🧹 broom, 🪣 bucket, 🔑 key, 🧳 suitcase, ☂ umbrella, 👕 shirt, 👗 dress, 🎒 backpack,
👟 sneaker, 🥾 boot, 👠 high heel, 👑 crown, 🎩 top hat, 🧢 cap, 📕 red book, 📗 green book, 📘 blue book, 📙 orange book,
✉ envelope, 📦 box, ✏ pencil, 🔒 lock, 🔔 bell, 🚩 flag, 🌍 globe, 🪜 ladder, 🤖 robot, 👻 ghost, 👽 alien, 🤡 clown,
🪐 planet, 🐚 seashell, 🏮 lantern, ❤ red heart, 💙 blue heart, 💚 green heart, 💛 yellow heart, 💜 purple heart
"""

MARGIN = 0.03  # free at every edge, in widths of the picture, as all lengths here
GAP = 0.04  # at least between two things side by side; 2.5 pixels at 64
CLEAR = 0.08  # at least between two things one above the other, lest the upper seem to stand on the lower
NEAR = 0.12  # at most between things that are next to each other
SLANT = 0.5  # "left of" may go up or down by this much per step to the left
MOST = 4  # things in a picture, counted singly
SIZES = (0.20, 0.23, 0.26, 0.30, 0.34, 0.39, 0.45, 0.52, 0.60)  # few, so that the scaled glyphs can be kept
HELD_OUT_PERCENT = 15
HELD_OUT_SALT = "0"  # the first that makes a teddy bear and a skateboard such a pair

_FONT_PIXELS = 109  # the one size that the bitmap font has
_FONT_PATHS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
)
_INSTALL = "apt-get install fonts-noto-color-emoji"
_ATTEMPTS = 200  # to place things; thousands of scenes need fewer than 40
_COLUMNS = 32  # in which a glyph's outline is kept


@dataclass(frozen=True)
class Thing:
    """What a picture can show, and how one says it."""

    emoji: str
    name: str
    plural: str

    def word(self, count: int = 1) -> str:
        """ "dog" or "dogs"."""
        return self.name if count == 1 else self.plural

    def phrase(self, count: int = 1) -> str:
        """ "a dog", "an owl", "two dogs"."""
        return with_article(self.name) if count == 1 else f"{NUMBERS[count]} {self.plural}"


NUMBERS = ("no", "one", "two", "three", "four")


def with_article(words: str) -> str:
    """ "an owl", "a unicorn", "an hourglass"."""
    vowel = words[0] in "aeio" or words.startswith(("um", "hour"))
    return f"{'an' if vowel else 'a'} {words}"


def _plural(name: str) -> str:
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def _things() -> tuple[Thing, ...]:
    entries = (entry.strip().split(" ", 1) for entry in TABLE.replace("\n", " ").split(","))
    split = ((emoji, *name.partition("/")) for emoji, name in entries)
    return tuple(Thing(emoji, name, plural or _plural(name)) for emoji, name, _, plural in split)


THINGS = _things()
BY_NAME = {thing.name: thing for thing in THINGS}


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


def is_held_out(one: str, other: str) -> bool:
    """Whether two things (their names) never occur together in training: a fixed 15% of all pairs."""
    first, second = sorted((one, other))
    return zlib.crc32(f"{HELD_OUT_SALT}|{first}|{second}".encode()) % 100 < HELD_OUT_PERCENT


@functools.cache
def held_out_pairs() -> tuple[tuple[Thing, Thing], ...]:
    """Every pair of things that never occurs together in training."""
    return tuple(pair for pair in itertools.combinations(THINGS, 2) if is_held_out(pair[0].name, pair[1].name))


def scene(seed: int, split: Split = "train") -> Scene:
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
        raise ConfigError(f"expected a split of {', '.join(SPLITS)}, came {split!r}")
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
    return compose(seed, split, list(zip(things, counts)), sides)


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


def compose(
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
        raise ConfigError(
            f"expected 1 to {MOST} things, and a side for each kind but the first; came {things}, {sides}"
        )
    rng = np.random.default_rng((seed, SPLITS.index(split), 1))
    glyphs = [glyph(thing.emoji) for thing, _ in things]
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
    columns = np.linspace(max(a.left, b.left), min(a.right, b.right), _COLUMNS)
    under = a.top + (a.bottom - a.top) * mover.under[_column(columns, a)]
    upper = b.top + (b.bottom - b.top) * base.upper[_column(columns, b)]
    way = float(np.quantile(upper - under, 0.35))
    deepest = b.top + 0.4 * (b.bottom - b.top) - a.bottom  # what carries must still be seen
    return x, max(min(way, deepest), b.top - a.bottom)


def _column(x: np.ndarray, box: Box) -> np.ndarray:
    return np.clip((x - box.left) / (box.right - box.left) * _COLUMNS, 0, _COLUMNS - 1).astype(int)


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


@dataclass(frozen=True)
class Glyph:
    """A thing's picture, cut tight.

    Attributes:
        picture: in PIL's RGBa (colours multiplied by alpha).
        width, height: in units of the longer side.
        upper, under: (_COLUMNS,) where its outline begins and ends in each column, 0 its top and 1 its bottom.
        drowns: names of the colours before which most of it would not be seen.
    """

    picture: Image.Image
    width: float
    height: float
    upper: np.ndarray
    under: np.ndarray
    drowns: frozenset[str]


@functools.cache
def glyph(emoji: str) -> Glyph:
    """The glyph of an emoji, drawn once per process.

    Raises:
        SetupError: the font is missing, or has no such glyph.
    """
    canvas = Image.new("RGBA", (2 * _FONT_PIXELS, 2 * _FONT_PIXELS))
    ImageDraw.Draw(canvas).text((20, 20), emoji, font=_font(), embedded_color=True)
    edges = canvas.getbbox()
    if edges is None:
        raise SetupError(f"the colour emoji font has no glyph for {emoji!r}: {_INSTALL} brings one that has")
    picture = canvas.crop(edges)
    pixels = np.asarray(picture)
    solid = pixels[:, :, 3] > 127
    drowns = {name for name, shades in COLOURS.items() if _share_near(pixels[solid][::7, :3], shades) > 0.5}
    bands = np.array_split(np.arange(solid.shape[1]), _COLUMNS)
    rows = [np.flatnonzero(solid[:, band].any(axis=1)) for band in bands]
    longest = max(picture.size)
    return Glyph(
        picture.convert("RGBa"),
        picture.width / longest,
        picture.height / longest,
        np.array([row[0] / picture.height if len(row) else 1.0 for row in rows]),
        np.array([(row[-1] + 1) / picture.height if len(row) else 0.0 for row in rows]),
        frozenset(drowns),
    )


def _share_near(pixels: np.ndarray, shades: tuple[tuple[int, int, int], ...]) -> float:
    """The share of pixels (N, 3) that are hard to tell from one of two shades."""
    away = np.linalg.norm(pixels[:, None].astype(float) - np.array(shades), axis=2)
    return float((away.min(axis=1) < 60).mean())


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    path = next((path for path in _FONT_PATHS if Path(path).is_file()), None) or _ask_fontconfig()
    try:
        return ImageFont.truetype(path, _FONT_PIXELS)
    except OSError as error:
        raise SetupError(f"expected the bitmap font Noto Color Emoji, came {path}: {error}. Try {_INSTALL}") from error


def _ask_fontconfig() -> str:
    command = ["fc-match", "Noto Color Emoji", "--format=%{file}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        found = ""
    if "NotoColorEmoji" not in found:  # fontconfig answers with some other font rather than none
        raise SetupError(f"drawing scenes needs the font Noto Color Emoji, and there is none: {_INSTALL}")
    return found


@functools.lru_cache(maxsize=8192)
def _scaled(emoji: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A glyph at its size in pixels: colours multiplied by alpha, and 255 - alpha; uint16 for the arithmetic."""
    pixels = np.asarray(glyph(emoji).picture.resize((width, height), Image.Resampling.LANCZOS)).astype(np.uint16)
    alpha = pixels[:, :, 3:]
    return np.minimum(pixels[:, :, :3], alpha) * 255, 255 - alpha


def draw(scene: Scene, size: int = 96) -> np.ndarray:
    """The picture of a scene.

    Args:
        size: pixels, 64 to 256; the scene is the same at every size.

    Returns:
        uint8 (size, size, 3), RGB.

    Raises:
        ConfigError: another size.
        SetupError: the font is missing.
    """
    if not 64 <= size <= 256:
        raise ConfigError(f"expected a size of 64 to 256 pixels, came {size}")
    canvas = _paint(scene.background, size)
    for group in scene.groups:
        for box in group.boxes:
            left, top = round(box.left * size), round(box.top * size)
            width, height = round((box.right - box.left) * size), round((box.bottom - box.top) * size)
            colours, rest = _scaled(group.thing.emoji, max(width, 1), max(height, 1))
            under = canvas[top : top + height, left : left + width]
            under[:] = (under * rest + colours + 127) // 255
    return canvas


def _paint(background: Background, size: int) -> np.ndarray:
    one, other = (
        np.clip(np.add(shade, background.shift), 0, 255).astype(np.uint8) for shade in COLOURS[background.colour]
    )
    if background.pattern == "plain":
        return np.full((size, size, 3), one)
    weight = _pattern(background.pattern, background.period, background.slope, size)
    if background.pattern == "shaded":
        return (one + weight[:, :, None] * (other.astype(np.float32) - one)).round().astype(np.uint8)
    return np.where(weight[:, :, None], other, one)


@functools.lru_cache(maxsize=64)
def _pattern(pattern: str, period: float, slope: float, size: int) -> np.ndarray:
    """(size, size): 0 where the first shade is, 1 where the second is."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    along = y if slope == np.inf else x + slope * y
    if pattern == "shaded":
        return along / along.max()
    if pattern == "striped":
        return (along / period) % 1 < 0.5
    if pattern == "checked":
        return ((x / period) % 1 < 0.5) != ((y / period) % 1 < 0.5)
    return np.hypot(x % period - period / 2, y % period - period / 2) < 0.28 * period
