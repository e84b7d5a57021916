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
from image_text_embedding.inputs.image_loading import decoded_picture
from image_text_embedding.inputs.pixels import to_pixels
from image_text_embedding.inputs.text_rules import TextRules, swap_sides
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.networks.heads import ENTAILMENT_CLASSES
from image_text_embedding.training.data.batches import MatchLabels, TokenRows, TrainingBatch
from image_text_embedding.training.data.pair_sources import PairSource, as_pair
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
        image_key: equal for equal pictures, and for the pictures of a group.
        captions, prompted, questions: token ids, as in `TrainingBatch`.
        answers: for each question its answers (token ids) and their shares.
        negatives: token ids of texts that do not fit the picture.
        claims, facts: of each caption and of the picture, for a predicate.
        label: of the captions, for NLVR and VE.
        queries: token ids of texts that are asked of every picture of the batch, and their claims.
        skipped: the pairs before this one that cannot be used.
    """

    pixels: np.ndarray
    image_key: int
    captions: list[list[int]]
    prompted: list[list[int]]
    questions: list[list[int]]
    answers: list[dict[tuple[int, ...], float]]
    negatives: list[list[int]] = field(default_factory=list)
    claims: list[Any] = field(default_factory=list)
    facts: Any = None
    label: int | None = None
    queries: list[tuple[list[int], Any]] = field(default_factory=list)
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
        labelled: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        """
        Args:
            augment: crop and mirror the pictures.
            labelled: add the `MatchLabels` to the batches.
            max_tokens: of a caption; None = the configuration's.

        Raises:
            ConfigError: the prompt is too long.
        """
        self.source, self.config, self.tasks, self.tokenizer = source, config, tasks, tokenizer
        self.settings, self.augment, self.labelled = settings, augment, labelled
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
                item = self._pair(source_index)
                sample = self._sample(item, source_index, np.random.default_rng([self.settings.seed, 1, position]))
            except InputError as error:
                name = item.get("image") if item else None
                skipped.append(SkippedPair(source_index, name if isinstance(name, str) else None, str(error)))
            else:
                sample.skipped = skipped
                return sample
        return skipped

    def _pair(self, index: int) -> Mapping[str, Any]:
        try:
            item = self.source[index]
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"reading pair {index} failed: {type(error).__name__}: {error}") from error
        return as_pair(item)

    def _sample(self, item: Mapping[str, Any], index: int, rng: np.random.Generator) -> PairSample:
        question, caption, answer = item.get("question"), item.get("caption"), item.get("answer")
        described = item.get("description")
        for key, is_read in (("caption", set(self.tasks) != {"vqa"}), ("question", "vqa" in self.tasks)):
            if is_read and item.get(key) is None:
                found = [name for name, value in item.items() if value is not None]
                raise TextError(f"expected a {key}, got a pair with {', '.join(map(str, found)) or 'nothing'}")
        count = self.settings.captions if described is not None else max(self.settings.texts, self.settings.captions)
        chosen = _choose_texts(_captions_with_claims(caption, item.get("claims")), count, rng)
        texts = [text for text, _ in chosen]
        chosen = chosen[: self.settings.captions]
        captions: list[list[int]] = []
        prompted: list[list[int]] = []
        questions: list[list[int]] = []
        answers: list[dict[tuple[int, ...], float]] = []
        if set(self.tasks) != {"vqa"}:
            captions = [self.tokenizer(text, self.caption_rules) for text, _ in chosen]
        if "lm" in self.tasks:
            if described is not None:
                texts = _choose_texts(_as_list(described), self.settings.texts, rng)
            prompted = [
                [self._first_decoder_id(), *self.prompt, *self.tokenizer(text, self.generation_rules)[1:]]
                for text in texts[: self.settings.texts]
            ]
        if "vqa" in self.tasks:
            assert self.config.questions is not None
            for text, answer_texts in _choose_texts(_pair_questions(question, answer), self.settings.texts, rng):
                questions.append(self.tokenizer(text, self.config.questions))
                answers.append(self._answer_shares(answer_texts))
        wrong = item.get("negatives")
        negatives = self._negatives(wrong, rng) if wrong is not None and "itm" in self.tasks else []
        queries = self._queries(item) if item.get("queries") is not None and "itc" in self.tasks else []
        said = f"{texts} {chosen} {question} {answer} {wrong} {item.get('facts')}"
        label = read_label(item.get("label"), self.tasks) if set(CLASSIFYING) & set(self.tasks) else None
        image = item.get("image")
        if "nlvr" not in self.tasks:
            pixels = self._pixels(image, said, rng)
        else:
            if not isinstance(image, (list, tuple)) or len(image) != 2:
                raise InputError(f"expected a pair of pictures under 'image', got {abbreviate(image)}")
            pixels = np.stack([self._pixels(each, said, rng) for each in image])
            # BLIP's `data/nlvr_dataset.py` exchanges left and right at random.
            if self.augment and self.config.family == "blip" and rng.random() < 0.5:
                pixels = pixels[::-1]
                captions = [self.tokenizer(swap_sides(text), self.caption_rules) for text, _ in chosen]
        return PairSample(
            pixels,
            _image_key(item, index),
            captions,
            prompted,
            questions,
            answers,
            negatives,
            [each for _, each in chosen],
            item.get("facts"),
            label,
            queries,
        )

    def _pixels(self, image: Any, said: str, rng: np.random.Generator) -> np.ndarray:
        with decoded_picture(image) as picture:
            return to_pixels(self._augment(picture, said, rng), self.config.vision.image_size)

    def _negatives(self, texts: Any, rng: np.random.Generator) -> list[list[int]]:
        """Draw up to `settings.negatives` of an item's wrong texts, as token ids."""
        if not isinstance(texts, (list, tuple)):
            raise TextError(f"negatives: expected a list of texts, got {type(texts).__name__}")
        order = rng.permutation(len(texts))[: self.settings.negatives or 0]
        return [self.tokenizer(texts[int(i)], self.caption_rules) for i in order]

    def _queries(self, item: Mapping[str, Any]) -> list[tuple[list[int], Any]]:
        """An item's queries as token ids, with their claims."""
        if not self.labelled:
            raise TextError("queries: expected a predicate that says which pictures they fit: pass fits=...")
        texts = item["queries"]
        if not isinstance(texts, (list, tuple)):
            raise TextError(f"queries: expected a list of texts, got {type(texts).__name__}")
        claims = texts if item.get("query_claims") is None else item["query_claims"]
        if not isinstance(claims, (list, tuple)) or len(claims) != len(texts):
            got = len(claims) if isinstance(claims, (list, tuple)) else type(claims).__name__
            raise TextError(f"query_claims: expected one for each of {len(texts)} queries, got {got}")
        return [(self.tokenizer(text, self.caption_rules), each) for text, each in zip(texts, claims)]

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
        captions = [row for sample in samples for row in sample.captions]
        of_caption = [sample for sample in samples for _ in sample.claims]
        negatives = [row for sample in samples for row in sample.negatives]
        queries = [query for sample in samples for query in sample.queries]
        # Of one length, because ITM reads both in one batch.
        rows = TokenRows.padded([*captions, *negatives], pad) if captions else None
        batch = TrainingBatch(
            pixels=torch.from_numpy(
                np.concatenate([each.pixels if each.pixels.ndim == 4 else each.pixels[None] for each in samples])
            ),
            image_keys=torch.tensor([sample.image_key for sample in of_caption]),
            caption_keys=torch.tensor([_hash_key(row) for row in captions or [[]] * len(of_caption)]),
            labels=MatchLabels(
                [claims for sample in samples for claims in sample.claims], [sample.facts for sample in of_caption]
            )
            if self.labelled
            else None,
            captions=rows and rows.part(0, len(captions)),
            negatives=rows.part(len(captions), None) if rows and negatives else None,
            negative_of=torch.tensor([i for i, sample in enumerate(samples) for _ in sample.negatives])
            if negatives
            else None,
            prompted=TokenRows.padded(prompted, pad) if prompted else None,
            prompt_length=1 + len(self.prompt),
            questions=TokenRows.padded(questions, pad) if questions else None,
            answers=TokenRows.padded([list(row) for row, _, _ in answers], pad) if answers else None,
            answer_of=torch.tensor([i for _, _, i in answers]) if answers else None,
            answer_weights=torch.tensor([weight for _, weight, _ in answers]) if answers else None,
            queries=TokenRows.padded([row for row, _ in queries], pad) if queries else None,
            query_claims=[claims for _, claims in queries] if queries else None,
            classes=None if samples[0].label is None else torch.tensor([sample.label for sample in of_caption]),
        )
        return batch, skipped


def _choose_texts(texts: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """Draw `count` of the texts without repetition; if there are fewer, each about equally often."""
    chosen: list[Any] = []
    while len(chosen) < count:
        # A single text draws nothing from the generator.
        order = rng.permutation(len(texts)) if len(texts) > 1 else [0]
        chosen += [texts[int(i)] for i in order[: count - len(chosen)]]
    return chosen


def _as_list(texts: Any) -> Sequence[Any]:
    return texts if isinstance(texts, (list, tuple)) and texts else [texts]


def _captions_with_claims(caption: Any, claims: Any) -> list[tuple[Any, Any]]:
    """The captions of an item, each with its claims, which are the caption itself if the item has none."""
    if not isinstance(caption, (list, tuple)) or not caption:
        return [(caption, caption if claims is None else claims)]
    if claims is None:
        claims = caption
    if not isinstance(claims, (list, tuple)) or len(claims) != len(caption):
        got = len(claims) if isinstance(claims, (list, tuple)) else type(claims).__name__
        raise TextError(f"expected claims for each of {len(caption)} captions, got {got}")
    return list(zip(caption, claims))


def _image_key(item: Mapping[str, Any], index: int) -> int:
    """Equal for the items of a group, else for the items of one path."""
    group, image = item.get("group"), item.get("image")
    if group is not None:
        if not isinstance(group, (str, int)):
            raise InputError(f"group: expected a string or an integer, got {type(group).__name__}")
        return _hash_key(f"group {group!r}")
    return _hash_key(os.fspath(image) if isinstance(image, (str, os.PathLike)) else index)


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

    Integers are those of the official code: 1 is true; 0 is contradiction, 1 neutral, 2 entailment (ALBEF's
    `dataset/ve_dataset.py`; some copies of SNLI-VE count the other way round).

    Raises:
        TextError: it is neither.
    """
    names = ("false", "true") if "nlvr" in tasks else ENTAILMENT_CLASSES
    # A table may store an integer as a float or as text.
    name = f"{label:g}" if isinstance(label, (float, np.floating)) else str(label).strip().lower()
    if name in map(str, range(len(names))):
        return int(name)
    if name not in names:
        known = ", ".join(f"{name} ({index})" for index, name in enumerate(names))
        raise TextError(f"label: expected one of {known}, got {abbreviate(label)}")
    return names.index(name)


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
