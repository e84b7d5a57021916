"""The vocabulary of scenes: things, colours, patterns, relations, and which pairs of things are held out of training."""

from __future__ import annotations

import functools
import itertools
import zlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

Split: TypeAlias = Literal["train", "held_out"]

Relation: TypeAlias = Literal["left of", "right of", "above", "below", "on"]


SPLITS = ("train", "held_out")

RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below", "on")

PATTERNS = ("plain", "striped", "dotted", "checked", "shaded")

# Two shades per colour, both clearly of its name, so that a patterned background has one colour.
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

# Emoji and name; an irregular plural follows a slash. Each emoji is one code point, because PIL's basic layout joins none.
# No thing is a kind of another ("car", "red car"), no name is part of another ("dog", "hot dog"), and none is a colour
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

NUMBERS = ("no", "one", "two", "three", "four")

HELD_OUT_PERCENT = 15

HELD_OUT_SALT = "0"  # with it, teddy bear and skateboard are a held-out pair


@dataclass(frozen=True)
class Thing:
    """Something that a picture can show: its emoji and its name."""

    emoji: str
    name: str
    plural: str

    def word(self, count: int = 1) -> str:
        """ "dog" or "dogs"."""
        return self.name if count == 1 else self.plural

    def phrase(self, count: int = 1) -> str:
        """ "a dog", "an owl", "two dogs"."""
        return with_article(self.name) if count == 1 else f"{NUMBERS[count]} {self.plural}"


def with_article(words: str) -> str:
    """ "an owl", "a unicorn", "an hourglass"."""
    vowel = words[0] in "aeio" or words.startswith(("um", "hour"))
    return f"{'an' if vowel else 'a'} {words}"


def plural_of(name: str) -> str:
    """The regular plural of a name."""
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def _things() -> tuple[Thing, ...]:
    entries = (entry.strip().split(" ", 1) for entry in TABLE.replace("\n", " ").split(","))
    split = ((emoji, *name.partition("/")) for emoji, name in entries)
    return tuple(Thing(emoji, name, plural or plural_of(name)) for emoji, name, _, plural in split)


THINGS = _things()

BY_NAME = {thing.name: thing for thing in THINGS}


def is_held_out(one: str, other: str) -> bool:
    """Whether two things, given by name, never occur together in training: a fixed 15% of all pairs."""
    first, second = sorted((one, other))
    return zlib.crc32(f"{HELD_OUT_SALT}|{first}|{second}".encode()) % 100 < HELD_OUT_PERCENT


@functools.cache
def held_out_pairs() -> tuple[tuple[Thing, Thing], ...]:
    """All pairs of things that never occur together in training."""
    return tuple(pair for pair in itertools.combinations(THINGS, 2) if is_held_out(pair[0].name, pair[1].name))
