"""bert-base-uncased's WordPiece tokenizer, as the official code uses it: sentences -> token ids and back."""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as WordPieceTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

from image_text_embedding.foundation.errors import ConfigError, TextError
from image_text_embedding.foundation.text_files import parse_json_object, read_small_text
from image_text_embedding.inputs.text_rules import MAX_CHARACTERS, TextRules

# Replacements of `decode`, which drop the space before punctuation.
_PUNCTUATION = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]

SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")

# bert-base-uncased has 30,522 words, in 230 KB as vocab.txt and 700 KB as tokenizer.json.
_MAX_VOCABULARY_BYTES, _MAX_WORDS = 2**23, 2**20

# Words whose pieces are remembered, and the characters of the longest of them: texts may be a stranger's.
_MAX_KNOWN_WORDS, _MAX_KNOWN_LENGTH = 2**16, 32


class Tokenizer:
    """bert-base-uncased's WordPiece, as the official code uses it. Safe to call from many threads at once.

    A sentence never produces a special token: text that looks like one is read as ordinary words.

    Attributes:
        vocab_size: number of words in the vocabulary.
        cls_id, sep_id, pad_id, unk_id, mask_id: ids of the special tokens.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        """
        Args:
            words: word -> id; the ids are 0 to N - 1.

        Raises:
            ConfigError: ids have gaps or repeat, or a special token is missing.
        """
        if sorted(words.values()) != list(range(len(words))):
            raise ConfigError(f"expected a vocabulary with the ids 0 to {len(words) - 1}, each once")
        if missing := [word for word in SPECIAL_TOKENS if word not in words]:
            raise ConfigError(f"expected a BERT vocabulary, got {len(words)} words without {', '.join(missing)}")
        self.vocab_size = len(words)
        self.cls_id, self.sep_id, self.pad_id, self.unk_id, self.mask_id = (words[word] for word in SPECIAL_TOKENS)
        # Special tokens are not registered as such, so that a caption cannot contain one.
        self._word_piece = WordPieceTokenizer(
            models.WordPiece(vocab=dict(words), unk_token="[UNK]", max_input_chars_per_word=100)
        )
        self._word_piece.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
        )
        self._word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._word_piece.decoder = decoders.WordPiece(prefix="##", cleanup=False)
        self._known: dict[str, list[int]] = {}
        self._special = {self.cls_id, self.sep_id, self.pad_id, self.mask_id}

    @classmethod
    def from_vocabulary(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a vocabulary from a `vocab.txt` (a word per line), a `tokenizer.json`, or a folder with one of these.

        Raises:
            ConfigError: the file is not found, or is not the vocabulary of an uncased BERT.
        """
        file = Path(path)
        if file.is_dir():
            names = ("vocab.txt", "tokenizer.json")
            found = next((file / name for name in names if (file / name).is_file()), None)
            if found is None:
                raise ConfigError(f"expected {' or '.join(names)} in the folder {file}, got neither")
            file = found
        try:
            text = read_small_text(file, _MAX_VOCABULARY_BYTES)
            return cls(_words_of_json(text) if file.suffix == ".json" else _words_of_lines(text))
        except (
            OSError,
            ValueError,
            TypeError,
            OverflowError,
            ConfigError,
        ) as error:
            raise ConfigError(f"cannot use {file} as a vocabulary (vocab.txt or tokenizer.json): {error}") from error

    def __call__(self, text: str, rules: TextRules) -> list[int]:
        """The token ids of one sentence, as `encode` returns them."""
        return self.encode(text, rules)[0]

    def encode(self, text: str, rules: TextRules) -> tuple[list[int], bool]:
        """The token ids of one sentence, and whether it was truncated.

        The ids are [CLS], the sentence, and [SEP] if `rules.sep`: at most `rules.max_tokens` in all. Only the first 65,536
        characters are read.

        Raises:
            TextError: the text is not a string, not Unicode (lone surrogates), or contains nothing to encode.
        """
        sentence, was_cut = self._clean(text, rules)
        ids = self._pieces(sentence)
        if not ids:
            raise _nothing_to_encode(text)
        truncated = was_cut or len(ids) > rules.max_pieces
        return [self.cls_id, *ids[: rules.max_pieces], *([self.sep_id] if rules.sep else [])], truncated

    def word_positions(self, text: str, rules: TextRules) -> list[tuple[str, list[int]]]:
        """The words of one sentence, each with the positions of its pieces in the result of `encode`.

        A word ends at white space. Its punctuation is left out, unless it consists of nothing else. Truncated words are left
        out.

        Raises:
            TextError: as `encode`.
        """
        sentence, _ = self._clean(text, rules)
        pieces = self._word_piece.encode(sentence)
        if not pieces.ids:
            raise _nothing_to_encode(text)
        starts = [found.start() for found in re.finditer(r"\S+", sentence)]
        words: dict[int, list[tuple[int, tuple[int, int]]]] = {}
        for position, span in enumerate(pieces.offsets[: rules.max_pieces], start=1):
            words.setdefault(bisect.bisect(starts, span[0]), []).append((position, span))
        found = []
        for parts in words.values():
            shown = [part for part in parts if any(map(str.isalnum, sentence[slice(*part[1])]))] or parts
            start, end = shown[0][1][0], shown[-1][1][1]
            found.append((sentence[start:end], [position for position, _ in shown]))
        return found

    def _clean(self, text: str, rules: TextRules) -> tuple[str, bool]:
        """The cleaned sentence, truncated to `rules.max_words`, and whether it was."""
        if not isinstance(text, str):
            raise TextError(f"expected a string, got {type(text).__name__}: {repr(text)[:100]}")
        start = text[:MAX_CHARACTERS]
        try:
            start.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TextError(f"expected Unicode text, got half a surrogate pair at character {error.start}") from error
        words = rules.words(start)
        return " ".join(words[: rules.max_words]), len(start) < len(text) or len(words) > rules.max_words

    def _pieces(self, sentence: str) -> list[int]:
        """The pieces of a sentence. WordPiece splits each word by itself, so that those of plain words are remembered.

        (A short sentence takes WordPiece 20 times as long as looking up its words, as it also notes where pieces stand.)
        """
        ids: list[int] = []
        for word in sentence.split(" "):
            known = self._known.get(word)
            if known is None:
                # Other words may be several, or be changed by the normalizer: punctuation, accents, Chinese.
                if not (word.isascii() and word.isalnum() and len(word) <= _MAX_KNOWN_LENGTH):
                    return self._word_piece.encode(sentence).ids
                if len(self._known) >= _MAX_KNOWN_WORDS:
                    self._known.clear()
                known = self._known[word] = self._word_piece.encode(word).ids
            ids += known
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids -> text: pieces joined, punctuation attached to its word, special tokens and unknown ids left out.

        It equals the decoding of transformers 4, which the official code uses; transformers 5 leaves "it ' s".
        """
        text = self._word_piece.decode([i for i in ids if i not in self._special and i < self.vocab_size])
        for spaced, joined in _PUNCTUATION:
            text = text.replace(spaced, joined)
        return text.removeprefix("##")  # of a first piece that continues a word

    def decode_continuation(self, start: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to the text of `start`. A space comes first if they begin a new word of it.

        The first piece may continue the last word, or be a punctuation mark that is attached to it.
        """
        before, both = self.decode(start), self.decode([*start, *ids])
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, both)))
        return both[shared:]

    def words(self) -> dict[str, int]:
        """The vocabulary: word -> id."""
        return self._word_piece.get_vocab()


def _nothing_to_encode(text: str) -> TextError:
    return TextError(f"nothing to encode: expected at least one word, got {text[:100]!r}")


def _words_of_lines(text: str) -> dict[str, int]:
    # All line ends are "\n" already. splitlines() would also split at characters that are words of the vocabulary.
    lines = text.removesuffix("\n").split("\n")
    if len(lines) > _MAX_WORDS:
        raise ConfigError(f"expected at most {_MAX_WORDS:,} words, got {len(lines):,} lines")
    words = {word: number for number, word in enumerate(lines)}
    if len(words) < len(lines):
        raise ConfigError(f"expected each word once, got {len(lines)} lines with {len(words)} different words")
    return words


def _words_of_json(text: str) -> dict[str, int]:
    try:
        raw = parse_json_object(text)
        model, normalizer = raw["model"], raw["normalizer"]
        # Files from 2020 do not state the type.
        words, kind = model["vocab"], model.get("type", "WordPiece")
        valid = kind == "WordPiece" and normalizer["type"] == "BertNormalizer" and normalizer["lowercase"]
        valid = valid and all(isinstance(number, int) for number in words.values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"expected the JSON of a tokenizer, got {type(error).__name__}: {error}") from error
    if not valid:
        raise ConfigError("expected WordPiece with a lower-casing BertNormalizer, got another tokenizer")
    return dict(words)
