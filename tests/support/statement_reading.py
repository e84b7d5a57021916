"""Reads statements about scenes back, and checks them against the positions of the things; shares only the tables of names.

"A dog", "dog" and "dogs" say that a dog is there, "two dogs" and "one dog" also how many.
"""

from __future__ import annotations

import re

from image_text_embedding.demo.scene_layout import Group, Scene
from image_text_embedding.demo.scene_names import kind_name, kinds, names
from image_text_embedding.demo.scene_objects import COLOURS
from support.scene_reading import ANY_RELATION, ANY_SIDE, RELATION_WORDS, SIDES, stands

_THINGS = {form: {thing} for thing, called in names().items() for name in called for form in name}
_THINGS |= {form: set(things) for kind, things in kinds().items() for form in kind_name(kind)}
_ANY_NAME = "|".join(sorted(map(re.escape, _THINGS), key=len, reverse=True))
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "1": 1, "2": 2, "3": 3, "4": 4}
_START = re.compile(r"^(?:an? )?(?:picture|photo|image|drawing) of ")
_COLOURS = "|".join(("gray", *COLOURS))
_GROUND = re.compile(
    rf"^(.*?)\b(?:(?:on|against|in front of|with) )?(?:an? )?(?:(striped|dotted|checked) ?)?({_COLOURS})? ?background$"
)


def is_true(text: str, scene: Scene) -> bool:
    """Whether all that a text says is true of a scene.

    Raises:
        AssertionError: the text cannot be read.
    """
    text = _START.sub("", text)
    if ground := _GROUND.match(text):
        colour = {"gray": "grey"}.get(ground[3] or "", ground[3])
        if ground[2] not in (None, scene.background.pattern) or colour not in (None, scene.background.colour):
            return False
        text = ground[1].strip()
        if text in ("", "something", "things"):
            return True
    words: list[str] = []
    candidates: list[list[Group]] = []

    def mention(match: re.Match[str]) -> str:
        if match[1]:
            return f"#{words.index(match[1])}"
        number = _NUMBERS.get(match[2] or "")
        shown = [group for group in scene.groups if group.thing.name in _THINGS[match[3]]]
        words.append(match[3])
        candidates.append([group for group in shown if number in (None, len(group.boxes))])
        return f"#{len(words) - 1}"

    named = rf"\bthe ({_ANY_NAME})\b|\b(?:(an?|one|two|three|four|[1-4]) )?({_ANY_NAME})\b"
    text = re.sub(named, mention, text)
    if not all(candidates):
        return False
    stand = [groups[0] for groups in candidates]
    text = re.sub(r"\b(?:its|their|it|them)\b", "X", text)
    if match := re.fullmatch(rf"#0 ({ANY_RELATION}) #1(?: and #2 ({ANY_RELATION}) #1)?", text):
        ways = [(0, RELATION_WORDS[match[1]], 1), *([(2, RELATION_WORDS[match[2]], 1)] if match[2] else [])]
        return all(stands(stand[i], side, stand[j]) for i, side, j in ways)
    if match := re.fullmatch(rf"#0 with #1 ({ANY_SIDE})(?: and #2 ({ANY_SIDE}))?", text):
        ways = [(1, SIDES[match[1]], 0), *([(2, SIDES[match[2]], 0)] if match[2] else [])]
        return all(stands(stand[i], side, stand[j]) for i, side, j in ways)
    if match := re.fullmatch(r"#0, #1 and #2 from (left to right|top to bottom)", text):
        side = "left" if match[1] == "left to right" else "above"
        return stands(stand[0], side, stand[1]) and stands(stand[1], side, stand[2])
    if text == "#0 between #1 and #2":
        axes = (("left", "right"), ("right", "left"), ("above", "below"), ("below", "above"))
        return any(stands(stand[1], s, stand[0]) and stands(stand[2], t, stand[0]) for s, t in axes)
    assert re.fullmatch(r"#0(?: (?:and|with) #1|, #1 and #2| and #1 and #2)?", text), f"cannot read {text!r}"
    return True
