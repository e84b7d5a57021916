"""Anything that a user calls an image -> pixels; sentences -> token ids."""

from __future__ import annotations

import bisect
import io
import json
import os
import re
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tokenizers import Encoding, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as WordPieceTokenizer

from image_text_embedding.config import Limits, TextRules
from image_text_embedding.errors import ConfigError, ImageError, TextError
from image_text_embedding.fetch import display, fetch_picture, is_url

if TYPE_CHECKING:
    import torch

# Ordinary raster formats. Files are hostile until checked, and some of the others run programs (EPS: Ghostscript) or
# cannot be measured from their header (ICO holds whole PNG files).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
ACCEPTED = (
    "a path, an http(s) or data: URL, encoded bytes, an open binary file, a PIL image, a Towhee Image, "
    "or a uint8 or uint16 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
)
# A Towhee Image's mode -> how many channels it has, and which of them are red, green and blue.
MODES = {
    "RGB": (3, slice(0, 3)),
    "BGR": (3, slice(2, None, -1)),
    "RGBA": (4, slice(0, 3)),
    "BGRA": (4, slice(2, None, -1)),
    "GRAY": (1, slice(0, 1)),
}
_DRAWN_TOGETHER = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")

_LIMITS = Limits()
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PIL decodes a lazy image when it is first used, and two threads that use the same one for the first time break it.
_DECODING = [threading.Lock() for _ in range(64)]
_MAX_CHARACTERS = 2**16  # of a text that are read; 30 words are a few hundred, and a stranger may send gigabytes
_MAX_VOCABULARY_BYTES = 2**26


def load_picture(item: Any, limits: Limits = _LIMITS, least: int | None = None) -> Image.Image:
    """One picture, decoded, upright, in RGB; independent of what was handed in, which is left as it was.

    Follows the official code's `Image.open(path).convert("RGB")`: alpha and transparency are dropped with nothing put
    behind them, grey is repeated, palettes are looked up, CMYK goes through PIL's plain formula, colour profiles are
    ignored. Where that would be wrong this differs: the EXIF orientation is applied, and 16-bit grey (PIL modes I;16 and
    I, which PIL clips) keeps its high byte, as PIL itself does with 16-bit colour. Of an animation the first frame is
    taken; of a PIL image the frame at which it stands. PIL's LOAD_TRUNCATED_IMAGES, if the user set it, is obeyed.

    Args:
        item: a path, an http(s) or data: URL, encoded bytes, an open binary file (read from where it stands), a PIL
            image, or a uint8 or uint16 array: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4). Of a Towhee Image
            the mode (RGB, BGR, RGBA, BGRA, GRAY, None = as any array) is honoured.
        limits: what it may cost. Pixels are counted from the header, before anything is decoded.
        least: a JPEG may come at 1/2, 1/4 or 1/8 of its size, with no side shorter than this; the decoder then leaves out
            the frequencies that a smaller picture cannot show. None = pictures come as they are.

    Raises:
        ImageError: of another type, not a picture, truncated, zero-sized, too large, missing.
        FetchError: its URL is refused, too slow, too large, or not there.
    """
    if isinstance(item, Image.Image):
        with _DECODING[id(item) // 16 % len(_DECODING)]:
            return _decode(item, "the PIL image", limits)
    if isinstance(item, np.ndarray):
        return _from_array(item, limits)
    if isinstance(item, str) and is_url(item):
        return _open(io.BytesIO(fetch_picture(item, limits)), display(item), limits, least)
    if isinstance(item, (str, os.PathLike)):
        return _from_file(item, limits, least)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(bytes(item)), "the bytes", limits, least)
    if callable(getattr(item, "read", None)):
        return _from_stream(item, limits, least)
    raise ImageError(f"expected {ACCEPTED}; came {type(item).__module__}.{type(item).__qualname__}")


def to_pixels(picture: Image.Image, size: int) -> np.ndarray:
    """An RGB picture -> uint8 (size, size, 3): PIL bicubic, no crop, as torchvision's `Resize((size, size), BICUBIC)`.

    Source: official `transform_test` of BLIP's `data/__init__.py` and `test_transform` of ALBEF's `dataset/__init__.py`.
    """
    if picture.mode != "RGB":
        raise ImageError(f"expected a picture in RGB, as load_picture gives it, came mode {picture.mode}")
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC))


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> uint8 (B, size, size, 3) on the same device: `to_pixels` of many at once, nearly.

    torch's antialiased bicubic is PIL's filter without the rounding between rows and columns: values differ by 1, rarely
    by 2.
    """
    import torch
    from torch.nn.functional import interpolate

    if pixels.shape[1:3] == (size, size):
        return pixels
    values = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    values = interpolate(values, (size, size), mode="bicubic", antialias=True)
    return values.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def normalize(pixels: torch.Tensor | np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) on the same device, as torchvision's `ToTensor` and `Normalize`."""
    import torch

    tensor = torch.from_numpy(np.array(pixels)) if isinstance(pixels, np.ndarray) else pixels
    if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[-1] != 3:
        raise ImageError(f"expected uint8 pixels (B, S, S, 3), came {tensor.dtype} {tuple(tensor.shape)}")
    values = tensor.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    # (x / 255 - mean) / std in one pass over the pixels
    scale = torch.tensor([1 / (255 * each) for each in std], dtype=torch.float32, device=values.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std)], dtype=torch.float32, device=values.device)
    return torch.addcmul(shift[:, None, None], values, scale[:, None, None], out=values)


def _from_array(array: np.ndarray, limits: Limits) -> Image.Image:
    mode = getattr(array, "mode", None)  # a Towhee Image; a plain array has none
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(
            f"expected an array of uint8 (0 to 255) or uint16 (0 to 65535), came {array.dtype}. Its range cannot be known: "
            "scale it and convert it, e.g. (x * 255).round().astype('uint8') for floats in [0, 1]"
        )
    values = np.asarray(array)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise ImageError(f"expected an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), came shape {array.shape}")
    _check_size(values.shape[1], values.shape[0], "the array", limits)
    known = {1: "GRAY", 3: "RGB", 4: "RGBA"}[values.shape[2]] if mode is None else str(mode).upper()
    channels, colours = MODES.get(known, (0, slice(0)))
    if channels != values.shape[2]:
        modes = ", ".join(f"{name} ({count} channels)" for name, (count, _) in MODES.items())
        raise ImageError(f"expected a mode of {modes} or None, came {mode!r} with shape {array.shape}")
    values = values[:, :, colours]
    values = (values >> 8 if values.dtype.itemsize == 2 else values).astype(np.uint8, copy=False)
    return Image.fromarray(values) if channels > 1 else Image.fromarray(values[:, :, 0]).convert("RGB")


def _from_file(path: str | os.PathLike[Any], limits: Limits, least: int | None) -> Image.Image:
    shown = repr(os.fspath(path))
    shown = shown if len(shown) <= 300 else f"{shown[:300]}… ({len(shown)} characters)"
    try:
        kind = os.stat(path).st_mode
        # Anything else, a pipe say, may keep open() waiting for ever. The file is closed below.
        file = open(path, "rb") if stat.S_ISREG(kind) else None  # noqa: SIM115
    except FileNotFoundError as error:
        raise ImageError(f"no such file: {shown}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise ImageError(f"cannot open {shown}: {getattr(error, 'strerror', error)}") from error
    if file is None:
        raise ImageError(f"expected a picture's file, came a {'folder' if stat.S_ISDIR(kind) else 'device'}: {shown}")
    with file:
        return _open(file, shown, limits, least)


def _from_stream(stream: Any, limits: Limits, least: int | None) -> Image.Image:
    try:
        content = stream.read()
    except Exception as error:
        raise ImageError(f"cannot read the file object {type(stream).__name__}: {error}") from error
    if not isinstance(content, (bytes, bytearray)):
        raise ImageError(f"expected a file opened in binary mode ('rb'), came one that gives {type(content).__name__}")
    return _open(io.BytesIO(content), "the file object", limits, least)


def _open(file: Any, what: str, limits: Limits, least: int | None) -> Image.Image:
    """Decode an encoded picture. `what` names it in errors."""
    Image.init()  # loads the plugins once
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        picture = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(16)
        came = f"something else, or a header that is cut off: it begins with {head!r}" if head else "0 bytes"
        raise ImageError(f"{what}: expected a picture ({', '.join(formats)}), came {came}") from error
    except Exception as error:
        raise _broken(what, error, limits) from error
    if least is not None:
        _check_size(*picture.size, what, limits)  # now: a drafted picture says that it is smaller
        picture.draft(None, (least, least))  # does nothing to formats other than JPEG
    return _decode(picture, what, limits)


def _decode(picture: Image.Image, what: str, limits: Limits) -> Image.Image:
    """Upright RGB of a PIL image, which is not changed (but for being loaded)."""
    _check_size(*picture.size, what, limits)
    try:
        picture.load()
        if "transparency" in picture.info:  # PIL would warn of what convert("RGB") does with some of them
            picture = picture.copy()
            del picture.info["transparency"]
        rgb = _to_rgb(picture, what)
    except ImageError:
        raise
    except Exception as error:  # PIL's plugins raise nearly everything on broken files
        raise _broken(what, error, limits) from error
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF beside good pixels: as if there were none, as browsers do
        turn = None
    rgb.info = {}  # the orientation is in the pixels now, and must not be applied again
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(picture: Image.Image, what: str) -> Image.Image:
    if picture.mode == "F":
        raise ImageError(f"{what}: expected whole numbers, came floats (mode F): scale them to 0..255 and convert to L")
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{what}: expected at most 16 bits of grey, came {values.min()} to {values.max()} (mode {picture.mode}): "
                "scale it to 0..255 and convert to L"
            )
        picture = Image.fromarray((values >> 8).astype(np.uint8))
    return picture.convert("RGB")


def _check_size(width: int, height: int, what: str, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{what}: expected at least one pixel, came {width} x {height}")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{what}: {width} x {height} pixels are more than {limits.max_pixels}. Limits(max_pixels=...) sets the limit"
        )


def _broken(what: str, error: Exception, limits: Limits) -> ImageError:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(
            f"{what}: too many pixels: {error} Two limits hold, Limits(max_pixels=...), now {limits.max_pixels}, and PIL's "
            f"own, twice PIL.Image.MAX_IMAGE_PIXELS, now {Image.MAX_IMAGE_PIXELS}: to allow it, raise both"
        )
    return ImageError(f"{what}: truncated or broken: {type(error).__name__}: {str(error)[:200]}")


def clean(text: str, rules: TextRules) -> str:
    """A sentence as the official code hands it to the tokenizer, cut to `rules.max_words`.

    Follows `pre_caption` of BLIP's `data/utils.py` and ALBEF's `dataset/utils.py`. Kept quirks: a single tab or newline
    within the text stays and does not count as the end of a word; a tab at an end stays, too.
    """
    return " ".join(_words(text, rules)[: rules.max_words])


def _words(text: str, rules: TextRules) -> list[str]:
    table = {ord(char): " " for char in rules.to_space} | {ord(char): None for char in rules.remove}
    text = text.lower().translate(table)
    for old, new in rules.replace:
        text = text.replace(old, new)
    return re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ").split(" ")


class Tokenizer:
    """bert-base-uncased's WordPiece, as the official code uses it. Safe to call from many threads at once.

    A sentence never gives a special token: what looks like one is read as the word that it is.

    Attributes:
        vocab_size: how many words the vocabulary has.
        cls_id, sep_id, pad_id, unk_id, mask_id: the ids of its special tokens.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        """
        Args:
            words: word -> id, ids 0 to N - 1.

        Raises:
            ConfigError: ids with gaps or twice, or a special token is missing.
        """
        if sorted(words.values()) != list(range(len(words))):
            raise ConfigError(f"expected a vocabulary with the ids 0 to {len(words) - 1}, each once")
        if missing := [word for word in SPECIAL if word not in words]:
            raise ConfigError(f"expected a BERT vocabulary, came {len(words)} words without {', '.join(missing)}")
        self.vocab_size = len(words)
        self.cls_id, self.sep_id, self.pad_id, self.unk_id, self.mask_id = (words[word] for word in SPECIAL)
        # Special tokens are not registered as such, so that nobody can write one into a caption.
        self._word_piece = WordPieceTokenizer(
            models.WordPiece(vocab=dict(words), unk_token="[UNK]", max_input_chars_per_word=100)
        )
        self._word_piece.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
        )
        self._word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._word_piece.decoder = decoders.WordPiece(prefix="##", cleanup=False)
        self._special = {self.cls_id, self.sep_id, self.pad_id, self.mask_id}

    @classmethod
    def from_vocabulary(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """From a `vocab.txt` (a word per line), a `tokenizer.json`, or a folder that holds one of these.

        Raises:
            ConfigError: there is none, or it is not the vocabulary of an uncased BERT.
        """
        file = Path(path)
        if file.is_dir():
            names = ("vocab.txt", "tokenizer.json")
            found = next((file / name for name in names if (file / name).is_file()), None)
            if found is None:
                raise ConfigError(f"expected {' or '.join(names)} in the folder {file}, came neither")
            file = found
        try:
            if file.stat().st_size > _MAX_VOCABULARY_BYTES:
                raise ConfigError("expected a vocabulary, came a file too large to be one")
            text = file.read_text(encoding="utf-8")
            return cls(_words_of_json(text) if file.suffix == ".json" else _words_of_lines(text))
        except (
            OSError,
            ValueError,
            TypeError,
            OverflowError,
            ConfigError,
        ) as error:  # of words or numbers that none can be
            raise ConfigError(f"cannot use {file} as a vocabulary (vocab.txt or tokenizer.json): {error}") from error

    def __call__(self, text: str, rules: TextRules) -> list[int]:
        """The token ids of one sentence: `encode` without the question whether it was cut."""
        return self.encode(text, rules)[0]

    def encode(self, text: str, rules: TextRules) -> tuple[list[int], bool]:
        """The token ids of one sentence, and whether it was cut.

        [CLS], the sentence, and [SEP] if `rules.sep`: at most `rules.max_tokens` in all, and the sentence gives way. Only
        the first 65,536 characters are read.

        Raises:
            TextError: not a string, not Unicode (lone surrogates), or nothing in it to encode.
        """
        _, pieces, room, was_cut = self._read(text, rules)
        return [self.cls_id, *pieces.ids[:room], *([self.sep_id] if rules.sep else [])], was_cut

    def places(self, text: str, rules: TextRules) -> list[tuple[str, list[int]]]:
        """The words of one sentence, each with the places of its pieces in what `encode` gives.

        A word ends at white space. Its punctuation is no part of it, unless there is nothing else. What is cut off is not
        there.

        Raises:
            TextError: as `encode`.
        """
        sentence, pieces, room, _ = self._read(text, rules)
        starts = [found.start() for found in re.finditer(r"\S+", sentence)]
        words: dict[int, list[tuple[int, tuple[int, int]]]] = {}
        for place, span in enumerate(pieces.offsets[:room], start=1):
            words.setdefault(bisect.bisect(starts, span[0]), []).append((place, span))
        found = []
        for parts in words.values():
            spoken = [part for part in parts if any(map(str.isalnum, sentence[slice(*part[1])]))] or parts
            begin, end = spoken[0][1][0], spoken[-1][1][1]
            found.append((sentence[begin:end], [place for place, _ in spoken]))
        return found

    def _read(self, text: str, rules: TextRules) -> tuple[str, Encoding, int, bool]:
        """The cleaned sentence, its pieces, how many of them there is room for, and whether it was cut."""
        if not isinstance(text, str):
            raise TextError(f"expected a string, came {type(text).__name__}: {repr(text)[:100]}")
        start = text[:_MAX_CHARACTERS]
        try:
            start.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TextError(f"expected Unicode text, came half a surrogate pair at character {error.start}") from error
        words = _words(start, rules)
        sentence = " ".join(words[: rules.max_words])
        pieces = self._word_piece.encode(sentence)
        if not pieces.ids:
            raise TextError(f"nothing to encode: expected at least one word, came {start[:100]!r}")
        room = rules.max_tokens - 1 - rules.sep
        was_cut = len(start) < len(text) or len(words) > rules.max_words or len(pieces.ids) > room
        return sentence, pieces, room, was_cut

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids -> text: pieces joined, punctuation drawn to its word, special tokens and unknown ids left out.

        As transformers 4 decoded, which the official code calls; transformers 5 leaves "it ' s".
        """
        text = self._word_piece.decode([i for i in ids if i not in self._special and i < self.vocab_size])
        for apart, together in _DRAWN_TOGETHER:
            text = text.replace(apart, together)
        return text

    def words(self) -> dict[str, int]:
        """The vocabulary: word -> id."""
        return self._word_piece.get_vocab()


def _words_of_lines(text: str) -> dict[str, int]:
    # read_text made every line end "\n"; splitlines() would also split at characters that are words of the vocabulary.
    lines = text.removesuffix("\n").split("\n")
    words = {word: number for number, word in enumerate(lines)}
    if len(words) < len(lines):
        raise ConfigError(f"expected each word once, came {len(lines)} lines with {len(words)} different words")
    return words


def _words_of_json(text: str) -> dict[str, int]:
    try:
        raw = json.loads(text)
        model, normalizer = raw["model"], raw["normalizer"]
        words, kind = model["vocab"], model.get("type", "WordPiece")  # files of 2020 do not name it
        right = kind == "WordPiece" and normalizer["type"] == "BertNormalizer" and normalizer["lowercase"]
        right = right and all(isinstance(number, int) for number in words.values())
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"expected the JSON of a tokenizer, came {type(error).__name__}: {error}") from error
    if not right:
        raise ConfigError("expected WordPiece with a lower-casing BertNormalizer, came another tokenizer")
    return dict(words)
