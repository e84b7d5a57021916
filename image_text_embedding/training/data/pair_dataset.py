"""Pictures with captions, questions and answers: where they come from, in which order, and as batches of tensors."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from image_text_embedding.foundation.errors import ConfigError, InputError, TextError
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.pixels import to_pixels
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.training.data.batches import TokenRows, TrainingBatch
from image_text_embedding.training.data.pair_sources import PairSource
from image_text_embedding.training.settings import TrainConfig

MAX_SKIPPED_IN_A_ROW = 100  # that many unusable pairs, one after the other, are no accident

_SIDES = re.compile(r"\b(left|right)(most|ward|wards|hand|side)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class SkippedPair:
    """A pair that cannot be used, and why."""

    index: int
    image: str | None
    error: str


class BatchOrder(Sampler[list[tuple[int, int]]]):
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
class PairSample:
    """One pair, ready to be put in a batch, and those that could not be used in its place."""

    pixels: np.ndarray
    image_key: int
    caption: list[int]
    prompted: list[list[int]]
    questions: list[list[int]]
    answers: list[dict[tuple[int, ...], float]]  # to each question: its answers and their shares
    skipped: list[SkippedPair] = field(default_factory=list)


class PairDataset(Dataset["PairSample | list[SkippedPair]"]):
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

    def __getitem__(self, where: tuple[int, int]) -> PairSample | list[SkippedPair]:
        """The pair at an index, or, where that cannot be used, the next one that can.

        Args:
            where: place in the stream, which decides what is drawn; index.

        Returns:
            a sample; or, when a hundred in a row cannot be used, why (an error would come out of a reading process mangled)
        """
        place, index = where
        skipped: list[SkippedPair] = []
        while len(skipped) < min(MAX_SKIPPED_IN_A_ROW, len(self.source)):
            item: Any = None
            at = (index + len(skipped)) % len(self.source)
            try:
                item = _item(self.source[at])
                sample = self._sample(item, at, np.random.default_rng([self.settings.seed, 1, place]))
            except InputError as error:
                name = item.get("image") if item else None
                skipped.append(SkippedPair(at, name if isinstance(name, str) else None, str(error)))
            else:
                sample.skipped = skipped
                return sample
        return skipped

    def _sample(self, item: Mapping[str, Any], index: int, draw: np.random.Generator) -> PairSample:
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
        return PairSample(pixels, key, words, lines, questions, answers)

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
            raise TextError("expected an answer, got none")
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

    def collate(self, found: list[PairSample | list[SkippedPair]]) -> tuple[TrainingBatch | None, list[SkippedPair]]:
        """Samples of one batch -> tensors, or none where nothing could be used; and what was skipped."""
        samples = [sample for sample in found if isinstance(sample, PairSample)]
        skipped = [skip for each in found for skip in (each.skipped if isinstance(each, PairSample) else each)]
        if len(samples) < len(found):
            return None, skipped
        pad = self.tokenizer.pad_id
        to_each = [shares for sample in samples for shares in sample.answers]
        answers = [(row, weight, i) for i, shares in enumerate(to_each) for row, weight in shares.items()]
        prompted = [row for sample in samples for row in sample.prompted]
        questions = [row for sample in samples for row in sample.questions]
        captions = [sample.caption for sample in samples if sample.caption]
        batch = TrainingBatch(
            pixels=torch.from_numpy(np.stack([sample.pixels for sample in samples])),
            image_keys=torch.tensor([sample.image_key for sample in samples]),
            caption_keys=torch.tensor([_key(sample.caption) for sample in samples]),
            captions=padded_rows(captions, pad) if captions else None,
            prompted=padded_rows(prompted, pad) if prompted else None,
            prompt_length=1 + len(self.prompt),
            questions=padded_rows(questions, pad) if questions else None,
            answers=padded_rows([list(row) for row, _, _ in answers], pad) if answers else None,
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
        raise TextError(f"expected an answer to each of {len(question)} questions, got {came}")
    return list(zip(question, answer))


def _item(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"image": item[0], "caption": item[1]}
    raise InputError(f"expected a mapping with image and caption, or a pair of them, got {type(item).__name__}")


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


def padded_rows(rows: list[list[int]], pad: int) -> TokenRows:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return TokenRows(ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]))
