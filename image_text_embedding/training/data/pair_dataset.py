"""Pictures with captions, questions and answers as training samples, and samples as batches of tensors."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from image_text_embedding.foundation.errors import ConfigError, InputError, TextError
from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.pixels import to_pixels
from image_text_embedding.inputs.text_rules import TextRules, swap_sides
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.networks.heads import ENTAILMENT_CLASSES
from image_text_embedding.training.data.batches import TokenRows, TrainingBatch
from image_text_embedding.training.data.pair_sources import PairSource
from image_text_embedding.training.settings import CLASSIFYING, TrainConfig

MAX_SKIPPED_IN_A_ROW = 100  # so many unusable pairs in a row mean that something is wrong with the source

_SIDE_WORDS = re.compile(r"\b(left|right)(most|ward|wards|hand|side)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class SkippedPair:
    """A pair that cannot be used, and why."""

    index: int
    image: str | None
    error: str


@dataclass
class PairSample:
    """One pair, ready for a batch.

    Attributes:
        pixels: uint8 (S, S, 3), RGB; (2, S, S, 3) for NLVR.
        image_key: equal for equal pictures.
        caption, prompted, questions: token ids, as in `TrainingBatch`.
        answers: for each question its answers (token ids) and their shares.
        label: of the caption, for NLVR and VE.
        skipped: the pairs before this one that cannot be used.
    """

    pixels: np.ndarray
    image_key: int
    caption: list[int]
    prompted: list[list[int]]
    questions: list[list[int]]
    answers: list[dict[tuple[int, ...], float]]
    label: int | None = None
    skipped: list[SkippedPair] = field(default_factory=list)


class PairDataset(Dataset["PairSample | list[SkippedPair]"]):
    """The pairs of a source as samples: pictures cropped and mirrored, texts as token ids. Several processes may read it."""

    def __init__(
        self,
        source: PairSource,
        config: ModelConfig,
        tasks: tuple[str, ...],
        tokenizer: Tokenizer,
        settings: TrainConfig,
        augment: bool = True,
        max_tokens: int | None = None,
    ) -> None:
        """
        Args:
            augment: crop and mirror the pictures.
            max_tokens: of a caption; None = the configuration's.

        Raises:
            ConfigError: the prompt is too long.
        """
        self.source, self.config, self.tasks, self.tokenizer = source, config, tasks, tokenizer
        self.settings, self.augment = settings, augment
        self.caption_rules = replace(config.captions, max_tokens=max_tokens or config.captions.max_tokens)
        self.prompt = (
            []
            if settings.prompt is None
            else tokenizer(settings.prompt, TextRules.as_it_is(config.text.max_positions, sep=False))[1:]
        )
        room = config.text.max_positions - len(self.prompt)
        if room < 3:
            raise ConfigError(
                f"prompt: expected one that leaves room for a caption in {config.text.max_positions} positions"
            )
        # A generated caption ends with [SEP], in families whose other texts do not as well.
        self.generation_rules = replace(
            self.caption_rules, max_tokens=min(self.caption_rules.max_tokens, room), sep=True
        )

    def __getitem__(self, key: tuple[int, int]) -> PairSample | list[SkippedPair]:
        """The pair at an index, or the next one that can be used.

        Args:
            key: (position in the stream of pairs, index); the position determines the random draws.

        Returns:
            a sample; or, if MAX_SKIPPED_IN_A_ROW pairs in a row cannot be used, those pairs (an exception would leave a
            reading process without its type and message)
        """
        position, index = key
        skipped: list[SkippedPair] = []
        while len(skipped) < min(MAX_SKIPPED_IN_A_ROW, len(self.source)):
            item: Any = None
            source_index = (index + len(skipped)) % len(self.source)
            try:
                item = _as_mapping(self.source[source_index])
                sample = self._sample(item, source_index, np.random.default_rng([self.settings.seed, 1, position]))
            except InputError as error:
                name = item.get("image") if item else None
                skipped.append(SkippedPair(source_index, name if isinstance(name, str) else None, str(error)))
            else:
                sample.skipped = skipped
                return sample
        return skipped

    def _sample(self, item: Mapping[str, Any], index: int, rng: np.random.Generator) -> PairSample:
        question, caption, answer = item.get("question"), item.get("caption"), item.get("answer")
        captions = self._choose_texts(caption if isinstance(caption, (list, tuple)) and caption else [caption], rng)
        caption_ids: list[int] = []
        prompted: list[list[int]] = []
        questions: list[list[int]] = []
        answers: list[dict[tuple[int, ...], float]] = []
        if set(self.tasks) != {"vqa"}:
            caption_ids = self.tokenizer(captions[0], self.caption_rules)
        if "lm" in self.tasks:
            prompted = [
                [self._first_decoder_id(), *self.prompt, *self.tokenizer(text, self.generation_rules)[1:]]
                for text in captions
            ]
        if "vqa" in self.tasks:
            assert self.config.questions is not None
            for text, answer_texts in self._choose_texts(_pair_questions(question, answer), rng):
                questions.append(self.tokenizer(text, self.config.questions))
                answers.append(self._answer_shares(answer_texts))
        texts = f"{captions} {question} {answer}"
        image = item.get("image")
        key = _hash_key(os.fspath(image) if isinstance(image, (str, os.PathLike)) else index)
        label = read_label(item.get("label"), self.tasks) if set(CLASSIFYING) & set(self.tasks) else None
        if "nlvr" not in self.tasks:
            pixels = self._pixels(image, texts, rng)
        else:
            if not isinstance(image, (list, tuple)) or len(image) != 2:
                raise InputError(f"expected a pair of pictures under 'image', got {abbreviate(image)}")
            pixels = np.stack([self._pixels(each, texts, rng) for each in image])
            # BLIP's `data/nlvr_dataset.py` exchanges left and right at random.
            if self.augment and self.config.family == "blip" and rng.random() < 0.5:
                pixels, caption_ids = pixels[::-1], self.tokenizer(swap_sides(captions[0]), self.caption_rules)
        return PairSample(pixels, key, caption_ids, prompted, questions, answers, label)

    def _pixels(self, image: Any, texts: str, rng: np.random.Generator) -> np.ndarray:
        return to_pixels(self._augment(load_picture(image), texts, rng), self.config.vision.image_size)

    def _choose_texts(self, texts: Sequence[Any], rng: np.random.Generator) -> list[Any]:
        """Draw `settings.texts` of the texts without repetition; if there are fewer, each about equally often."""
        count = self.settings.texts
        chosen: list[Any] = []
        while len(chosen) < count:
            # A single text draws nothing from the generator.
            order = rng.permutation(len(texts)) if len(texts) > 1 else [0]
            chosen += [texts[int(i)] for i in order[: count - len(chosen)]]
        return chosen

    def _answer_shares(self, texts: Any) -> dict[tuple[int, ...], float]:
        """The distinct answers to a question as token ids, with the share of annotators who gave each."""
        texts = list(texts) if isinstance(texts, (list, tuple)) else [texts]
        if not texts:
            raise TextError("expected an answer, got none")
        shares: dict[tuple[int, ...], float] = {}
        for answer in texts:
            row = (
                self._first_decoder_id(),
                *self.tokenizer(answer, TextRules.as_it_is(self.config.text.max_positions, sep=True))[1:],
            )
            shares[row] = shares.get(row, 0.0) + 1 / len(texts)
        return shares

    def _first_decoder_id(self) -> int:
        """The first token of a decoder's text: [DEC] or [CLS]."""
        rule = self.config.decoder
        return self.tokenizer.cls_id if rule is None or rule.dec_id is None else rule.dec_id

    def _augment(self, picture: Image.Image, texts: str, rng: np.random.Generator) -> Image.Image:
        """A random crop of the picture, mirrored or not (torchvision's RandomResizedCrop and RandomHorizontalFlip)."""
        if not self.augment:
            return picture
        mirror = rng.random() < 0.5
        if self.settings.crop_scale is not None:
            picture = picture.crop(random_crop_box(picture.width, picture.height, self.settings.crop_scale, rng))
        if self.settings.flip and mirror and not _SIDE_WORDS.search(texts):
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return picture

    def collate(self, items: list[PairSample | list[SkippedPair]]) -> tuple[TrainingBatch | None, list[SkippedPair]]:
        """Samples of one batch as tensors, and the pairs that were skipped; no tensors if a sample is missing."""
        samples = [item for item in items if isinstance(item, PairSample)]
        skipped = [pair for item in items for pair in (item.skipped if isinstance(item, PairSample) else item)]
        if len(samples) < len(items):
            return None, skipped
        pad = self.tokenizer.pad_id
        answers_by_question = [shares for sample in samples for shares in sample.answers]
        answers = [(row, weight, i) for i, shares in enumerate(answers_by_question) for row, weight in shares.items()]
        prompted = [row for sample in samples for row in sample.prompted]
        questions = [row for sample in samples for row in sample.questions]
        captions = [sample.caption for sample in samples if sample.caption]
        batch = TrainingBatch(
            pixels=torch.from_numpy(
                np.concatenate([each.pixels if each.pixels.ndim == 4 else each.pixels[None] for each in samples])
            ),
            image_keys=torch.tensor([sample.image_key for sample in samples]),
            caption_keys=torch.tensor([_hash_key(sample.caption) for sample in samples]),
            captions=padded_rows(captions, pad) if captions else None,
            prompted=padded_rows(prompted, pad) if prompted else None,
            prompt_length=1 + len(self.prompt),
            questions=padded_rows(questions, pad) if questions else None,
            answers=padded_rows([list(row) for row, _, _ in answers], pad) if answers else None,
            answer_of=torch.tensor([i for _, _, i in answers]) if answers else None,
            answer_weights=torch.tensor([weight for _, weight, _ in answers]) if answers else None,
            labels=None if samples[0].label is None else torch.tensor([sample.label for sample in samples]),
        )
        return batch, skipped


def _pair_questions(question: Any, answer: Any) -> list[tuple[Any, Any]]:
    """The questions of an item, each with its answers."""
    if not isinstance(question, (list, tuple)):
        return [(question, answer)]
    if not question or not isinstance(answer, (list, tuple)) or len(question) != len(answer):
        got = len(answer) if isinstance(answer, (list, tuple)) else type(answer).__name__
        raise TextError(f"expected an answer to each of {len(question)} questions, got {got}")
    return list(zip(question, answer))


def read_label(label: Any, tasks: tuple[str, ...]) -> int:
    """The class of a label: for NLVR true or false, as words or not; for VE one of ENTAILMENT_CLASSES.

    Raises:
        TextError: it is neither.
    """
    names = ("false", "true") if "nlvr" in tasks else ENTAILMENT_CLASSES
    name = str(label).lower()
    if name not in names:
        raise TextError(f"label: expected {' or '.join(names)}, got {abbreviate(label)}")
    return names.index(name)


def _as_mapping(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"image": item[0], "caption": item[1]}
    raise InputError(f"expected a mapping with image and caption, or a pair of them, got {type(item).__name__}")


def random_crop_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random part of a picture: (left, top, right, bottom) in pixels.

    Args:
        scale: range of its share of the area. Its aspect ratio lies between 3:4 and 4:3.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    side_w, side_h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    left, top = (width - side_w) // 2, (height - side_h) // 2
    return left, top, left + side_w, top + side_h


def _hash_key(value: str | int | list[int]) -> int:
    """A 63-bit hash, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "big") >> 1


def padded_rows(rows: list[list[int]], pad: int) -> TokenRows:
    """Rows of token ids, padded at the end to the longest."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return TokenRows(ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]))
