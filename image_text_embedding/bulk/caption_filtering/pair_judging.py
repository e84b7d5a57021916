"""The captioner and the filter on batches of pictures: one pass of each picture through each vision transformer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from image_text_embedding.bulk.caption_filtering.filter_settings import FilterSettings
from image_text_embedding.bulk.caption_filtering.judged_pairs import SYNTHETIC, WEB, JudgedPicture, Pair
from image_text_embedding.bulk.caption_filtering.pair_reading import PictureToJudge
from image_text_embedding.bulk.collection_run import Compute, ItemResult
from image_text_embedding.bulk.vector_manifest import check_comparable, manifest_of
from image_text_embedding.foundation.errors import ComputeError, TextError
from image_text_embedding.inputs.item_lists import batches

if TYPE_CHECKING:
    import torch

    from image_text_embedding.inference.encoder import Encoder

TEXTS_AT_ONCE = 4  # of each picture of a batch, for the matching head


class PairJudge:
    """Writes captions of pictures that were read, and judges these and the web texts.

    Raises:
        InputError: the captioner cannot caption, or the filter cannot match; the message names the models that can.
        TextError: the prompt leaves no room to write.
    """

    def __init__(self, captioner: Encoder, judge: Encoder, settings: FilterSettings) -> None:
        from image_text_embedding.inference.tasks.captioning import encode_prompt, make_caption_writer
        from image_text_embedding.inference.tasks.image_text_batches import text_encoder_for
        from image_text_embedding.inference.tasks.matching import make_matcher
        from image_text_embedding.inference.tasks.task_settings import MatchSettings

        self._captioner, self._judge, self._settings = captioner.runtime, judge.runtime, settings
        self._write = make_caption_writer(captioner.runtime, settings.writing)
        self._match = make_matcher(judge.runtime, MatchSettings())
        self._prompt = encode_prompt(captioner.runtime, settings.prompt, settings.max_length)
        self._encode = text_encoder_for(judge.runtime)
        self._embeds = judge.dim is not None
        self._one_model = same_vision(captioner, judge)

    def __call__(self, chunk: Sequence[PictureToJudge | ItemResult]) -> list[ItemResult]:
        """The results of pictures, in their order."""
        pictures = [one for one in chunk if isinstance(one, PictureToJudge)]
        judged = iter(self._judged(pictures))
        return [one if isinstance(one, ItemResult) else next(judged) for one in chunk]

    def _judged(self, pictures: list[PictureToJudge]) -> list[ItemResult]:
        if not pictures:
            return []
        try:
            found = self._compute(pictures)
        except ComputeError as error:
            if len(pictures) == 1:
                return [ItemResult(pictures[0].row.path, error=error)]
            # One of them makes values that are not finite, or all of them need too much memory at once.
            return [result for one in pictures for result in self._judged([one])]
        return [ItemResult(one.row.path, one.row, judged) for one, judged in zip(pictures, found)]

    def _compute(self, pictures: list[PictureToJudge]) -> list[JudgedPicture]:
        import torch

        with torch.inference_mode():
            seen = states_of(self._judge, [one.pixels[1] for one in pictures])
            read = seen if self._one_model else states_of(self._captioner, [one.pixels[0] for one in pictures])
            written = self._write(read, [self._prompt] * len(pictures), self._seeds(pictures))
            vectors = self._judge.unit_vectors_of_states(seen) if self._embeds else None
            texts = [
                [*((text, WEB) for text in one.texts), *((text, SYNTHETIC) for text in dict.fromkeys(captions))]
                for one, captions in zip(pictures, written)
            ]
            pairs = self._pairs(seen, vectors, texts)
        plain: list[Any] = [None] * len(pictures) if vectors is None else list(vectors.cpu().numpy())
        return [JudgedPicture(one.texts, own, vector) for one, own, vector in zip(pictures, pairs, plain)]

    def _seeds(self, pictures: list[PictureToJudge]) -> list[int] | None:
        """A seed for each caption, which depends on the picture's content alone: not on shards, resuming or workers."""
        from image_text_embedding.inference.tasks.decoding import item_seed

        if self._settings.beam:
            return None
        contents = (f"{self._settings.seed}\0{one.row.sha256}".encode() for one in pictures)
        starts = [int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "big") for content in contents]
        return [item_seed(start, number) for start in starts for number in range(self._settings.captions)]

    def _pairs(
        self, states: torch.Tensor, vectors: torch.Tensor | None, texts: list[list[tuple[str, str]]]
    ) -> list[list[Pair]]:
        """(text, origin) of each picture -> its pairs."""
        pairs: list[list[Pair | None]] = [[None] * len(own) for own in texts]
        rows: list[
            list[tuple[int, list[int]]]
        ] = []  # of each picture, (index of a text, its ids) of those that can be read
        for own, results in zip(texts, pairs):
            usable = []
            for index, (text, origin) in enumerate(own):
                try:
                    usable.append((index, self._encode(text)))
                except TextError:
                    results[index] = Pair(text, origin, reason="unusable text")
            rows.append(usable)
        # The matching head takes as many texts of each picture.
        for count in sorted({len(usable) for usable in rows} - {0}):
            alike = [number for number, usable in enumerate(rows) if len(usable) == count]
            for part in batches(range(count), TEXTS_AT_ONCE):
                chosen = [(number, *rows[number][index]) for number in alike for index in part]
                scores = self._scores(states[alike], vectors, chosen)
                for (number, index, _), score in zip(chosen, scores):
                    text, origin = texts[number][index]
                    pairs[number][index] = self._pair(text, origin, *score)
        return [[pair for pair in own if pair is not None] for own in pairs]

    def _scores(
        self, states: torch.Tensor, vectors: torch.Tensor | None, chosen: list[tuple[int, int, list[int]]]
    ) -> list[tuple[float, float, float | None]]:
        """By how much the match logit is larger, the match probability and the cosine, of each text.

        Args:
            states: of the pictures of these texts, each of which has as many in a row.
            chosen: (number of the picture, index of the text, its ids).
        """
        ids = [row for _, _, row in chosen]
        logits = self._match(states, ids)
        margins, probabilities = logits[:, 1] - logits[:, 0], logits.softmax(-1)[:, 1]
        cosines: list[float | None] = [None] * len(ids)
        if vectors is not None:
            own = vectors[[number for number, _, _ in chosen]]
            cosines = (own * self._judge.unit_text_vectors(ids)).sum(-1).tolist()
        return list(zip(margins.tolist(), probabilities.tolist(), cosines))

    def _pair(self, text: str, origin: str, margin: float, itm: float, cosine: float | None) -> Pair:
        return Pair(text, origin, itm, cosine, None if margin > self._settings.margin else "unmatched")


def states_of(runtime: Any, pixels: list[Any]) -> torch.Tensor:
    """The states of pictures, no more at once than are useful.

    Raises:
        ComputeError: they are not finite.
    """
    import torch

    parts = [runtime.states(part) for part in batches(pixels, runtime.pictures_at_once)]
    return runtime.require_finite(torch.cat(parts))


def same_vision(one: Encoder, other: Encoder) -> bool:
    """Whether two models see pictures with the same weights, so that one pass serves both."""
    if one is other:
        return True
    a, b = one.runtime, other.runtime
    same = (a.resolved.sha256, a.config.vision, a.device, a.dtype) == (
        b.resolved.sha256,
        b.config.vision,
        b.device,
        b.dtype,
    )
    return bool(a.resolved.sha256) and same


@dataclass(frozen=True)
class JudgingWorker:
    """What a Ray worker does: loads both models, then judges pictures that were read.

    Attributes:
        captioner, judge, options: what is passed to `load`.
        manifest: of the caller's models; a worker with other weights refuses to work.
    """

    captioner: str
    judge: str
    options: dict[str, Any]
    manifest: dict[str, Any]
    settings: FilterSettings

    def __call__(self) -> Compute:
        """Load the models; returns the function that judges."""
        captioner, judge = load_both(self.captioner, self.judge, self.options)
        for part, encoder in (("captioner", captioner), ("filter", judge)):
            check_comparable(self.manifest[part], manifest_of(encoder.info), f"the {part} of a Ray worker")
        return PairJudge(captioner, judge, self.settings)


def load_both(captioner: Any, judge: Any, options: dict[str, Any]) -> tuple[Encoder, Encoder]:
    """The two models, each given as `load` takes it or loaded; loaded once where both are the same."""
    from image_text_embedding.inference.loading import load

    def loaded(model: Any) -> Encoder:
        return load(model, **options) if isinstance(model, (str, os.PathLike)) else model

    first = loaded(captioner)
    named = isinstance(captioner, (str, os.PathLike)) and isinstance(judge, (str, os.PathLike))
    return first, first if named and os.fspath(captioner) == os.fspath(judge) else loaded(judge)
