"""Reads captions and questions of scenes back, and checks them against the positions of the things.

It shares no code with `scene_language`: sentences are parsed with regular expressions, relations computed from the boxes.
"""

from __future__ import annotations

import math
import re

from image_text_embedding.demo import scene_objects
from image_text_embedding.demo.scene_layout import Group, Scene
from image_text_embedding.demo.scene_objects import BY_NAME, THINGS

_NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3}
_NAMES = {form: (thing.name, form) for thing in THINGS for form in (thing.name, thing.plural)}
ANY_THING = "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True))
RELATION_WORDS = {
    "left of": "left",
    "to the left of": "left",
    "right of": "right",
    "to the right of": "right",
    "above": "above",
    "over": "above",
    "below": "below",
    "under": "below",
    "on": "on",
    "on top of": "on",
    "next to": "near",
    "beside": "near",
}
SIDES = {
    "to X left": "left",
    "to X right": "right",
    "above X": "above",
    "below X": "below",
    "on X": "on",
    "next to X": "near",
}
ANY_RELATION = "|".join(sorted(RELATION_WORDS, key=len, reverse=True))
ANY_SIDE = "|".join(sorted(SIDES, key=len, reverse=True))


class CaptionClaims:
    """A caption's claims: (name, count) of each thing, (i, relation, j), things in a line, and the background."""

    def __init__(self, text: str) -> None:
        ground = re.search(
            r" (?:on|against) an? (?:(striped|dotted|checked) )?(\w+) background(?: with (stripes|dots|checks))?$", text
        )
        self.colour = ground[2] if ground else None
        made_of = {"stripes": "striped", "dots": "dotted", "checks": "checked"}
        self.pattern = (ground[1] or made_of.get(ground[3])) if ground else None
        text = text[: ground.start()] if ground else text
        self.things: list[tuple[str, int]] = []
        self._words: list[str] = []
        text = re.sub(rf"\b(a|an|two|three) ({ANY_THING})\b(?! background)", self._mention, text)
        text = re.sub(rf"\bthe ({ANY_THING})\b", lambda match: f"#{self._words.index(match[1])}", text)
        text = re.sub(r"\b(?:its|their|it|them)\b", "X", text)
        self.relations: list[tuple[int, str, int]] = []
        self.line: str | None = None
        self.between = False
        if match := re.fullmatch(rf"#0 ({ANY_RELATION}) #1(?: and #2 ({ANY_RELATION}) #1)?", text):
            self.relations = [(0, RELATION_WORDS[match[1]], 1)] + (
                [(2, RELATION_WORDS[match[2]], 1)] if match[2] else []
            )
        elif match := re.fullmatch(rf"#0 with #1 ({ANY_SIDE})(?: and #2 ({ANY_SIDE}))?", text):
            self.relations = [(1, SIDES[match[1]], 0)] + ([(2, SIDES[match[2]], 0)] if match[2] else [])
        elif match := re.fullmatch(r"#0, #1 and #2 from (left to right|top to bottom)", text):
            self.line = match[1]
        elif text == "#0 between #1 and #2":
            self.between = True
        else:
            assert text == "#0", f"cannot read {text!r}"

    def _mention(self, match: re.Match[str]) -> str:
        name, form = _NAMES[match[2]]
        count = _NUMBERS[match[1]]
        thing = BY_NAME[name]
        assert form == (thing.name if count == 1 else thing.plural), f"{match[0]}: wrong number"
        assert count > 1 or (match[1] == "an") == bool(re.match(r"[aeio]|um|hour", name)), f"{match[0]}: wrong article"
        self.things.append((name, count))
        self._words.append(match[2])
        return f"#{len(self.things) - 1}"

    def true_of(self, scene: Scene, exactly: bool = True) -> bool:
        """Whether all claims hold; with `exactly`, also whether the picture shows nothing else."""
        found = {(group.thing.name, group.count): group for group in scene.groups}
        if not set(self.things) <= set(found) or (exactly and len(self.things) != len(scene.groups)):
            return False
        if self.colour not in (None, scene.background.colour) or self.pattern not in (None, scene.background.pattern):
            return False
        stand = [found[key] for key in self.things]
        if self.line is not None:
            side = "left" if self.line == "left to right" else "above"
            return stands(stand[0], side, stand[1]) and stands(stand[1], side, stand[2])
        if self.between:
            middle, one, other = stand
            axes = (("left", "right"), ("right", "left"), ("above", "below"), ("below", "above"))
            return any(stands(one, s, middle) and stands(other, t, middle) for s, t in axes)
        return all(stands(stand[i], side, stand[j]) for i, side, j in self.relations)


def edges(group: Group) -> tuple[float, float, float, float]:
    """left, top, right, bottom of all boxes of a group."""
    left, top, right, bottom = zip(*group.boxes)
    return min(left), min(top), max(right), max(bottom)


def stands(a: Group, side: str, b: Group) -> bool:
    """Whether a stands on that side of b, from the angle between their centres and the distance of their edges."""
    (al, at, ar, ab), (bl, bt, br, bb) = edges(a), edges(b)
    angle = math.degrees(
        math.atan2((at + ab) / 2 - (bt + bb) / 2, (al + ar) / 2 - (bl + br) / 2)
    )  # 0: right, 90: below
    apart = {"left": bl - ar, "right": al - br, "above": bt - ab, "below": at - bb}
    if side == "near":
        return any(stands(a, each, b) and apart[each] < 0.13 for each in ("left", "right"))
    if side == "on":  # touching, upright, and above the middle half of b
        return at < bt <= ab < (bt + bb) / 2 and bl < (al + ar) / 2 < br and 45 < -angle < 135
    straight = {"left": 180, "right": 0, "above": -90, "below": 90}[side]
    off = abs((angle - straight + 180) % 360 - 180)
    return off < 28 and apart[side] >= (0.039 if side in ("left", "right") else 0.079)


def by_word(scene: Scene, word: str) -> Group:
    """The only group of a scene that a word names."""
    (found,) = [
        group for group in scene.groups if word == (group.thing.name if len(group.boxes) == 1 else group.thing.plural)
    ]
    return found


def right_answers(scene: Scene, text: str) -> set[str]:
    """All answers that a careful person would accept."""
    shown = {group.thing.name: len(group.boxes) for group in scene.groups}
    plurals = {thing.plural: thing.name for thing in THINGS}
    spelled = ["none", "one", "two", "three", "four"]
    if text in ("what colour is the background?", "what color is the background?"):
        return {scene.background.colour}
    if text == "what pattern is the background?":
        return {scene.background.pattern}
    if text == "how many things are there?":
        return {spelled[sum(shown.values())]}
    if match := re.fullmatch(r"how many (.+) are (?:there|in the picture)\?", text):
        return {spelled[shown.get(plurals[match[1]], 0)]}
    if match := re.fullmatch(r"is there (?:an? )?((?:two|three) )?(.+?)(?: in the picture)?\?", text):
        count = {"two ": 2, "three ": 3}.get(match[1], 1)
        name = match[2] if count == 1 else plurals[match[2]]
        return {"yes" if shown.get(name, 0) >= count else "no"}
    if match := re.fullmatch(r"what is the (.+) on\?", text):
        return {word_of(b) for b in scene.groups if stands(by_word(scene, match[1]), "on", b)}
    if match := re.fullmatch(rf"what is ({ANY_RELATION}) the (.+)\?", text):
        b = by_word(scene, match[2])
        return {word_of(a) for a in scene.groups if a is not b and might_stand(a, RELATION_WORDS[match[1]], b)}
    if match := re.fullmatch(r"(.+), (?:(left) and (right)|(top) and (bottom))\?", text):
        left, top, right, bottom = edges(by_word(scene, match[1]))
        if match[2]:
            return {match[2] if left + right < 1 else match[3]}
        return {match[4] if top + bottom < 1 else match[5]}
    if match := re.fullmatch(r"(\w+(?: \w+)*?) and (\w+(?: \w+)*)\?", text):
        a, b = by_word(scene, match[1]), by_word(scene, match[2])
        return {
            words for words, side in RELATION_WORDS.items() if words in scene_objects.RELATIONS and stands(a, side, b)
        }
    match = re.fullmatch(rf"(is|are) the (.+?) ({ANY_RELATION}) the (.+)\?", text)
    assert match, f"cannot read {text!r}"
    a, b = by_word(scene, match[2]), by_word(scene, match[4])
    assert (match[1] == "is") == (len(a.boxes) == 1)
    return {"yes" if stands(a, RELATION_WORDS[match[3]], b) else "no"}


def word_of(group: Group) -> str:
    """The name of a group's thing, singular or plural."""
    return group.thing.name if len(group.boxes) == 1 else group.thing.plural


def might_stand(a: Group, side: str, b: Group) -> bool:
    """stands(), or the centre of a is anywhere beyond that edge of b. For an answer it must hold for one thing only."""
    (al, at, ar, ab), (bl, bt, br, bb) = edges(a), edges(b)
    x, y = (al + ar) / 2, (at + ab) / 2
    beyond = {"left": x < bl, "right": x > br, "above": y < bt, "below": y > bb}
    if side == "above" and stands(a, "on", b):
        return False
    return stands(a, side, b) or beyond.get(side, False)
