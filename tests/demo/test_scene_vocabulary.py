"""The vocabulary of subwords: no English word is unknown, and the words of texts about scenes are whole."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from support.environment import VOCABULARY
from support.fonts import needs_font

from image_text_embedding.demo import packaged_gallery
from image_text_embedding.demo.scene_names import names
from image_text_embedding.demo.scene_objects import THINGS
from image_text_embedding.demo.scene_pairs import SceneTexts
from image_text_embedding.demo.scene_vocabulary import write_subwords
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer

SUBWORDS = packaged_gallery.GALLERY_FOLDER.parent / "subwords.txt"
RULES = TextRules(max_words=40, max_tokens=100, sep=False)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_vocabulary(SUBWORDS)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    spelled = {number: word for word, number in tokenizer.words().items()}
    return [spelled[number] for number in tokenizer(text, RULES)[1:]]


def test_no_word_is_unknown(tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    texts = ["".join(draw.choices(string.ascii_letters, k=draw.randint(1, 20))) for _ in range(300)]
    texts += ["Times Square", "an elefant", "naïve café Æsop straße", "3.14 & 1,000% (e-mail)!", "hoverboard"]
    for text in texts:
        assert tokenizer.unk_id not in tokenizer(text, RULES), text
    assert pieces(tokenizer, "teddybear") == ["teddy", "##bear"] and tokenizer.vocab_size < 2500


def test_names_are_whole_and_compounds_are_split(tokenizer: Tokenizer) -> None:
    for thing in THINGS:
        for form in (thing.name, thing.plural):
            assert pieces(tokenizer, form) == form.split()
    for called in names().values():
        for one, many in called:
            for form in (one, many):
                assert len(pieces(tokenizer, form)) <= max(2, len(form.split())), form


@needs_font
def test_every_word_of_training_is_a_piece_or_a_compound(tokenizer: Tokenizer) -> None:
    for item in SceneTexts("train", 40, size=64, texts=3, places=True):
        for text in (*item["caption"], *item["negatives"], *item["description"], *item["question"], *item["answer"]):
            for word, positions in tokenizer.word_positions(text, RULES):
                found = [pieces(tokenizer, text)[position - 1] for position in positions]
                assert len(found) == 1 or (len(found) == 2 and len(found[1]) > 4), (word, found)


def test_the_packaged_file_is_made_of_bert_s(tmp_path: Path) -> None:
    write_subwords(VOCABULARY, tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_bytes() == SUBWORDS.read_bytes()
