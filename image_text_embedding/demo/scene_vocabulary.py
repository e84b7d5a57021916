"""The vocabulary of texts about scenes: their words, and pieces of which every other English word can be made.

    python -m image_text_embedding.demo.scene_vocabulary BERT_VOCABULARY OUT

writes it, from bert-base-uncased's `vocab.txt`, whose words are sorted by frequency.
"""

from __future__ import annotations

import itertools
import re
import string
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from image_text_embedding.demo import scene_language
from image_text_embedding.demo.scene_names import as_one_word, kind_name, kinds, names
from image_text_embedding.demo.scene_statements import GROUND_ALONE, GROUNDS, LISTS, SOMETHING, STARTS

FREQUENT_WORDS, FREQUENT_PIECES = 900, 500

MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def subwords(bert: Sequence[str]) -> tuple[str, ...]:
    """The vocabulary: special tokens, marks, digits, letters at the start of a word and within it, the words of texts about
    scenes, and frequent words and pieces of English.

    A name written as one word is left to its pieces: "teddybear" is teddy and ##bear.

    Args:
        bert: bert-base-uncased's vocabulary, in its order.
    """
    latin = [word for word in bert if len(word) == 1 and "LATIN" in unicodedata.name(word, "")]
    letters = list(dict.fromkeys([*string.ascii_lowercase, *string.digits, *latin]))
    tails = sorted({f"##{tail}" for tail in _tails()})
    known = _scene_words()
    words = (word for word in bert if re.fullmatch(r"[a-z]{2,}", word) and word not in known)
    pieces = (word for word in bert if re.fullmatch(r"##[a-z]{2,}", word) and word not in tails)
    return (
        *scene_language.SPECIAL,
        *MARKS,
        *letters,
        *(f"##{letter}" for letter in letters),
        *sorted(known - set(letters) - set(MARKS)),
        *tails,
        *itertools.islice(words, FREQUENT_WORDS),
        *itertools.islice(pieces, FREQUENT_PIECES),
    )


def _scene_words() -> set[str]:
    """The words of statements, captions, questions and answers, except names written as one word."""
    texts = [*scene_language.words()[len(scene_language.SPECIAL) :], "left right top bottom and grey gray none"]
    texts += [re.sub(r"\{\w*\}", " ", template) for template in (*STARTS, *GROUNDS, GROUND_ALONE, *SOMETHING)]
    texts += [re.sub(r"\{\w*\}", " ", template) for templates in LISTS.values() for template in templates]
    texts += [form for kind in kinds() for form in kind_name(kind)]
    texts += [form for called in names().values() for name in called for form in name]
    joined = {as_one_word(form) for called in names().values() for name in called for form in name}
    # First names are whole: a snowman is one piece, even if it is also written as two words.
    joined -= {form for called in names().values() for form in called[0]}
    return set(re.findall(r"\w+|[^\w\s]", " ".join(texts))) - {word for word in joined if word}


def _tails() -> Iterator[str]:
    """The second words of the names that are also written as one word."""
    for called in names().values():
        for form in itertools.chain.from_iterable(called):
            if as_one_word(form):
                yield form.split()[1]


def write_subwords(bert: Path, out: Path) -> None:
    """Write `subwords` as a `vocab.txt`."""
    out.write_text("\n".join(subwords(bert.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_subwords(Path(sys.argv[1]), Path(sys.argv[2]))
