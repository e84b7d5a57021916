"""Captions and answers are true of their scenes, and every word is in the vocabulary."""

from __future__ import annotations

import collections
import re
from pathlib import Path

from support.fonts import needs_font
from support.scene_reading import ANY_THING, CaptionClaims, right_answers

from image_text_embedding.demo import scene_language
from image_text_embedding.demo.scene_layout import Scene
from image_text_embedding.demo.scene_objects import COLOURS
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer


@needs_font
def test_every_caption_is_true_of_its_scene(scenes: list[Scene]) -> None:
    wordings = set()
    for scene in scenes:
        texts = scene_language.captions(scene)
        assert len(set(texts)) == len(texts) and scene_language.caption(scene) in texts
        for text in (scene_language.caption(scene), *texts[::2]):
            claims = CaptionClaims(text)
            assert claims.true_of(scene), (text, scene)
            assert len(claims.things) == len(scene.groups)
            assert text == text.lower() and len(text.split()) <= 20
            wordings.add(re.sub(rf"\b({ANY_THING}|{'|'.join(COLOURS)})\b", "#", text))
    assert len(wordings) > 500  # the sentences are not all of one kind


@needs_font
def test_a_changed_caption_is_false(scenes: list[Scene]) -> None:
    """CaptionClaims is strict: each single change to a true caption makes it false."""
    other = {"left": "right", "right": "left", "above": "below", "below": "above", "dog": "cat"}
    changed = collections.Counter()
    for scene in scenes[:200]:
        for text in scene_language.captions(scene):
            for word, wrong in other.items():
                if len(re.findall(rf"\b{word}\b", text)) == 1 and "from left to right" not in text:
                    assert not CaptionClaims(re.sub(rf"\b{word}\b", wrong, text)).true_of(scene), text
                    changed[word] += 1
            if scene.background.colour in text.split()[-4:]:
                wrong = "grey" if scene.background.colour != "grey" else "blue"
                wrong_text = re.sub(
                    rf"an? ((?:\w+ )?){scene.background.colour} background", rf"a \g<1>{wrong} background", text
                )
                assert wrong_text != text and not CaptionClaims(wrong_text).true_of(scene)
                changed["colour"] += 1
    assert all(changed[word] > 30 for word in ("left", "right", "above", "below", "colour"))


@needs_font
def test_every_answer_is_right_and_the_only_one(scenes: list[Scene]) -> None:
    kinds, polar = collections.Counter(), collections.Counter()
    for scene in scenes:
        found = scene_language.questions(scene)
        assert scene_language.question(scene) in found
        for each in found:
            assert right_answers(scene, each.text) == {each.answer}, (each, scene)
            assert len(each.answer.split()) <= 2
            kinds[each.kind] += 1
            if each.answer in ("yes", "no"):
                polar[each.kind, each.answer] += 1
    assert set(kinds) == {"thing", "count", "total", "colour", "pattern", "place", "whether"}
    assert polar["thing", "yes"] == polar["thing", "no"] and polar["whether", "yes"] == polar["whether", "no"]


def test_the_vocabulary_is_a_bert_one(tmp_path: Path) -> None:
    scene_language.write_vocabulary(tmp_path / "vocab.txt")
    words = (tmp_path / "vocab.txt").read_text().splitlines()
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert words[5:] == sorted(set(words[5:])) and tuple(words) == scene_language.words()
    tokenizer = Tokenizer.from_vocabulary(tmp_path)
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (0, len(words))


@needs_font
def test_every_word_is_in_the_vocabulary(scenes: list[Scene], tmp_path: Path) -> None:
    scene_language.write_vocabulary(tmp_path / "vocab.txt")
    tokenizer, rules = Tokenizer.from_vocabulary(tmp_path), TextRules(max_words=40, max_tokens=60, sep=True)
    texts = {scene_language.PROMPT}
    for scene in scenes:
        texts |= set(scene_language.captions(scene)[::5])
        texts |= {text for each in scene_language.questions(scene) for text in (each.text, each.answer)}
    for text in texts:
        ids = tokenizer(text, rules)
        assert tokenizer.unk_id not in ids and tokenizer.decode(ids) == text
        assert len(ids) == len(re.findall(r"\w+|[^\w\s]", text)) + 2  # every word is one token
