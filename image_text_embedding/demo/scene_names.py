"""What people call things: British and American names, synonyms, compounds written as one word, and kinds of things."""

from __future__ import annotations

import functools
from typing import NamedTuple

from image_text_embedding.demo.scene_objects import BY_NAME, COLOURS, THINGS, plural_of

# Names of a thing besides its first; an irregular plural follows a slash.
SYNONYMS = """
dog: puppy, doggy; cat: kitten, kitty; rabbit: bunny; pig: piggy, hog; monkey: ape; chicken: hen; chick: baby chicken;
duck: duckling; horse: pony; bee: bumblebee, honeybee; ladybug: ladybird; turtle: tortoise; snake: serpent; mouse:
rat; dinosaur: tyrannosaurus, t rex; crocodile: alligator, croc; kangaroo: wallaby; sheep: lamb; deer: stag; parrot:
macaw; raccoon: racoon; squirrel: chipmunk; christmas tree: xmas tree; pine tree: fir tree, conifer; palm tree: palm;
mushroom: toadstool; leaf: maple leaf/maple leaves; sun: sunshine; lightning bolt: lightning, thunderbolt; flame:
fire; corn cob: corn, maize; eggplant: aubergine; chili pepper: chilli, chili; watermelon: melon; frying pan: skillet;
pancake: hotcake; hamburger: burger, cheeseburger; pizza: slice of pizza/slices of pizza; ice cream: ice cream cone;
birthday cake: cake; cupcake: muffin; lollipop: lolly, candy; donut: doughnut; cookie: biscuit; coffee cup: cup of
coffee/cups of coffee, coffee, cup of tea/cups of tea; beer mug: beer, pint of beer/pints of beer; wine glass: wine,
glass of wine/glasses of wine; taxi: cab, taxicab; police car: patrol car; fire engine: fire truck; truck:
lorry/lorries; bicycle: bike, cycle; motorcycle: motorbike; train: locomotive, steam engine; helicopter: chopper;
airplane: aeroplane, plane, aircraft/aircraft; rocket: spaceship, spacecraft/spacecraft; flying saucer: ufo; sailboat:
sailing boat, yacht; canoe: kayak; ship: cruise ship; traffic light: stoplight, traffic signal; ferris wheel: big
wheel; castle: fortress; church: chapel; sofa: couch, settee; toilet: loo; bathtub: bath, tub; soccer ball: soccer;
football: american football; boxing glove: glove; roller skate: rollerskate; dartboard: bullseye; present: gift;
hourglass: sand timer; phone: mobile phone, cell phone, smartphone; laptop: computer, notebook computer; television:
tv, telly, tv set; alarm clock: clock; pumpkin: jack o lantern; light bulb: lightbulb, lamp; diamond: gem, jewel;
bucket: pail; suitcase: luggage; umbrella: brolly; shirt: t shirt, tee shirt; dress: gown; backpack: rucksack;
sneaker: trainer, running shoe; boot: hiking boot; high heel: stiletto; cap: baseball cap; top hat: hat; envelope:
letter; box: parcel, package, cardboard box; lock: padlock; globe: earth; ghost: spook; alien: extraterrestrial;
planet: saturn; seashell: shell, conch; lantern: paper lantern; broom: broomstick; guitar: electric guitar; snowman:
snow man/snow men; teddy bear: teddy, stuffed bear, toy bear; sunflower: sun flower; red heart: love heart
"""

# A word that several things answer to. "A flower" fits a picture with any of them. Kinds are not counted.
KINDS = """
animal: dog, cat, mouse, rabbit, fox, panda, tiger, lion, cow, pig, frog, monkey, chicken, penguin, chick, duck, owl,
bat, horse, turtle, snake, octopus, crab, fish, dolphin, shark, crocodile, zebra, elephant, camel, giraffe, kangaroo,
sheep, deer, peacock, parrot, swan, flamingo, raccoon, squirrel, bee, butterfly, snail, ladybug, spider, unicorn,
dinosaur; bird: chicken, penguin, chick, duck, owl, peacock, parrot, swan, flamingo; insect: bee, butterfly, ladybug;
bear: teddy bear, panda; flower: rose, sunflower, tulip; tree: christmas tree, pine tree, palm tree; plant: cactus,
christmas tree, pine tree, palm tree, rose, sunflower, tulip; fruit: green apple, red apple, pear, lemon, banana,
watermelon, strawberry, peach, pineapple, coconut, kiwi, avocado; apple: green apple, red apple; vegetable: eggplant,
corn cob, carrot, chili pepper; food: hamburger, pizza, pancake, croissant, donut, cookie, ice cream, birthday cake,
cupcake; drink: coffee cup, beer mug, wine glass; car: red car, blue car, taxi, police car;
automobile: red car, blue car, taxi, police car; vehicle: red car, blue
car, taxi, bus, police car, ambulance, fire engine, truck, tractor, bicycle, motorcycle, train; boat: sailboat, canoe,
ship; building: house, castle, church, hospital, school; book: red book, green book, blue book, orange book; heart:
red heart, blue heart, green heart, yellow heart, purple heart; shoe: sneaker, boot, high heel; instrument: piano,
drum, trumpet, guitar; ball: soccer ball, basketball, football, baseball; furniture: bed, sofa, chair; clothes: shirt,
dress; toy: teddy bear, kite
"""


class Name(NamedTuple):
    """One way to call a thing, in singular and plural."""

    one: str
    many: str


def _entries(table: str) -> dict[str, list[str]]:
    rows = (entry.split(":") for entry in " ".join(table.split()).split(";"))
    return {key.strip(): [value.strip() for value in values.split(",")] for key, values in rows}


def _name(entry: str) -> Name:
    one, _, many = entry.partition("/")
    return Name(one, many or plural_of(one))


def as_one_word(name: str) -> str | None:
    """ "teddybear" for "teddy bear"; None for a single word, and where the first word is a colour."""
    words = name.split()
    return None if len(words) != 2 or words[0] in COLOURS or min(map(len, words)) < 3 else "".join(words)


@functools.cache
def names() -> dict[str, tuple[Name, ...]]:
    """What each thing is called, by its first name, which is the first in the list."""
    synonyms = _entries(SYNONYMS)
    found = {}
    for thing in THINGS:
        every = [Name(thing.name, thing.plural), *map(_name, synonyms.get(thing.name, ()))]
        joined = [Name(one, as_one_word(many) or plural_of(one)) for name, many in every if (one := as_one_word(name))]
        found[thing.name] = tuple(dict.fromkeys([*every, *joined]))
    return found


@functools.cache
def kinds() -> dict[str, tuple[str, ...]]:
    """The words that name several things -> the things."""
    found = {kind: tuple(things) for kind, things in _entries(KINDS).items()}
    assert all(thing in BY_NAME for things in found.values() for thing in things)
    return found


@functools.cache
def kinds_of(thing: str) -> tuple[str, ...]:
    """The kinds that a thing belongs to."""
    return tuple(kind for kind, things in kinds().items() if thing in things)


def kind_name(kind: str) -> Name:
    """A kind in singular and plural."""
    return Name(kind, kind if kind in ("fruit", "food", "furniture", "clothes", "fish") else plural_of(kind))
