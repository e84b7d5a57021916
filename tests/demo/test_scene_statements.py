"""Texts about scenes as people write them: true ones, false ones, and which scenes each fits."""

from __future__ import annotations

import collections
import itertools
import re

from support.fonts import needs_font
from support.statement_reading import is_true

from image_text_embedding.demo import scene_statements
from image_text_embedding.demo.scene_layout import Scene
from image_text_embedding.demo.scene_names import as_one_word, kinds, names
from image_text_embedding.demo.scene_objects import BY_NAME, is_held_out
from image_text_embedding.demo.scene_pairs import TRAIN_TEXTS, SceneTexts
from image_text_embedding.demo.scene_statements import SUBJECTS, facts, false_variants, fits, statement


def test_no_name_has_two_meanings() -> None:
    forms = collections.Counter(form for called in names().values() for form in {f for name in called for f in name})
    assert [form for form, count in forms.items() if count > 1] == []
    assert not set(forms) & set(kinds()) and set(names()) == set(BY_NAME)
    assert all(len(things) > 1 and set(things) <= set(BY_NAME) for things in kinds().values())
    assert {"bike", "kitten", "aeroplane", "doughnut", "teddybear", "puppies"} <= set(forms)
    assert {"automobile", "flower", "bear"} <= set(kinds())
    assert (as_one_word("teddy bear"), as_one_word("red car"), as_one_word("dog")) == ("teddybear", None, None)


@needs_font
def test_statements_are_true_and_their_variants_false(scenes: list[Scene]) -> None:
    wordings, changed, kinds_of_claims = set(), collections.Counter(), collections.Counter()
    for scene in scenes:
        true = facts(scene)
        for draw in range(3):
            said = statement(scene, draw)
            assert said == statement(scene, draw)
            assert fits(said.claims, true) and is_true(said.text, scene), (said, scene)
            wordings.add(
                re.sub("|".join(sorted(itertools.chain(*itertools.chain(*names().values())), key=len)), "#", said.text)
            )
            for wrong in false_variants(said, scene, true, draw):
                assert not fits(wrong.claims, true) and not is_true(wrong.text, scene), (said.text, wrong.text, scene)
                assert wrong.text != said.text
                changed["relation"] += [each[1] for each in wrong.relations] != [each[1] for each in said.relations]
                changed["things"] += {m.noun for m in wrong.mentions} != {m.noun for m in said.mentions}
                changed["count"] += sorted(m.number for m in wrong.mentions) != sorted(m.number for m in said.mentions)
                changed["order"] += wrong.relations == said.relations and set(wrong.mentions) == set(said.mentions)
                changed["colour"] += wrong.colour != said.colour
                changed["pattern"] += wrong.pattern != said.pattern
            kinds_of_claims[len(said.mentions), bool(said.relations), bool(said.colour)] += 1
    assert all(changed[what] > 8 for what in ("relation", "things", "count", "order", "colour", "pattern")), changed
    assert len(wordings) > 300 and len(kinds_of_claims) > 8


@needs_font
def test_what_a_text_claims_is_what_it_says_of_other_scenes(scenes: list[Scene]) -> None:
    """`fits` agrees with the reading of the text, whatever the scene."""
    agreed = collections.Counter()
    for scene, other in itertools.product(scenes[:120], repeat=2):
        said = statement(scene, subject="one" if scene.seed % 2 else "background")
        fitting = fits(said.claims, facts(other))
        assert fitting == is_true(said.text, other), (said.text, other)
        agreed[fitting] += 1
    assert agreed[True] > 200


@needs_font
def test_each_subject(scenes: list[Scene]) -> None:
    for scene in scenes[::9]:
        for subject in SUBJECTS:
            if len(scene.groups) > 1 or not subject.startswith("two"):
                said = statement(scene, subject=subject)
                expected = {"one": 1, "background": 0, "all": len(scene.groups)}.get(subject, 2)
                assert len(said.mentions) == expected
                assert (said.colour or said.pattern) or subject != "background"


@needs_font
def test_pairs_for_training() -> None:
    few = SceneTexts("train", 40, size=64, texts=3)
    mentioned = collections.Counter()
    for item in few:
        assert len(item["caption"]) == len(item["claims"]) == len(item["description"]) == len(item["question"]) == 3
        assert all(few.fits(claims, item["facts"]) for claims in item["claims"])
        assert item["negatives"] and not set(item["negatives"]) & set(item["caption"])
        for text in (*item["caption"], *item["negatives"]):
            found = {
                thing for thing, called in names().items() for name in called if re.search(rf"\b{name.one}\b", text)
            }
            mentioned.update(found)
            assert not any(is_held_out(*pair) for pair in itertools.combinations(found, 2)), text
        assert len(item["queries"]) == len(item["query_claims"]) in (4, 5)
        assert item["queries"][-1] == item["description"][0] and set(item["query_claims"][-1]) == set(item["facts"])
        assert few.fits(item["query_claims"][0], item["facts"]) and len(item["query_claims"][0]) == 1
        assert all(few.fits(claims, item["facts"]) for claims in item["query_claims"] if len(claims) == 2)
        assert not any(is_held_out(*claims) for claims in item["query_claims"] if len(claims) == 2)
    assert len(mentioned) > 60
    single = SceneTexts("train", 3)[0]
    assert isinstance(single["caption"], str) and single["image"].shape == (96, 96, 3)
    assert TRAIN_TEXTS[5]["caption"] == scene_texts(5)


def scene_texts(seed: int) -> list[str]:
    from image_text_embedding.demo.scene_layout import random_scene

    return [scene_statements.statement(random_scene(seed), draw).text for draw in range(4)]
