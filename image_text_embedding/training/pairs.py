"""Pictures with captions, questions and answers: where they come from, in which order, and as batches of tensors."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from image_text_embedding.config import ModelConfig, TextRules
from image_text_embedding.errors import ConfigError, InputError, SetupError, TextError
from image_text_embedding.fetch import is_url
from image_text_embedding.places import PICTURES
from image_text_embedding.preprocess import Tokenizer, load_picture, to_pixels
from image_text_embedding.training.settings import TrainConfig
from image_text_embedding.training.student import Batch, Rows

IN_A_ROW = 100  # that many unusable pairs, one after the other, are no accident
_COLUMNS = {"image": ("image", "file_name", "image_path"), "caption": ("caption", "text")}  # ours, then Hugging Face's
_SIDES = re.compile(r"\b(left|right)(most|ward|wards|hand|side)?\b", re.IGNORECASE)


class PairSource(Protocol):
    """Anything indexable. An item is a mapping or a pair (image, caption).

    Keys: `image`, what `load` calls a picture; `caption`, a string or several, of which some are drawn; `question`;
    `answer`, a string or one of each annotator. Where `question` is a list, `answer` is one too, with as many entries. What
    depends on anything but the index cannot be resumed exactly.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Skipped:
    """A pair that cannot be used, and why."""

    index: int
    image: str | None
    error: str


def read_pairs(place: str | os.PathLike[str]) -> PairSource:
    """Pairs from a file or a folder.

    Args:
        place: a `.jsonl` file, a mapping per line, pictures' paths relative to the file; a `.parquet` file, with paths or
            bytes; a folder with `metadata.jsonl` (Hugging Face's imagefolder) or with `x.jpg` beside `x.txt`, a caption
            per line; or `package.module:name`, a source in Python or a function without arguments that gives one. Columns
            are called `image` (or `file_name`), `caption` (or `text`), `question`, `answer`.

    Raises:
        InputError: it is not there, is something else, or holds no pairs.
        SetupError: a parquet file, and pyarrow is not installed.
    """
    path = Path(place)
    if not path.exists() and (named := re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)", os.fspath(place))):
        return _python_source(*named.groups())
    if path.is_dir():
        listed = path / "metadata.jsonl"
        rows: Sequence[Mapping[str, Any]] = _json_lines(listed) if listed.is_file() else _beside(path)
        folder = path
    elif path.suffix == ".parquet":
        rows, folder = _parquet(path), path.parent
    elif path.is_file():
        rows, folder = _json_lines(path), path.parent
    else:
        raise InputError(
            f"pairs: expected a .jsonl or .parquet file, a folder, or package.module:name, came {os.fspath(place)!r}, "
            "which does not exist"
        )
    if not len(rows):
        raise InputError(f"{path}: expected pairs of pictures and captions, came none")
    return _Listed(rows, folder)


def as_source(source: Any, length: int) -> PairSource:
    """What a caller may hand in -> a source.

    Args:
        source: a place for `read_pairs`, a source, an iterable of items (which is held in memory), or a function from an
            index to an item, which draws pictures on the fly.
        length: how many pairs the run takes, and so the indices that such a function is called with.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_pairs(source)
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        if callable(source):
            return _Drawn(source, length)
        if not isinstance(source, Iterable):
            raise InputError(f"expected pairs of pictures and captions, came {type(source).__name__}")
        source = list(source)
    if not len(source):
        raise InputError("expected pairs of pictures and captions, came none")
    return source


@dataclass(frozen=True)
class _Drawn:
    """Pairs that a function draws."""

    function: Callable[[int], Any]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.function(index)


@dataclass(frozen=True)
class _Listed:
    """Pairs of a file, whose pictures are read when they are asked for."""

    rows: Any  # a list, or a parquet table
    folder: Path

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = dict(self.rows[index])
        for name, others in _COLUMNS.items():
            found = next((key for key in others if row.get(key) is not None), None)
            row[name] = None if found is None else row[found]
        picture = row["image"]
        if isinstance(picture, Mapping):  # as Hugging Face's datasets store it
            picture = picture.get("bytes") or picture.get("path")
        if isinstance(picture, str) and not is_url(picture):
            picture = str(self.folder / picture)
        return {**row, "image": picture}


class _Table(Sequence[dict[str, Any]]):
    """A parquet table, a row at a time."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        return self.table.slice(index, 1).to_pylist()[0]


def _parquet(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_schema, read_table
    except ImportError as error:
        raise SetupError("parquet needs pyarrow: pip install 'image-text-embedding[train]'") from error
    known = {name for names in _COLUMNS.values() for name in names} | {"question", "answer"}
    try:
        return _Table(read_table(path, columns=[name for name in read_schema(path).names if name in known]))
    except (OSError, ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number}: expected a mapping, came {line.strip()[:100]}")
                rows.append(row)
    except ValueError as error:  # not JSON, not UTF-8
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}, line {len(rows) + 1}: expected one JSON mapping per line: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return rows


def _beside(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for picture in sorted(folder.iterdir()):
        text = picture.with_suffix(".txt")
        if picture.suffix.lower() in PICTURES and text.is_file():
            captions = [
                line for line in text.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
            ]
            rows.append({"image": picture.name, "caption": captions})
    return rows


def _python_source(module: str, name: str) -> PairSource:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"pairs: cannot get {name} from {module}: {error}") from error
    makes = callable(found) and (isinstance(found, type) or not hasattr(found, "__len__"))
    return as_source(found() if makes else found, 0)


class Order(Sampler[list[tuple[int, int]]]):
    """Which pairs each batch takes: every epoch another permutation, known from the seed and the place alone."""

    def __init__(self, length: int, batch_size: int, seed: int, start: int, stop: int) -> None:
        """
        Args:
            start, stop: places in the endless stream of pairs.
        """
        self.length, self.batch_size, self.seed, self.start, self.stop = length, batch_size, seed, start, stop

    def __len__(self) -> int:
        return (self.stop - self.start) // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """(place in the stream, index of the pair)"""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for first in range(self.start, self.stop, self.batch_size):
            batch = []
            for place in range(first, first + self.batch_size):
                if place // self.length != epoch:
                    epoch = place // self.length
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                batch.append((place, int(order[place % self.length])))
            yield batch


@dataclass
class Sample:
    """One pair, ready to be put in a batch, and those that could not be used in its place."""

    pixels: np.ndarray
    image_key: int
    caption: list[int]
    prompted: list[list[int]]
    questions: list[list[int]]
    answers: list[dict[tuple[int, ...], float]]  # to each question: its answers and their shares
    skipped: list[Skipped] = field(default_factory=list)


class Pairs(Dataset["Sample | list[Skipped]"]):
    """A source's pairs as samples: pictures cut and mirrored, texts as token ids. Safe to be read by several processes."""

    def __init__(
        self,
        source: PairSource,
        config: ModelConfig,
        tasks: tuple[str, ...],
        tokenizer: Tokenizer,
        settings: TrainConfig,
        augment: bool = True,
    ) -> None:
        self.source, self.config, self.tasks, self.tokenizer = source, config, tasks, tokenizer
        self.settings, self.augment = settings, augment
        self.prompt = (
            []
            if settings.prompt is None
            else tokenizer(settings.prompt, TextRules.as_it_is(config.text.max_positions, sep=False))[1:]
        )
        room = config.text.max_positions - len(self.prompt)
        if room < 3:
            raise ConfigError(f"prompt: leaves no room for a caption in {config.text.max_positions} positions")
        # A caption that is written ends with [SEP], whatever the family's texts end with.
        self.written = replace(config.captions, max_tokens=min(config.captions.max_tokens, room), sep=True)

    def __getitem__(self, where: tuple[int, int]) -> Sample | list[Skipped]:
        """The pair at an index, or, where that cannot be used, the next one that can.

        Args:
            where: place in the stream, which decides what is drawn; index.

        Returns:
            a sample; or, when a hundred in a row cannot be used, why (an error would come out of a reading process mangled)
        """
        place, index = where
        skipped: list[Skipped] = []
        while len(skipped) < min(IN_A_ROW, len(self.source)):
            item: Any = None
            at = (index + len(skipped)) % len(self.source)
            try:
                item = _item(self.source[at])
                sample = self._sample(item, at, np.random.default_rng([self.settings.seed, 1, place]))
            except InputError as error:
                name = item.get("image") if item else None
                skipped.append(Skipped(at, name if isinstance(name, str) else None, str(error)))
            else:
                sample.skipped = skipped
                return sample
        return skipped

    def _sample(self, item: Mapping[str, Any], index: int, draw: np.random.Generator) -> Sample:
        asked, said = item.get("question"), item.get("caption")
        captions = self._drawn(said if isinstance(said, (list, tuple)) and said else [said], draw)
        words: list[int] = []
        lines: list[list[int]] = []
        questions: list[list[int]] = []
        answers: list[dict[tuple[int, ...], float]] = []
        if set(self.tasks) != {"vqa"}:
            words = self.tokenizer(captions[0], self.config.captions)
        if "lm" in self.tasks:
            lines = [[self._begin(), *self.prompt, *self.tokenizer(text, self.written)[1:]] for text in captions]
        if "vqa" in self.tasks:
            assert self.config.questions is not None
            for question, given in self._drawn(_asked(asked, item.get("answer")), draw):
                questions.append(self.tokenizer(question, self.config.questions))
                answers.append(self._answers(given))
        picture = load_picture(item.get("image"))
        texts = f"{captions} {asked} {item.get('answer')}"
        pixels = to_pixels(self._cut(picture, texts, draw), self.config.vision.image_size)
        named = item.get("image")
        key = _key(os.fspath(named) if isinstance(named, (str, os.PathLike)) else index)
        return Sample(pixels, key, words, lines, questions, answers)

    def _drawn(self, texts: Sequence[Any], draw: np.random.Generator) -> list[Any]:
        """As many as are learnt from at once, each as often as any other if there are too few; one alone is not drawn."""
        wanted = self.settings.texts
        found: list[Any] = []
        while len(found) < wanted:
            order = draw.permutation(len(texts)) if len(texts) > 1 else [0]
            found += [texts[int(i)] for i in order[: wanted - len(found)]]
        return found

    def _answers(self, given: Any) -> dict[tuple[int, ...], float]:
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        if not given:
            raise TextError("expected an answer, came none")
        shares: dict[tuple[int, ...], float] = {}
        for answer in given:
            row = (
                self._begin(),
                *self.tokenizer(answer, TextRules.as_it_is(self.config.text.max_positions, sep=True))[1:],
            )
            shares[row] = shares.get(row, 0.0) + 1 / len(given)
        return shares

    def _begin(self) -> int:
        """What a decoder's text begins with."""
        rule = self.config.decoder
        return self.tokenizer.cls_id if rule is None or rule.dec_id is None else rule.dec_id

    def _cut(self, picture: Image.Image, texts: str, draw: np.random.Generator) -> Image.Image:
        """A random part of the picture, mirrored or not (torchvision's RandomResizedCrop and RandomHorizontalFlip)."""
        if not self.augment:
            return picture
        mirror = draw.random() < 0.5
        if self.settings.crop_scale is not None:
            picture = picture.crop(_box(picture.width, picture.height, self.settings.crop_scale, draw))
        if self.settings.flip and mirror and not _SIDES.search(texts):
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return picture

    def collate(self, found: list[Sample | list[Skipped]]) -> tuple[Batch | None, list[Skipped]]:
        """Samples of one batch -> tensors, or none where nothing could be used; and what was skipped."""
        samples = [sample for sample in found if isinstance(sample, Sample)]
        skipped = [skip for each in found for skip in (each.skipped if isinstance(each, Sample) else each)]
        if len(samples) < len(found):
            return None, skipped
        pad = self.tokenizer.pad_id
        to_each = [shares for sample in samples for shares in sample.answers]
        answers = [(row, weight, i) for i, shares in enumerate(to_each) for row, weight in shares.items()]
        prompted = [row for sample in samples for row in sample.prompted]
        questions = [row for sample in samples for row in sample.questions]
        captions = [sample.caption for sample in samples if sample.caption]
        batch = Batch(
            pixels=torch.from_numpy(np.stack([sample.pixels for sample in samples])),
            image_keys=torch.tensor([sample.image_key for sample in samples]),
            caption_keys=torch.tensor([_key(sample.caption) for sample in samples]),
            captions=_padded(captions, pad) if captions else None,
            prompted=_padded(prompted, pad) if prompted else None,
            prompt_length=1 + len(self.prompt),
            questions=_padded(questions, pad) if questions else None,
            answers=_padded([list(row) for row, _, _ in answers], pad) if answers else None,
            answer_of=torch.tensor([i for _, _, i in answers]) if answers else None,
            answer_weights=torch.tensor([weight for _, weight, _ in answers]) if answers else None,
        )
        return batch, skipped


def _asked(question: Any, answer: Any) -> list[tuple[Any, Any]]:
    """An item's questions, each with its answers."""
    if not isinstance(question, (list, tuple)):
        return [(question, answer)]
    if not question or not isinstance(answer, (list, tuple)) or len(question) != len(answer):
        came = len(answer) if isinstance(answer, (list, tuple)) else type(answer).__name__
        raise TextError(f"expected an answer to each of {len(question)} questions, came {came}")
    return list(zip(question, answer))


def _item(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"image": item[0], "caption": item[1]}
    raise InputError(f"expected a mapping with image and caption, or a pair of them, came {type(item).__name__}")


def _box(width: int, height: int, scale: tuple[float, float], draw: np.random.Generator) -> tuple[int, int, int, int]:
    """A part of a picture: a share of its area, of an aspect ratio within 3:4 and 4:3 of square."""
    for _ in range(10):
        area = width * height * draw.uniform(*scale)
        ratio = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1))
            return left, top, left + w, top + h
    side_w, side_h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    left, top = (width - side_w) // 2, (height - side_h) // 2
    return left, top, left + side_w, top + side_h


def _key(value: str | int | list[int]) -> int:
    """63 bits of what it is; the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "big") >> 1


def _padded(rows: list[list[int]], pad: int) -> Rows:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return Rows(ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]))
