"""What is said of a scene: captions, questions with answers, and the WordPiece vocabulary of all these words.

Everything said is true of the scene, and worked out from where its things stand: `scenes.relation` is the only judge.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_text_embedding.demo.scene_layout import Box, Group, Scene, beside, relation
from image_text_embedding.demo.scene_objects import (
    COLOURS,
    NUMBERS,
    RELATIONS,
    SPLITS,
    THINGS,
    is_held_out,
    with_article,
)

MAX_WORDS = 20

PROMPT = "a picture of"  # BLIP's captions begin with it

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# How a stands to b: before b, and after "b with a".
WORDINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "left of": (("left of", "to the left of"), "to {its} left"),
    "right of": (("right of", "to the right of"), "to {its} right"),
    "above": (("above", "over"), "above {it}"),
    "below": (("below", "under"), "below {it}"),
    "on": (("on", "on top of"), "on {it}"),
    "next to": (("next to", "beside"), "next to {it}"),
}

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

PLACED = "{a} {relation} {b}"

WITH = "{b} with {a} {side}"

PLACED_TWICE = "{a} {relation} {b} and {c} {relation2} the {b_word}"

WITH_BOTH = "{b} with {a} {side} and {c} {side2}"

BETWEEN = "{b} between {a} and {c}"

IN_ORDER = {"left of": "{a}, {b} and {c} from left to right", "above": "{a}, {b} and {c} from top to bottom"}

BACKGROUNDS = (" on {colour} background", " against {colour} background")

# A pattern has a name, and what it is made of. "Shaded" is never said: a person would only name the colour.
PATTERNED = {"striped": "stripes", "dotted": "dots", "checked": "checks"}

MADE_OF = " on {colour} background with {pattern}"


IS_THERE = ("is there {thing}?", "is there {thing} in the picture?")

HOW_MANY = ("how many {things} are there?", "how many {things} are in the picture?")

HOW_MANY_THINGS = "how many things are there?"

WHAT_COLOUR = ("what colour is the background?", "what color is the background?")

WHAT_PATTERN = "what pattern is the background?"

WHAT_IS = "what is {relation} the {thing}?"

WHAT_IS_IT_ON = "what is the {thing} on?"

IS_IT = "{is} the {thing} {relation} the {other}?"

# Asked in training alone, for "is it left of ..." is a riddle to who has not yet learnt to say where a thing is.
ACROSS, UPRIGHT = "{thing}, left and right?", "{thing}, top and bottom?"

HOW_IS_IT = "{thing} and {other}?"

MIDDLE = 0.06  # around the picture's middle neither is asked


# How often a question beyond a scene's first is of a kind: what is slow to learn is asked most.
SHARES: dict[str, float] = {"place": 3, "whether": 3, "count": 2, "total": 2, "thing": 1, "pattern": 1, "colour": 0.5}

SHARES_OF_PLACES: dict[str, float] = {**SHARES, "side": 2, "relation": 2}


class Question(NamedTuple):
    """One thing to ask of a scene.

    Attributes:
        text: the question.
        answer: one or two words.
        kind: what it is about: "thing", "count", "total", "colour", "pattern", "place" or "whether"; in
            training also "side" or "relation".
    """

    text: str
    answer: str
    kind: str


def captions(scene: Scene) -> tuple[str, ...]:
    """Every caption that is made for a scene, the plainest first; each names every thing in it.

    Lower case, at most MAX_WORDS words, no two the same.
    """
    whole = (text + ground for text in _sentences(scene) for ground in ("", *_grounds(scene)))
    return tuple(text for text in dict.fromkeys(whole) if len(text.split()) <= MAX_WORDS)


def caption(scene: Scene, draw: int = 0) -> str:
    """The one of `captions` that a scene goes with, drawn from its seed; two in five name the background.

    Args:
        draw: 0, 1, ... for further ones, which may be the same.
    """
    rng = _drawing(scene, 2, draw)
    sentences = [text for text in _sentences(scene) if len(text.split()) <= MAX_WORDS]
    text, grounds = sentences[int(rng.integers(len(sentences)))], _grounds(scene)
    ground = grounds[int(rng.integers(len(grounds)))] if rng.random() < 0.4 else ""
    return text + ground if len((text + ground).split()) <= MAX_WORDS else text


def _drawing(scene: Scene, what: int, draw: int = 0) -> np.random.Generator:
    return np.random.default_rng((scene.seed, SPLITS.index(scene.split), what, *([draw] if draw else [])))


def _sentences(scene: Scene) -> tuple[str, ...]:
    groups = scene.groups
    if len(groups) == 1:
        return (groups[0].phrase,)
    if len(groups) == 2:
        found = [sentence for a, b in itertools.permutations(groups) for sentence in _of_two(a, b)]
    else:
        found = [sentence for a, b, c in itertools.permutations(groups) for sentence in _of_three(a, b, c)]
    return tuple(sorted(found, key=len))  # sorted() keeps equals in order


def _of_two(a: Group, b: Group) -> Iterator[str]:
    for said in _said(a.box, b.box):
        words, side = WORDINGS[said]
        for word in words:
            yield PLACED.format(a=a.phrase, relation=word, b=b.phrase)
        yield WITH.format(a=a.phrase, b=b.phrase, side=_side(side, b))


def _of_three(a: Group, b: Group, c: Group) -> Iterator[str]:
    """Sentences in which a and c are placed by b."""
    one, two, across = relation(a.box, b.box), relation(c.box, b.box), relation(b.box, c.box)
    if one is None or two is None:
        return
    if one == across and one in IN_ORDER:
        yield IN_ORDER[one].format(a=a.phrase, b=b.phrase, c=c.phrase)
    if one == OPPOSITE.get(two):
        yield BETWEEN.format(a=a.phrase, b=b.phrase, c=c.phrase)
    if one == two:
        return  # "to its left and ... to its left": which of them is nearer would not be said
    for said, said2 in itertools.product(_said(a.box, b.box), _said(c.box, b.box)):
        (words, side), (words2, side2) = WORDINGS[said], WORDINGS[said2]
        for word, word2 in zip(words, words2):
            yield PLACED_TWICE.format(a=a.phrase, relation=word, b=b.phrase, c=c.phrase, relation2=word2, b_word=b.word)
        yield WITH_BOTH.format(a=a.phrase, b=b.phrase, c=c.phrase, side=_side(side, b), side2=_side(side2, b))


def _said(a: Box, b: Box) -> tuple[str, ...]:
    found = relation(a, b)
    if found is None:
        return ()
    return (found, "next to") if beside(a, b) else (found,)


def _side(side: str, group: Group) -> str:
    return side.format(it="it", its="its") if group.count == 1 else side.format(it="them", its="their")


def _grounds(scene: Scene) -> list[str]:
    colour, pattern = scene.background.colour, scene.background.pattern
    found = [ground.format(colour=with_article(colour)) for ground in BACKGROUNDS]
    if pattern in PATTERNED:
        found += [ground.format(colour=f"a {pattern} {colour}") for ground in BACKGROUNDS]
        found.append(MADE_OF.format(colour=with_article(colour), pattern=PATTERNED[pattern]))
    return found


def questions(scene: Scene) -> tuple[Question, ...]:
    """Every question that is made for a scene. As many have the answer "yes" as "no"."""
    found = [*_about_things(scene), *_about_ground(scene)]
    for a, b in itertools.permutations(scene.groups, 2):
        found += _about_places(scene, a, b)
    return tuple(found)


def question(scene: Scene, draw: int = 0, shares: Mapping[str, float] = SHARES) -> Question:
    """The one of `questions` that a scene goes with, drawn from its seed: every kind that it allows is as likely.

    Args:
        draw: 1, 2, ... for further ones, which may be the same.
        shares: how likely each kind is among the further ones; a kind that it lacks is not asked.
    """
    rng = _drawing(scene, 3, draw)
    found = questions(scene)
    if draw:
        found = tuple(each for each in (*found, *_about_where(scene)) if each.kind in shares)
    kinds = sorted({each.kind for each in found})
    if draw:
        likely = np.array([shares[kind] for kind in kinds])
        kind = kinds[int(rng.choice(len(kinds), p=likely / likely.sum()))]
    else:
        kind = kinds[int(rng.integers(len(kinds)))]
    of_kind = [each for each in found if each.kind == kind]
    return of_kind[int(rng.integers(len(of_kind)))]


def _about_things(scene: Scene) -> Iterator[Question]:
    rng = _drawing(scene, 4)
    shown = [group.thing for group in scene.groups]
    for group in scene.groups:
        for text in HOW_MANY:
            yield Question(text.format(things=group.thing.plural), NUMBERS[group.count], "count")
        absent = THINGS[int(rng.integers(len(THINGS)))]
        # In training a held-out pair is not even asked about.
        while absent in shown or (scene.split == "train" and any(is_held_out(absent.name, t.name) for t in shown)):
            absent = THINGS[int(rng.integers(len(THINGS)))]
        for text in IS_THERE:
            yield Question(text.format(thing=group.thing.phrase()), "yes", "thing")
            yield Question(text.format(thing=absent.phrase()), "no", "thing")
    yield Question(HOW_MANY_THINGS, NUMBERS[sum(group.count for group in scene.groups)], "total")


def _about_ground(scene: Scene) -> Iterator[Question]:
    for text in WHAT_COLOUR:
        yield Question(text, scene.background.colour, "colour")
    if scene.background.pattern != "shaded":
        yield Question(WHAT_PATTERN, scene.background.pattern, "pattern")


def _about_places(scene: Scene, a: Group, b: Group) -> Iterator[Question]:
    found = relation(a.box, b.box)
    if found is None:
        return
    others = [other for other in scene.groups if other not in (a, b)]
    if not any(_may_be(found, other.box, b.box) for other in others):
        for word in WORDINGS[found][0]:
            yield Question(WHAT_IS.format(relation=word, thing=b.word), a.word, "place")
    if found == "on":
        yield Question(WHAT_IS_IT_ON.format(thing=a.word), b.word, "place")
    else:
        for said, answer in ((found, "yes"), (OPPOSITE[found], "no")):
            text = IS_IT.format(**{"is": "is" if a.count == 1 else "are"}, thing=a.word, relation=said, other=b.word)
            yield Question(text, answer, "whether")


def _about_where(scene: Scene) -> Iterator[Question]:
    for group in scene.groups:
        x, y = group.box.centre
        if abs(x - 0.5) > MIDDLE:
            yield Question(ACROSS.format(thing=group.word), "left" if x < 0.5 else "right", "side")
        if abs(y - 0.5) > MIDDLE:
            yield Question(UPRIGHT.format(thing=group.word), "top" if y < 0.5 else "bottom", "side")
    for a, b in itertools.permutations(scene.groups, 2):
        if found := relation(a.box, b.box):
            yield Question(HOW_IS_IT.format(thing=a.word, other=b.word), found, "relation")


def _may_be(said: str, a: Box, b: Box) -> bool:
    """Whether somebody could say it of a, though `relation` would not: a's middle is on that side of b."""
    x, y = a.centre
    beyond = {"left of": x < b.left, "right of": x > b.right, "above": y < b.top, "below": y > b.bottom}
    return beyond.get(said, relation(a, b) == said)


def words() -> tuple[str, ...]:
    """The vocabulary: the special tokens, then every word and sign of every caption, question and answer, sorted.

    The id of a word is its place. BLIP's [DEC] and [ENC] come after the last, as in the official models: a BLIP model has
    two more ids than this has words.
    """
    templates = [
        *itertools.chain.from_iterable((*before, after) for before, after in WORDINGS.values()),
        *(PLACED, WITH, PLACED_TWICE, WITH_BOTH, BETWEEN, *IN_ORDER.values(), *BACKGROUNDS, MADE_OF, PROMPT),
        *(*IS_THERE, *HOW_MANY, HOW_MANY_THINGS, *WHAT_COLOUR, WHAT_PATTERN, WHAT_IS, WHAT_IS_IT_ON, IS_IT),
    ]
    said = [
        *(re.sub(r"\{\w+\}", " ", template) for template in templates),
        *(thing.word(count) for thing in THINGS for count in (1, 2)),
        *itertools.chain(COLOURS, RELATIONS, PATTERNED, PATTERNED.values(), NUMBERS),
        "a an is are it them its their plain yes no",
    ]
    return (*SPECIAL, *sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(said)))))


def write_vocabulary(path: str | Path) -> None:
    """Write `words()` as a `vocab.txt`, one to a line, as `preprocess.Tokenizer.from_vocabulary` reads it."""
    Path(path).write_text("\n".join(words()) + "\n", encoding="utf-8")
