"""The language of scenes: captions, questions with answers, and the WordPiece vocabulary of all their words.

Captions and answers follow from the positions of the things by `scene_layout.relation` alone, so they are always true.
"""

from __future__ import annotations

import functools
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

MAX_WORDS = 20  # of a caption

PROMPT = "a picture of"  # the start of BLIP's captions

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# How a stands to b, in the templates "a ... b" and "b with a ...".
WORDINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "left of": (("left of", "to the left of"), "to {its} left"),
    "right of": (("right of", "to the right of"), "to {its} right"),
    "above": (("above", "over"), "above {it}"),
    "below": (("below", "under"), "below {it}"),
    "on": (("on", "on top of"), "on {it}"),
    "next to": (("next to", "beside"), "next to {it}"),
}

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

RELATED = "{a} {relation} {b}"

WITH = "{b} with {a} {side}"

TWO_RELATED = "{a} {relation} {b} and {c} {relation2} the {b_word}"

WITH_TWO = "{b} with {a} {side} and {c} {side2}"

BETWEEN = "{b} between {a} and {c}"

IN_ORDER = {"left of": "{a}, {b} and {c} from left to right", "above": "{a}, {b} and {c} from top to bottom"}

BACKGROUNDS = (" on {colour} background", " against {colour} background")

# An adjective and a noun for each pattern. "Shaded" has none: people would only name the colour.
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

# Asked in training only: a model must learn where a single thing is before it can answer "is it left of ...".
ACROSS, UPRIGHT = "{thing}, left and right?", "{thing}, top and bottom?"

HOW_IS_IT = "{thing} and {other}?"

MIDDLE = 0.06  # a thing so near the middle of the picture is on neither side

# Relative frequencies of the kinds of questions after a scene's first: kinds that are slow to learn are frequent.
SHARES: dict[str, float] = {"place": 3, "whether": 3, "count": 2, "total": 2, "thing": 1, "pattern": 1, "colour": 0.5}

SHARES_OF_PLACES: dict[str, float] = {**SHARES, "side": 2, "relation": 2}


class Question(NamedTuple):
    """A question about a scene.

    Attributes:
        text: the question.
        answer: one or two words.
        kind: its subject: "thing", "count", "total", "colour", "pattern", "place" or "whether"; in
            training also "side" or "relation".
    """

    text: str
    answer: str
    kind: str


# Captions


def captions(scene: Scene) -> tuple[str, ...]:
    """All captions of a scene, the shortest sentences first. Each names every thing in it.

    They are in lower case, have at most MAX_WORDS words, and are distinct.
    """
    texts = (text + ground for text in _sentences(scene) for ground in ("", *_background_phrases(scene)))
    return tuple(text for text in dict.fromkeys(texts) if len(text.split()) <= MAX_WORDS)


def caption(scene: Scene, draw: int = 0) -> str:
    """One of `captions`, drawn by the seed of the scene; two in five name the background.

    Args:
        draw: 0 for the first draw, 1, 2, ... for more, which may be equal.
    """
    rng = _generator(scene, 2, draw)
    sentences = [text for text in _sentences(scene) if len(text.split()) <= MAX_WORDS]
    text, grounds = sentences[int(rng.integers(len(sentences)))], _background_phrases(scene)
    ground = grounds[int(rng.integers(len(grounds)))] if rng.random() < 0.4 else ""
    return text + ground if len((text + ground).split()) <= MAX_WORDS else text


def _generator(scene: Scene, purpose: int, draw: int = 0) -> np.random.Generator:
    """The generator for one use of a scene's seed: 2 captions, 3 questions, 4 absent things."""
    return np.random.default_rng((scene.seed, SPLITS.index(scene.split), purpose, *([draw] if draw else [])))


@functools.lru_cache(maxsize=8)
def _sentences(scene: Scene) -> tuple[str, ...]:
    groups = scene.groups
    if len(groups) == 1:
        return (groups[0].phrase,)
    if len(groups) == 2:
        found = [sentence for a, b in itertools.permutations(groups) for sentence in _of_two(a, b)]
    else:
        found = [sentence for a, b, c in itertools.permutations(groups) for sentence in _of_three(a, b, c)]
    return tuple(sorted(found, key=len))


def _of_two(a: Group, b: Group) -> Iterator[str]:
    for stated in true_relations(a.box, b.box):
        words, side = WORDINGS[stated]
        for word in words:
            yield RELATED.format(a=a.phrase, relation=word, b=b.phrase)
        yield WITH.format(a=a.phrase, b=b.phrase, side=_with_pronoun(side, b))


def _of_three(a: Group, b: Group, c: Group) -> Iterator[str]:
    """Sentences that relate a and c to b."""
    a_to_b, c_to_b, b_to_c = relation(a.box, b.box), relation(c.box, b.box), relation(b.box, c.box)
    if a_to_b is None or c_to_b is None:
        return
    if a_to_b == b_to_c and a_to_b in IN_ORDER:
        yield IN_ORDER[a_to_b].format(a=a.phrase, b=b.phrase, c=c.phrase)
    if a_to_b == OPPOSITE.get(c_to_b):
        yield BETWEEN.format(a=a.phrase, b=b.phrase, c=c.phrase)
    # "a to its left and c to its left" leaves open which of them is nearer.
    if a_to_b == c_to_b:
        return
    for stated, stated2 in itertools.product(true_relations(a.box, b.box), true_relations(c.box, b.box)):
        (words, side), (words2, side2) = WORDINGS[stated], WORDINGS[stated2]
        for word, word2 in zip(words, words2):
            yield TWO_RELATED.format(a=a.phrase, relation=word, b=b.phrase, c=c.phrase, relation2=word2, b_word=b.word)
        yield WITH_TWO.format(
            a=a.phrase, b=b.phrase, c=c.phrase, side=_with_pronoun(side, b), side2=_with_pronoun(side2, b)
        )


def true_relations(a: Box, b: Box) -> tuple[str, ...]:
    """The keys of WORDINGS that hold for a and b."""
    found = relation(a, b)
    if found is None:
        return ()
    return (found, "next to") if beside(a, b) else (found,)


def _with_pronoun(side: str, group: Group) -> str:
    """ "to {its} left" -> "to its left" or "to their left"."""
    return side.format(it="it", its="its") if group.count == 1 else side.format(it="them", its="their")


def _background_phrases(scene: Scene) -> list[str]:
    colour, pattern = scene.background.colour, scene.background.pattern
    found = [ground.format(colour=with_article(colour)) for ground in BACKGROUNDS]
    if pattern in PATTERNED:
        found += [ground.format(colour=f"a {pattern} {colour}") for ground in BACKGROUNDS]
        found.append(MADE_OF.format(colour=with_article(colour), pattern=PATTERNED[pattern]))
    return found


# Questions


@functools.lru_cache(maxsize=8)  # several are drawn of each scene, as of its sentences
def questions(scene: Scene) -> tuple[Question, ...]:
    """All questions about a scene. As many have the answer "yes" as "no"."""
    found = [*_questions_about_things(scene), *_questions_about_background(scene)]
    for a, b in itertools.permutations(scene.groups, 2):
        found += _questions_about_relations(scene, a, b)
    return tuple(found)


def question(scene: Scene, draw: int = 0, shares: Mapping[str, float] = SHARES) -> Question:
    """One of `questions`, drawn by the seed of the scene. All kinds that the scene allows are equally likely.

    Args:
        draw: 0 for the first draw, 1, 2, ... for more, which may be equal and may be of the kinds for training only.
        shares: for draws after the first, relative frequency of each kind; other kinds are not asked.
    """
    rng = _generator(scene, 3, draw)
    found = questions(scene)
    if draw:
        found = tuple(each for each in (*found, *_training_questions(scene)) if each.kind in shares)
    kinds = sorted({each.kind for each in found})
    if draw:
        weights = np.array([shares[kind] for kind in kinds])
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    else:
        kind = kinds[int(rng.integers(len(kinds)))]
    of_kind = [each for each in found if each.kind == kind]
    return of_kind[int(rng.integers(len(of_kind)))]


def _questions_about_things(scene: Scene) -> Iterator[Question]:
    rng = _generator(scene, 4)
    shown = [group.thing for group in scene.groups]
    for group in scene.groups:
        for text in HOW_MANY:
            yield Question(text.format(things=group.thing.plural), NUMBERS[group.count], "count")
        absent = THINGS[int(rng.integers(len(THINGS)))]
        # In training, not even a question mentions a held-out pair.
        while absent in shown or (scene.split == "train" and any(is_held_out(absent.name, t.name) for t in shown)):
            absent = THINGS[int(rng.integers(len(THINGS)))]
        for text in IS_THERE:
            yield Question(text.format(thing=group.thing.phrase()), "yes", "thing")
            yield Question(text.format(thing=absent.phrase()), "no", "thing")
    yield Question(HOW_MANY_THINGS, NUMBERS[sum(group.count for group in scene.groups)], "total")


def _questions_about_background(scene: Scene) -> Iterator[Question]:
    for text in WHAT_COLOUR:
        yield Question(text, scene.background.colour, "colour")
    if scene.background.pattern != "shaded":
        yield Question(WHAT_PATTERN, scene.background.pattern, "pattern")


def _questions_about_relations(scene: Scene, a: Group, b: Group) -> Iterator[Question]:
    found = relation(a.box, b.box)
    if found is None:
        return
    others = [other for other in scene.groups if other not in (a, b)]
    if not any(might_hold(found, other.box, b.box) for other in others):
        for word in WORDINGS[found][0]:
            yield Question(WHAT_IS.format(relation=word, thing=b.word), a.word, "place")
    if found == "on":
        yield Question(WHAT_IS_IT_ON.format(thing=a.word), b.word, "place")
    else:
        for stated, answer in ((found, "yes"), (OPPOSITE[found], "no")):
            text = IS_IT.format(**{"is": "is" if a.count == 1 else "are"}, thing=a.word, relation=stated, other=b.word)
            yield Question(text, answer, "whether")


def _training_questions(scene: Scene) -> Iterator[Question]:
    for group in scene.groups:
        x, y = group.box.centre
        if abs(x - 0.5) > MIDDLE:
            yield Question(ACROSS.format(thing=group.word), "left" if x < 0.5 else "right", "side")
        if abs(y - 0.5) > MIDDLE:
            yield Question(UPRIGHT.format(thing=group.word), "top" if y < 0.5 else "bottom", "side")
    for a, b in itertools.permutations(scene.groups, 2):
        if found := relation(a.box, b.box):
            yield Question(HOW_IS_IT.format(thing=a.word, other=b.word), found, "relation")


def might_hold(stated: str, a: Box, b: Box) -> bool:
    """Whether people might agree with the relation, even if `relation` does not: the centre of a is on that side of b."""
    x, y = a.centre
    beyond = {"left of": x < b.left, "right of": x > b.right, "above": y < b.top, "below": y > b.bottom}
    return beyond.get(stated, relation(a, b) == stated)


# Vocabulary


def words() -> tuple[str, ...]:
    """The vocabulary: the special tokens, then all words and punctuation marks of captions, questions and answers, sorted.

    The id of a word is its index. A BLIP model has two more ids, [DEC] and [ENC], after the last word, as in the official
    models.
    """
    templates = [
        *itertools.chain.from_iterable((*before, after) for before, after in WORDINGS.values()),
        *(RELATED, WITH, TWO_RELATED, WITH_TWO, BETWEEN, *IN_ORDER.values(), *BACKGROUNDS, MADE_OF, PROMPT),
        *(*IS_THERE, *HOW_MANY, HOW_MANY_THINGS, *WHAT_COLOUR, WHAT_PATTERN, WHAT_IS, WHAT_IS_IT_ON, IS_IT),
    ]
    texts = [
        *(re.sub(r"\{\w+\}", " ", template) for template in templates),
        *(thing.word(count) for thing in THINGS for count in (1, 2)),
        *itertools.chain(COLOURS, RELATIONS, PATTERNED, PATTERNED.values(), NUMBERS),
        "a an is are it them its their plain yes no",
    ]
    return (*SPECIAL, *sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(texts)))))


def write_vocabulary(path: str | Path) -> None:
    """Write `words()` as a `vocab.txt`, one word per line, for `Tokenizer.from_vocabulary`."""
    Path(path).write_text("\n".join(words()) + "\n", encoding="utf-8")
