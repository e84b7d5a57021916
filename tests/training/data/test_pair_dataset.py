"""Samples and batches: crops, mirroring, token ids, several texts of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from support.training_runs import (
    WORDS,
    Walls,
    tiny,
)

from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.training import TrainConfig
from image_text_embedding.training.data.pair_dataset import PairDataset, PairSample, random_crop_box
from image_text_embedding.training.data.pair_sources import as_pair_source


class TestPairDataset:
    def sample(
        self, item: Any, words: Path, position: int = 0, tasks: tuple[str, ...] = ("itc",), **settings: Any
    ) -> Any:
        config = tiny("blip", ("embed", "match", "answer" if "vqa" in tasks else "caption"))
        return PairDataset([item], config, tasks, Tokenizer.from_vocabulary(words), TrainConfig(**settings))[
            position, 0
        ]

    def test_what_names_a_side_is_never_mirrored(self, words: Path) -> None:
        half = np.zeros((16, 16, 3), np.uint8)
        half[:, :8] = 255

        def mirrored(caption: str, **settings: Any) -> int:
            found = [self.sample((half, caption), words, i, crop_scale=None, **settings).pixels for i in range(60)]
            return sum(int(pixels[0, 0, 0] == 0) for pixels in found)

        assert 15 < mirrored("a wall") < 45
        assert mirrored("a wall", flip=False) == 0
        assert mirrored("a wall, Left of it") == mirrored("the rightmost wall") == 0
        assert mirrored("a bright wall") > 0

    def test_a_source_that_fails_at_one_item(self, words: Path) -> None:
        """The pair is skipped and reported, as one with a broken picture."""

        def draw(index: int) -> Any:
            return {"image": Walls()[index]["image"], "caption": ("a red wall", None)[1 // index]}

        source = as_pair_source(draw, 8)
        tokenizer = Tokenizer.from_vocabulary(words)
        sample = PairDataset(source, tiny("blip"), ("itc",), tokenizer, TrainConfig())[0, 0]
        assert isinstance(sample, PairSample)
        first, second = sample.skipped
        assert first.index == 0 and "reading pair 0 failed: ZeroDivisionError" in first.error and second.index == 1

    def test_crops_keep_a_share_of_the_area(self, words: Path) -> None:
        draw, shares = np.random.default_rng(0), []
        for _ in range(300):
            left, top, right, bottom = random_crop_box(300, 200, (0.5, 1.0), draw)
            assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
            assert 0.74 < (right - left) / (bottom - top) < 1.51
            shares.append((right - left) * (bottom - top) / 60000)
        assert min(shares) > 0.49 and min(shares) < 0.55 and max(shares) > 0.8
        assert random_crop_box(400, 3, (0.5, 1.0), draw) == (198, 0, 202, 3)  # no such part fits
        gradient = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
        crops = [self.sample((gradient, "a wall"), words, i, flip=False).pixels for i in (1, 1, 2)]
        assert np.array_equal(crops[0], crops[1]) and not np.array_equal(crops[0], crops[2])

    def test_texts_become_tokens(self, words: Path) -> None:
        item = {**Walls()[0], "answer": ["red", "red", "pink", "red"]}
        config = tiny("blip", ("embed", "match", "answer"))
        pairs = PairDataset([item], config, ("itc", "vqa"), Tokenizer.from_vocabulary(words), TrainConfig())
        batch, _ = pairs.collate([pairs[0, 0], pairs[1, 0]])

        def spelled(row: Any) -> str:
            return " ".join([*WORDS, "[DEC]", "[ENC]"][i] for i in row)

        assert spelled(batch.captions.ids[0]) == "[CLS] a red wall [SEP]"
        assert spelled(batch.questions.ids[0]) == "[CLS] what colour is it [SEP]"
        assert [spelled(row) for row in batch.answers.ids] == ["[DEC] red [SEP]", "[DEC] pink [SEP]"] * 2
        assert batch.answer_of.tolist() == [0, 0, 1, 1] and batch.answer_weights.tolist() == [0.75, 0.25] * 2
        assert batch.image_keys[0] == batch.image_keys[1] and batch.caption_keys[0] == batch.caption_keys[1]
        written = self.sample(Walls()[0], words, tasks=("lm",))
        assert [spelled(row) for row in written.prompted] == ["[DEC] a picture of a red wall [SEP]"]
        (bare,) = self.sample(Walls()[0], words, tasks=("lm",), prompt=None).prompted
        assert spelled(bare) == "[DEC] a red wall [SEP]"

    def test_several_texts_of_a_picture(self, words: Path) -> None:
        """Each text is drawn equally often; a list of questions has a list of answers."""
        item = {**Walls()[0], "caption": ["a red wall", "a pink wall", "a green wall"]}
        item |= {"question": ["what colour is it", "is it green"], "answer": [["red", "pink"], "no"]}
        found = self.sample(item, words, tasks=("itc", "lm"), texts=6, prompt=None)
        assert found.captions[0][1:-1] == found.prompted[0][1:-1]
        assert [found.prompted.count(row) for row in found.prompted] == [2] * 6
        sample = self.sample(item, words, tasks=("itc", "vqa"), texts=2)
        assert [len(shares) for shares in sample.answers] == [2 - (len(row) == 5) for row in sample.questions]
        assert len({tuple(row) for row in sample.questions}) == 2
        one = [self.sample(item, words, position, ("itc", "vqa")).questions for position in range(20)]
        assert {len(found) for found in one} == {1} and len({tuple(found[0]) for found in one}) == 2
        for wrong in ("red", ["red"], []):
            (skipped,) = self.sample({**item, "answer": wrong}, words, tasks=("vqa",))
            assert "an answer to each of 2 questions" in skipped.error
