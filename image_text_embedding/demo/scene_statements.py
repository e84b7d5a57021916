"""Texts about scenes as people write them: often about a part only, with what they claim, and false variants of them.

A scene is a set of facts, a text a set of claims, and a text fits every scene whose facts contain its claims. "A dog" and
"dogs" claim that a dog is there; "two dogs" and "one dog" also claim how many.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from image_text_embedding.demo import scene_language as language
from image_text_embedding.demo.scene_language import OPPOSITE, WORDINGS, might_hold, true_relations
from image_text_embedding.demo.scene_layout import Box, Group, Scene, relation
from image_text_embedding.demo.scene_names import Name, kind_name, kinds, kinds_of, names
from image_text_embedding.demo.scene_objects import (
    COLOURS,
    NUMBERS,
    PATTERNS,
    SPLITS,
    THINGS,
    Thing,
    is_held_out,
    with_article,
)

# How texts start; most start with the thing.
STARTS = ("a picture of {}", "picture of {}", "a photo of {}", "photo of {}", "an image of {}", "a drawing of {}")

SHARE_OF_STARTS = 0.35

# How a text goes on that names a background, and how one reads that names nothing else.
GROUNDS = (
    "{} on a {colour} background",
    "{} on {colour} background",
    "{} against a {colour} background",
    "{} in front of a {colour} background",
    "{} with a {colour} background",
)

SOMETHING = ("something", "things")

GROUND_ALONE = "{}a {colour} background"

LISTS = {2: ("{a} and {b}", "{a} with {b}"), 3: ("{a}, {b} and {c}", "{a} and {b} and {c}")}

# Relative frequencies of what a text is about.
SUBJECTS: dict[str, float] = {"one": 3, "two": 1.5, "two related": 3, "background": 0.5, "all": 3}

SHARE_OF_SYNONYMS, SHARE_OF_KINDS = 0.3, 0.08

SHARE_OF_KINDS_IN_QUERIES = 0.15

# A relation that holds -> others that nobody would agree with then. (A thing on another is also above it.)
CONTRARY: dict[str, tuple[str, ...]] = {
    "left of": ("right of", "right of", "above", "below", "on"),
    "right of": ("left of", "left of", "above", "below", "on"),
    "above": ("below", "below", "left of", "right of"),
    "below": ("above", "above", "left of", "right of", "on"),
    "on": ("below", "below", "left of", "right of"),
    "next to": ("above", "below", "on"),
}

MAX_NEGATIVES = 3


@dataclass(frozen=True)
class Mention:
    """A thing as a text names it.

    Attributes:
        noun: the thing's first name, or a kind of things.
        name: what it is called.
        number: "" for the bare name, "a", "many" for the bare plural, or a number that is claimed: "1" to "4".
        spelled: whether a number is a word.
    """

    noun: str
    name: Name
    number: str = "a"
    spelled: bool = True

    @property
    def is_plural(self) -> bool:
        return self.number not in ("", "a", "1")

    @property
    def word(self) -> str:
        return self.name.many if self.is_plural else self.name.one

    @property
    def phrase(self) -> str:
        if self.number.isdigit():
            return f"{NUMBERS[int(self.number)] if self.spelled else self.number} {self.word}"
        return with_article(self.word) if self.number == "a" else self.word

    @property
    def claims(self) -> tuple[str, ...]:
        return (self.noun, f"{self.number} {self.noun}") if self.number.isdigit() else (self.noun,)


@dataclass(frozen=True)
class Statement:
    """A text about a scene, as data.

    Attributes:
        mentions: the things, a, b and c of the template.
        template: as those of `scene_language`.
        relations: (index of a mention, how it stands to b, index of b), in the order of the template.
        wording: which of the words for a relation.
        colour, pattern: of the background; None = not said.
        ground: one of GROUNDS.
        start: one of STARTS, or "{}".
        american: "gray" instead of "grey".
    """

    mentions: tuple[Mention, ...]
    template: str
    relations: tuple[tuple[int, str, int], ...] = ()
    wording: int = 0
    colour: str | None = None
    pattern: str | None = None
    ground: str = GROUNDS[0]
    start: str = "{}"
    american: bool = False

    @property
    def text(self) -> str:
        parts = {letter: mention.phrase for letter, mention in zip("abc", self.mentions)}
        for number, (_, stated, other) in zip(("", "2"), self.relations):
            words, side = WORDINGS[stated]
            parts[f"relation{number}"] = words[self.wording]
            many = self.mentions[other].is_plural
            parts[f"side{number}"] = side.format(it="them" if many else "it", its="their" if many else "its")
        if len(self.mentions) > 1:
            parts["b_word"] = self.mentions[1].word
        said = self.template.format(**parts)
        if self.colour or self.pattern:
            colour = "gray" if self.colour == "grey" and self.american else self.colour
            said = self.ground.format(said, colour=" ".join(filter(None, (self.pattern, colour))))
        return self.start.format(said.replace("a orange", "an orange"))

    @property
    def claims(self) -> tuple[str, ...]:
        """What must be among a scene's `facts`."""
        nouns = [mention.noun for mention in self.mentions]
        found = [claim for mention in self.mentions for claim in mention.claims]
        found += [f"{nouns[i]} {stated} {nouns[j]}" for i, stated, j in self.relations]
        if self.template == language.BETWEEN:
            found.append(_between(nouns[1], nouns[0], nouns[2]))
        found += [f"background {value}" for value in (self.colour, self.pattern) if value]
        return tuple(dict.fromkeys(found))


def facts(scene: Scene) -> dict[str, int]:
    """All that statements can truly claim about a scene, as keys, for fast look-up. Relations are those of first names."""
    found = [f"background {scene.background.colour}", f"background {scene.background.pattern}"]
    for group in scene.groups:
        found += [group.thing.name, *kinds_of(group.thing.name), f"{group.count} {group.thing.name}"]
    for a, b in itertools.permutations(scene.groups, 2):
        for stated in true_relations(a.box, b.box):
            found.append(f"{a.thing.name} {stated} {b.thing.name}")
    for a, b, c in itertools.permutations(scene.groups, 3):
        if (found_relation := relation(a.box, b.box)) and OPPOSITE.get(found_relation) == relation(c.box, b.box):
            found.append(_between(b.thing.name, a.thing.name, c.thing.name))
    return dict.fromkeys(found, 1)


def fits(claims: Iterable[str], scene_facts: Mapping[str, int]) -> bool:
    """Whether a text with these claims is true of a scene with these facts."""
    return all(claim in scene_facts for claim in claims)


def statement(scene: Scene, draw: int = 0, subject: str | None = None) -> Statement:
    """A true statement about a scene, drawn by the seed of the scene.

    Args:
        draw: 0, 1, 2, ... for more.
        subject: one of SUBJECTS; None = drawn.
    """
    rng = np.random.default_rng((scene.seed, SPLITS.index(scene.split), 5, draw))
    available = [each for each in SUBJECTS if len(scene.groups) > 1 or not each.startswith("two")]
    if subject is None:
        weights = np.array([SUBJECTS[each] for each in available])
        subject = available[int(rng.choice(len(available), p=weights / weights.sum()))]
    made = _about(scene, subject, rng)
    if (made.colour or made.pattern) is None and rng.random() < {"one": 0.15, "all": 0.3}.get(subject, 0):
        made = replace(made, **_ground(scene, rng))
    start = STARTS[int(rng.integers(len(STARTS)))] if rng.random() < SHARE_OF_STARTS else "{}"
    return replace(made, start=start, american=bool(rng.random() < 0.5))


def queries(scene: Scene) -> list[Statement]:
    """Short texts as people type them: one thing of the scene, two of all that there are, and two of the scene together.

    The foreign ones are seldom true of the scene itself, but may be of others. Of the names of a thing, its first is as
    frequent as all others together.
    """
    rng = np.random.default_rng((scene.seed, SPLITS.index(scene.split), 7))
    own = [scene.groups[int(i)].thing for i in rng.permutation(len(scene.groups))]
    others = [THINGS[int(i)] for i in rng.integers(len(THINGS), size=2)]
    subjects = [own[:1], *([thing] for thing in others), *([own[:2]] if len(own) > 1 else [])]
    found = []
    for things in subjects:
        mentions = tuple(_named(thing.name, rng, alone=len(things) == 1) for thing in things)
        start = STARTS[int(rng.integers(len(STARTS)))] if rng.random() < SHARE_OF_STARTS else "{}"
        found.append(Statement(mentions, "{a}" if len(things) == 1 else LISTS[2][0], start=start))
    return found


def false_variants(said: Statement, scene: Scene, true: Mapping[str, int], draw: int = 0) -> list[Statement]:
    """Up to MAX_NEGATIVES statements that differ from `said` in one thing, count, relation or colour, and are false.

    Args:
        true: the `facts` of the scene.
        draw: 0, 1, 2, ... for more.
    """
    rng = np.random.default_rng((scene.seed, SPLITS.index(scene.split), 6, draw))
    boxes = {group.thing.name: group.box for group in scene.groups}
    found = [
        each
        for each in _variants(said, scene, true, rng)
        if not fits(each.claims, true) and not _might_be_true(each, boxes)
    ]
    return [found[int(i)] for i in rng.permutation(len(found))[:MAX_NEGATIVES]]


# True statements


def _about(scene: Scene, subject: str, rng: np.random.Generator) -> Statement:
    order = [scene.groups[int(i)] for i in rng.permutation(len(scene.groups))]
    if subject == "background":
        ground = _ground(scene, rng, full=False)
        if rng.random() < 0.4:
            return replace(Statement((), ""), **{**ground, "ground": GROUND_ALONE})
        return replace(Statement((), SOMETHING[int(rng.integers(len(SOMETHING)))]), **ground)
    if subject == "one" or len(order) == 1:
        return Statement((_mention(order[0], rng),), "{a}")
    groups = order if subject == "all" else order[:2]
    if subject != "two":
        related = list(_related(groups))
        if related:
            template, relations, ordered = related[int(rng.integers(len(related)))]
            mentions = tuple(_mention(group, rng, alone=False) for group in ordered)
            return Statement(mentions, template, relations, int(rng.integers(_wordings(relations))))
    templates = LISTS[len(groups)]
    mentions = tuple(_mention(group, rng, alone=False) for group in groups)
    return Statement(mentions, templates[int(rng.integers(len(templates)))])


def _mention(group: Group, rng: np.random.Generator, alone: bool = True) -> Mention:
    thing, count = group.thing.name, group.count
    of_kinds, called = kinds_of(thing), names()[thing]
    noun, name = thing, called[0]
    if of_kinds and alone and rng.random() < SHARE_OF_KINDS:
        noun = of_kinds[int(rng.integers(len(of_kinds)))]
        name = kind_name(noun)
    elif rng.random() < SHARE_OF_SYNONYMS:
        name = called[int(rng.integers(len(called)))]
    is_kind = noun != thing
    if count == 1 or is_kind:
        weights = {"a": 0.55, "": 0.3, "many": 0.08, "1": 0.07} if alone else {"a": 0.85, "": 0.1, "1": 0.05}
    else:
        weights = {str(count): 0.5, "many": 0.2, "a": 0.15, "": 0.15} if alone else {str(count): 0.8, "many": 0.2}
    if is_kind:
        weights.pop("1", None)
    total = sum(weights.values())
    number = list(weights)[int(rng.choice(len(weights), p=[weight / total for weight in weights.values()]))]
    return Mention(noun, name, number, spelled=bool(rng.random() < 0.8))


def _named(thing: str, rng: np.random.Generator, alone: bool) -> Mention:
    """A thing by any of its names, or by its kind, without a count."""
    number = str(rng.choice(["a", "", "many"], p=[0.5, 0.35, 0.15]))
    if alone and (of_kinds := kinds_of(thing)) and rng.random() < SHARE_OF_KINDS_IN_QUERIES:
        kind = of_kinds[int(rng.integers(len(of_kinds)))]
        return Mention(kind, kind_name(kind), number)
    called = names()[thing]
    return Mention(thing, called[int(rng.integers(len(called))) if rng.random() < 0.5 else 0], number)


def _related(groups: list[Group]) -> Iterator[tuple[str, tuple[tuple[int, str, int], ...], list[Group]]]:
    """Templates with relations that hold between all groups, and the groups in the order a, b, c."""
    if len(groups) == 2:
        for a, b in itertools.permutations(groups):
            for stated in true_relations(a.box, b.box):
                yield language.RELATED, ((0, stated, 1),), [a, b]
                yield language.WITH, ((0, stated, 1),), [a, b]
        return
    for a, b, c in itertools.permutations(groups):
        first, second, third = relation(a.box, b.box), relation(c.box, b.box), relation(b.box, c.box)
        if first is None or second is None:
            continue
        if first == third and first in language.IN_ORDER:
            yield language.IN_ORDER[first], ((0, first, 1), (1, first, 2)), [a, b, c]
        if first == OPPOSITE.get(second):
            yield language.BETWEEN, (), [a, b, c]
        # "a to its left and c to its left" leaves open which of them is nearer.
        if first != second:
            yield language.TWO_RELATED, ((0, first, 1), (2, second, 1)), [a, b, c]
            yield language.WITH_TWO, ((0, first, 1), (2, second, 1)), [a, b, c]


def _wordings(relations: Iterable[tuple[int, str, int]]) -> int:
    return min((len(WORDINGS[stated][0]) for _, stated, _ in relations), default=1)


def _ground(scene: Scene, rng: np.random.Generator, full: bool = True) -> dict[str, Any]:
    """The fields of a statement that tell the background; only its pattern, too, unless `full`."""
    pattern = scene.background.pattern if scene.background.pattern in language.PATTERNED else None
    colour: str | None = scene.background.colour
    if pattern and rng.random() < 0.5:
        pattern = None
    elif pattern and not full and rng.random() < 0.3:
        colour = None
    return {"colour": colour, "pattern": pattern, "ground": GROUNDS[int(rng.integers(len(GROUNDS)))]}


# False ones


def _variants(said: Statement, scene: Scene, true: Mapping[str, int], rng: np.random.Generator) -> Iterator[Statement]:
    """Statements that differ in one respect; some are true as well."""
    for i, (a, stated, b) in enumerate(said.relations):
        if said.template in language.IN_ORDER.values():
            continue  # its words say one direction only; things are swapped below
        for other in dict.fromkeys(rng.permutation(CONTRARY[stated]).tolist()):
            changed = list(said.relations)
            changed[i] = (a, other, b)
            yield replace(said, relations=tuple(changed), wording=min(said.wording, _wordings(changed) - 1))
    if said.relations or said.template == language.BETWEEN:
        for i, j in itertools.combinations(range(len(said.mentions)), 2):
            swapped = list(said.mentions)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            yield replace(said, mentions=tuple(swapped))
    for i, mention in enumerate(said.mentions):
        others = [_other_thing(mention, scene, true, rng)]
        counts = [group.count for group in scene.groups if group.thing.name == mention.noun]
        if counts:
            wrong = [n for n in range(1, 4) if n != counts[0]]
            others.append(replace(mention, number=str(wrong[int(rng.integers(len(wrong)))])))
        for other_mention in others:
            yield replace(said, mentions=(*said.mentions[:i], other_mention, *said.mentions[i + 1 :]))
    if said.colour:
        colours = [colour for colour in COLOURS if colour != said.colour]
        yield replace(said, colour=colours[int(rng.integers(len(colours)))])
    if said.pattern:
        patterns = [each for each in PATTERNS if each in language.PATTERNED and each != said.pattern]
        yield replace(said, pattern=patterns[int(rng.integers(len(patterns)))])


def _other_thing(mention: Mention, scene: Scene, true: Mapping[str, int], rng: np.random.Generator) -> Mention:
    """The same number of something that the scene does not show."""
    if mention.noun in kinds():
        absent = [kind for kind in kinds() if kind not in true]
        noun = absent[int(rng.integers(len(absent)))]
        return replace(mention, noun=noun, name=kind_name(noun))
    shown = [group.thing.name for group in scene.groups]

    def may_be_named(thing: Thing) -> bool:
        # In training, not even a false text mentions a held-out pair.
        held_out = scene.split == "train" and any(is_held_out(thing.name, each) for each in shown)
        return thing.name not in shown and not held_out

    while not may_be_named(thing := THINGS[int(rng.integers(len(THINGS)))]):
        pass
    called = names()[thing.name]
    return replace(mention, noun=thing.name, name=called[int(rng.integers(len(called))) if rng.random() < 0.2 else 0])


def _might_be_true(said: Statement, boxes: Mapping[str, Box]) -> bool:
    """Whether people might agree with every relation, even if `relation` does not."""
    nouns = [mention.noun for mention in said.mentions]
    return bool(said.relations) and all(
        nouns[i] in boxes and nouns[j] in boxes and might_hold(stated, boxes[nouns[i]], boxes[nouns[j]])
        for i, stated, j in said.relations
    )


def _between(middle: str, one: str, other: str) -> str:
    return f"{middle} between {one} and {other}"
