"""Token ids equal those of the official tokenizer; vocabularies are checked."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.sentences import ALBEF, BLIP, CAPTIONS

from image_text_embedding.foundation.errors import ConfigError, TextError
from image_text_embedding.inputs import tokenizer as tokenizer_module
from image_text_embedding.inputs.text_rules import TextRules, clean_text
from image_text_embedding.inputs.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return Tokenizer.from_vocabulary(vocabulary)


@pytest.fixture(scope="module")
def theirs(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[int]]:
    """transformers' BertTokenizer: (cleaned text, max_length) -> ids with [CLS] and [SEP]."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
    bert = BertTokenizer.from_pretrained(folder)
    return lambda text, length: bert(text, truncation=True, max_length=length)["input_ids"]


@pytest.mark.parametrize("text", CAPTIONS, ids=range(len(CAPTIONS)))
def test_ids_equal_those_of_transformers(
    text: str, tokenizer: Tokenizer, theirs: Callable[[str, int], list[int]]
) -> None:
    assert tokenizer(text, BLIP) == theirs(clean_text(text, BLIP), BLIP.max_tokens)
    # ALBEF's tokenizer adds no [SEP], so one more token fits.
    assert tokenizer(text, ALBEF) == theirs(clean_text(text, ALBEF), ALBEF.max_tokens + 1)[:-1]


def test_random_ids_equal_those_of_transformers(tokenizer: Tokenizer, theirs: Callable[[str, int], list[int]]) -> None:
    rng = random.Random(0)
    letters = "etaoinshrdlu  ETAOIN.,!?\"'()*#:;~-/<>[]@&éüñßÆ中文日本🐕🧸²…—ΑβДж"
    for _ in range(500):
        text = "a" + "".join(rng.choices(letters, k=rng.randint(0, 200)))
        assert tokenizer(text, BLIP) == theirs(clean_text(text, BLIP), BLIP.max_tokens)


@pytest.mark.parametrize("most", [2**16, 5])
def test_remembered_words_have_the_same_ids(
    vocabulary: Path, theirs: Callable[[str, int], list[int]], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(tokenizer_module, "_MAX_KNOWN_WORDS", most)
    ours, rng = Tokenizer.from_vocabulary(vocabulary), random.Random(1)
    words = ["dog", "Dogs", "skateboarding", "2", "1980s", "qzxv", "x" * 33, "y" * 101, "don't", "café", "犬", "", "a"]
    for _ in range(200):
        text = "a " + " ".join(rng.choices(words, k=rng.randint(1, 12)))
        assert ours(text, BLIP) == theirs(clean_text(text, BLIP), BLIP.max_tokens)


def test_known_ids(tokenizer: Tokenizer) -> None:
    """ "a photo of a cat" in bert-base-uncased."""
    assert (tokenizer.vocab_size, tokenizer.cls_id, tokenizer.sep_id) == (30522, 101, 102)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (0, 100, 103)
    assert tokenizer("A photo of a cat.", BLIP) == [101, 1037, 6302, 1997, 1037, 4937, 102]
    assert tokenizer("A photo of a cat.", ALBEF) == [101, 1037, 6302, 1997, 1037, 4937]


def test_ids_become_text(tokenizer: Tokenizer) -> None:
    """As bert-base-uncased's own tokenizer decodes: pieces and punctuation joined to their word, special tokens left out."""
    text = "it's a skateboarder, isn't it? (yes - 3.5 of them!)"
    ids = tokenizer(text, dataclasses.replace(BLIP, to_space=""))
    assert tokenizer.decode(ids) == "it's a skateboarder, isn't it? ( yes - 3. 5 of them! )"
    assert tokenizer.decode([30522, *ids[:4], 30523, 0, 0]) == "it's"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("rules", [BLIP, ALBEF], ids=["blip", "albef"])
def test_no_text_produces_a_special_token(tokenizer: Tokenizer, rules: TextRules) -> None:
    special = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id}
    ids = tokenizer("a [SEP] b [CLS][MASK] [PAD] [UNK] [sep]", rules)
    assert ids[0] == tokenizer.cls_id and (ids[-1] == tokenizer.sep_id) is rules.sep
    assert not special & set(ids[1 : len(ids) - rules.sep])
    as_written = TextRules(max_words=9, max_tokens=30, sep=False)
    assert tokenizer("[SEP]", as_written) == tokenizer("[ sep ]", as_written) == [101, 1031, 19802, 1033]


def test_truncation_by_words_and_by_tokens(tokenizer: Tokenizer) -> None:
    for rules in (BLIP, ALBEF):
        fit = min(rules.max_words, rules.max_tokens - 1 - rules.sep)
        ids, truncated = tokenizer.encode("dog " * fit, rules)
        assert (len(ids), truncated) == (fit + 1 + rules.sep, False)
        ids, truncated = tokenizer.encode("dog " * (rules.max_words + 1), rules)
        assert (len(ids), truncated) == (fit + 1 + rules.sep, True)
        long = ",".join(["dog"] * 40) if rules is BLIP else "中" * 40  # one word, many tokens
        ids, truncated = tokenizer.encode(long, rules)
        assert (len(ids), truncated) == (rules.max_tokens, True)
        assert (ids[-1] == tokenizer.sep_id) is rules.sep
    fits = "中" * 33
    assert tokenizer.encode(fits, BLIP)[1] is False and len(tokenizer(fits, BLIP)) == 35


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "\t", " \t\n ", "...", "(!)", "\x00", "\u200b\ufeff", "\ufffd", "\u0301"]
)
def test_nothing_to_encode(tokenizer: Tokenizer, text: str) -> None:
    for rules in (BLIP, ALBEF):
        with pytest.raises(TextError, match="nothing to encode"):
            tokenizer(text, rules)


@pytest.mark.parametrize("text", [None, 3, b"a dog", ["a dog"], np.array("a dog")])
def test_not_a_string(tokenizer: Tokenizer, text: Any) -> None:
    with pytest.raises(TextError, match=f"expected a string, got {type(text).__name__}"):
        tokenizer(text, BLIP)


def test_odd_strings(tokenizer: Tokenizer) -> None:
    assert tokenizer(np.str_("a dog"), BLIP) == tokenizer("a\x00 d\x00og", BLIP) == tokenizer("a dog", BLIP)
    for text in ("\ud800", "a dog \udc00", "\udc00\ud800 dog"):
        with pytest.raises(TextError, match="half a surrogate pair"):
            tokenizer(text, BLIP)


def test_enormous_strings_cost_little(tokenizer: Tokenizer) -> None:
    for text in ("中" * 8_000_000, " " * 8_000_000 + "dog", "ab, " * 2_000_000, "x" * 8_000_000):
        start = time.monotonic()
        try:
            ids, truncated = tokenizer.encode(text, BLIP)
            assert truncated and len(ids) <= BLIP.max_tokens
        except TextError:
            assert text[0] == " "
        assert time.monotonic() - start < 1


def test_ids_are_the_same_from_many_threads(tokenizer: Tokenizer) -> None:
    expected = [tokenizer(text, BLIP) for text in CAPTIONS]
    barrier, results = threading.Barrier(8, timeout=20), []

    def work() -> None:
        barrier.wait()
        results.extend([tokenizer(text, BLIP) for text in CAPTIONS] == expected for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [True] * 160


def as_json(words: dict[str, int], **normalizer: Any) -> str:
    return json.dumps(
        {
            "normalizer": {"type": "BertNormalizer", "lowercase": True, **normalizer},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": words},
        }
    )


WORDS = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "a", "dog", "##s"])}


def test_a_vocabulary_in_all_file_formats(vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    words = {word: i for i, word in enumerate(vocabulary.read_text(encoding="utf-8").split("\n")[:-1])}
    (tmp_path / "tokenizer.json").write_text(as_json(words))
    (tmp_path / "crlf.txt").write_bytes(vocabulary.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "2020.json").write_text(as_json(words).replace('"type": "WordPiece", ', ""))
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "vocab.txt").write_bytes(vocabulary.read_bytes())
    (tmp_path / "both" / "tokenizer.json").write_text("not read")
    paths = [tmp_path / name for name in ("", "tokenizer.json", "2020.json", "crlf.txt", "both")]
    for path in (vocabulary.parent, vocabulary.parent / "tokenizer.json", str(vocabulary), *paths):
        other = Tokenizer.from_vocabulary(path)
        assert other.vocab_size == 30522
        assert [other(text, BLIP) for text in CAPTIONS] == [tokenizer(text, BLIP) for text in CAPTIONS]


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_a_vocabulary_with_a_byte_order_mark(vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    content = vocabulary.read_text(encoding="utf-8") if name == "vocab.txt" else as_json(tokenizer.words())
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert Tokenizer.from_vocabulary(tmp_path / name).words() == tokenizer.words()


def test_a_tokenizer_that_transformers_saved(vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    (tmp_path / "vocab.txt").write_bytes(vocabulary.read_bytes())
    BertTokenizerFast.from_pretrained(tmp_path).save_pretrained(tmp_path)
    other = Tokenizer.from_vocabulary(tmp_path / "tokenizer.json")
    assert [other(text, ALBEF) for text in CAPTIONS] == [tokenizer(text, ALBEF) for text in CAPTIONS]


def test_small_vocabularies(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    for end in ("", "\n"):
        file.write_text("\n".join(WORDS) + end, encoding="utf-8")
        small = Tokenizer.from_vocabulary(file)
        assert (small.vocab_size, small.pad_id, small.unk_id) == (9, 0, 1)
        assert small("A cat, dogs", BLIP) == [2, 6, 1, 1, 7, 8, 3]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("vocab.txt", b"", r"without \[CLS\], \[SEP\]"),
        ("vocab.txt", "\n".join(WORDS).replace("[MASK]", "mask").encode(), r"got 9 words without \[MASK\]"),
        ("vocab.txt", b"a\nb\na\n", "3 lines with 2 different words"),
        ("vocab.txt", b"\x80\x02}q\x00.", "decode"),
        ("vocab.txt", as_json(WORDS).encode(), r"without \[CLS\]"),
        ("tokenizer.json", b"{", "expected the JSON of a tokenizer"),
        ("tokenizer.json", b"[1, 2]", "expected the JSON of a tokenizer"),
        ("tokenizer.json", b"[" * 100_000, "expected the JSON of a tokenizer"),
        ("tokenizer.json", b'{"model": {"vocab": []}, "normalizer": null}', "expected the JSON of a tokenizer"),
        ("tokenizer.json", as_json(WORDS, lowercase=False).encode(), "another tokenizer"),
        ("tokenizer.json", as_json(WORDS, type="NFC").encode(), "another tokenizer"),
        ("tokenizer.json", as_json(WORDS).replace("WordPiece", "BPE").encode(), "another tokenizer"),
        ("tokenizer.json", as_json(WORDS).replace(": 8", ': "8"').encode(), "another tokenizer"),
        ("tokenizer.json", as_json({**WORDS, "dog": 12}).encode(), "ids 0 to 8, each once"),
        ("tokenizer.json", as_json({**WORDS, "dog": 6}).encode(), "ids 0 to 8, each once"),
    ],
)
def test_files_that_are_not_vocabularies(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ConfigError, match=rf"cannot use .*{name} as a vocabulary .*{why}"):
            Tokenizer.from_vocabulary(path)


def test_missing_and_too_large_vocabularies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"expected vocab\.txt or tokenizer\.json in the folder"):
        Tokenizer.from_vocabulary(tmp_path)
    with pytest.raises(ConfigError, match=r"none\.txt as a vocabulary"):
        Tokenizer.from_vocabulary(tmp_path / "none.txt")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    monkeypatch.setattr(tokenizer_module, "_MAX_VOCABULARY_BYTES", 10)
    with pytest.raises(ConfigError, match="too large to be one"):
        Tokenizer.from_vocabulary(tmp_path)
