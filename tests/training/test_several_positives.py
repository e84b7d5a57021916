"""Several positives per text, by groups and by a predicate, and an item's own wrong texts: against slow plain versions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training_runs import COLOURS, StopsAt, Walls, losses_of, student, tensors, tiny

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ConfigError, InputError
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.training import TrainConfig, train
from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.data.pair_dataset import PairDataset
from image_text_embedding.training.data.pair_sources import read_pairs
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.momentum_teacher import MomentumTeacher

NAMES = list(COLOURS)


def says_so(claims: list[str], facts: list[str]) -> bool:
    return set(claims) <= set(facts)


class PartlyNamed(Walls):
    """Walls whose captions name the colour, or only say that it is a wall; each has two wrong captions."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, wrong = (NAMES[i % len(NAMES)] for i in (index, index + 1))
        partial = index % 3 == 0
        return {
            **super().__getitem__(index),
            "caption": "a wall" if partial else f"a {name} wall",
            "claims": ["wall"] if partial else ["wall", name],
            "facts": ["wall", name],
            "negatives": [f"a {wrong} wall", f"a {wrong} picture of it"],
        }


class Judged(PartlyNamed):
    """The same, with its own predicate."""

    def fits(self, claims: list[str], facts: list[str]) -> bool:
        return says_so(claims, facts)


class JudgedAndStopped(Judged, StopsAt):
    pass


def batch_of(items: Any, words: Path, family: str = "blip", count: int = 6, **settings: Any) -> TrainingBatch:
    config = tiny(family)
    pairs = PairDataset(
        items,
        config,
        ("itc", "itm"),
        Tokenizer.from_vocabulary(words),
        TrainConfig(crop_scale=None, flip=False, **settings),
        labelled=True,
    )
    batch, skipped = pairs.collate([pairs[i, i] for i in range(count)])
    assert batch is not None and not skipped
    return batch


class TestPredicate:
    @pytest.mark.parametrize("queue", [None, 4, 16])
    def test_every_text_that_fits_shares_the_target(
        self, queue: int | None, words: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both ways, over the batch and the queue: cross-entropy written out pair by pair."""
        model = student("blip", ("itc",), words)
        past, batch = (batch_of(PartlyNamed(), words, count=n) for n in (8, 6))
        teacher = None if queue is None else MomentumTeacher(model, 0.5, queue)
        seen: list[tuple[torch.Tensor, ...]] = []
        itc = losses.itc
        monkeypatch.setattr(losses, "itc", lambda *args: seen.append(args) or itc(*args))
        with torch.no_grad():
            if teacher is not None:
                model.losses(past, TrainConfig(), teacher, fits=says_so)
            loss = float(model.losses(batch, TrainConfig(), teacher, fits=says_so)["itc"])
        i2t, t2i = seen[-1][:2]
        assert batch.labels is not None and past.labels is not None
        # Of 8 past pairs a queue of 4 has the last ones, written over the slots 4 to 7 modulo 4.
        rest = slice(8 - (queue or 0) if queue == 4 else 0, 8)
        claims = batch.labels.claims + (past.labels.claims[rest] if queue else [])
        facts = batch.labels.facts + (past.labels.facts[rest] if queue else [])
        assert i2t.shape == (6, len(claims))
        slow = 0.0
        for i in range(6):
            texts = [j for j in range(len(claims)) if set(claims[j]) <= set(batch.labels.facts[i])]
            pictures = [j for j in range(len(facts)) if set(batch.labels.claims[i]) <= set(facts[j])]
            for logits, fitting in ((i2t[i], texts), (t2i[i], pictures)):
                total = sum(float(x.exp()) for x in logits)
                slow -= sum(np.log(float(logits[j].exp()) / total) for j in fitting) / len(fitting) / 12
        assert loss == pytest.approx(slow, abs=1e-4)
        assert len(texts) != len(pictures)  # "fits" is not symmetric

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_no_pair_that_fits_is_a_negative(self, family: str, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = student(family, ("itc", "itm"), words)
        batch = batch_of(PartlyNamed(), words, family)
        assert batch.labels is not None
        drawn = []
        itm_pairs = losses.itm_pairs
        monkeypatch.setattr(losses, "itm_pairs", lambda *args: drawn.append(itm_pairs(*args)) or drawn[-1])
        for seed in range(20):
            torch.manual_seed(seed)
            model.losses(batch, TrainConfig(), fits=says_so)
        for pictures, texts, labels in drawn:
            for picture, text, label in zip(pictures.tolist(), texts.tolist(), labels.tolist()):
                assert label == (set(batch.labels.claims[text]) <= set(batch.labels.facts[picture]))
            # The texts 0 and 3 fit every wall, so that they have no wrong picture; all others have one.
            assert labels.tolist() == [1] * 6 + [1, 0, 0, 1, 0, 0] + [0] * 6

    def test_a_predicate_that_adds_nothing_changes_nothing(self, train_tiny: Callable) -> None:
        plain = train_tiny("blip", steps=3)
        judged = train_tiny("blip", steps=3, out="judged", fits=lambda claims, facts: False)
        assert losses_of(plain) == losses_of(judged)

    def test_claims_are_the_caption_where_an_item_has_none(self, words: Path) -> None:
        item = {**Walls()[0], "caption": ["a red wall", "a wall"], "facts": "red"}
        batch = batch_of([item] * 6, words)
        assert batch.labels is not None
        assert set(batch.labels.claims) == {"a red wall", "a wall"} and set(batch.labels.facts) == {"red"}
        batch = batch_of([{**item, "claims": [1, 2]}] * 6, words)
        assert batch.labels is not None and batch.captions is not None
        for claim, row in zip(batch.labels.claims, batch.captions.mask):
            assert int(row.sum()) == {1: 5, 2: 4}[claim]

    @pytest.mark.parametrize("settings", [{}, {"queue_size": 20, "alpha": 0.4}, {"workers": 2}])
    def test_it_is_resumed_exactly(self, settings: dict[str, Any], train_tiny: Callable) -> None:
        straight = train_tiny("blip", Judged(), out="straight", flip=False, **settings)
        if "workers" in settings:
            train_tiny("blip", Judged(), flip=False)
        else:
            with pytest.raises(KeyboardInterrupt):
                train_tiny("blip", JudgedAndStopped(8 * 2 + 3), flip=False, **settings)
            train_tiny("blip", Judged(), resume=True, flip=False, **settings)
        run = straight.parent / "run"
        assert losses_of(run) == losses_of(straight)
        expected = tensors(straight / "model.safetensors")
        assert all(torch.equal(value, expected[name]) for name, value in tensors(run / "model.safetensors").items())

    def test_a_run_is_resumed_with_its_predicate_only(self, train_tiny: Callable) -> None:
        train_tiny("blip", PartlyNamed(), steps=2, fits=says_so)
        with pytest.raises(InputError, match="was started with a predicate: pass the same fits again"):
            train_tiny("blip", PartlyNamed(), steps=2, resume=True)
        train_tiny("blip", PartlyNamed(), steps=2, resume=True, fits=says_so)
        train_tiny("blip", Walls(), out="other", steps=2)
        with pytest.raises(InputError, match="was started without a predicate"):
            train_tiny("blip", Walls(), out="other", steps=2, resume=True, fits=says_so)

    def test_wrong_predicates_and_labels(self, train_tiny: Callable) -> None:
        with pytest.raises(InputError, match="fits: expected a function of claims and facts, got str"):
            train_tiny("blip", fits="yes")
        items = [{**PartlyNamed()[i], "facts": {"wall"}} for i in range(16)]
        train_tiny("blip", items, steps=1, out="no queue", fits=says_so)  # without a queue anything will do
        with pytest.raises(InputError, match="JSON values, because the queue is part of a checkpoint"):
            train_tiny("blip", items, steps=1, out="queue", queue_size=8, fits=says_so)

    def test_validation_counts_what_fits(self, train_tiny: Callable) -> None:
        """All captions are "a wall" in other words: whatever is nearest fits."""
        found = {}
        for fits in (None, lambda claims, facts: True):
            run = train_tiny("blip", steps=1, out=f"run{fits is None}", fits=fits, validation=Walls(8))
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            (found[fits is None],) = [row["validation"]["i2t_r1"] for row in rows if "validation" in row]
        assert found[False] == 1 > found[True]


class TestSeveralCaptions:
    @pytest.mark.parametrize(("family", "tasks"), [("blip", ("itc", "itm")), ("albef", ("itc", "itm", "mlm"))])
    def test_captions_of_a_picture_are_as_many_pairs_of_it(
        self, family: str, tasks: tuple[str, ...], words: Path
    ) -> None:
        """Losses and their gradients equal those of a batch that repeats the picture for every caption."""
        model = student(family, tasks, words)
        items = [
            {**PartlyNamed()[i], "caption": ["a wall", f"a {NAMES[i]} wall"], "claims": [["wall"], ["wall", NAMES[i]]]}
            for i in range(4)
        ]
        together = batch_of(items, words, family, 4, captions=2)
        assert together.captions_per_picture == 2 and together.labels is not None and together.captions is not None
        apart = dataclasses.replace(together, pixels=together.pixels.repeat_interleave(2, 0))
        assert apart.negative_of is not None and apart.captions_per_picture == 1
        apart.negative_of = 2 * apart.negative_of
        found = []
        for batch in (together, apart):
            torch.manual_seed(1)
            computed = model.losses(batch, TrainConfig(), fits=says_so)
            gradient = torch.autograd.grad(sum(computed.values()), model.vision.patch_embed.proj.weight)[0]
            found.append((torch.stack(list(computed.values())).detach(), gradient))
        torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
        image, text = model.embed(together)
        assert image.shape == text.shape and torch.equal(image[0], image[1]) and not torch.equal(text[0], text[1])

    def test_a_description_is_what_is_written(self, words: Path) -> None:
        item = {**Walls()[0], "caption": ["a wall", "a red wall"], "description": "a picture of a red wall"}
        pairs = PairDataset(
            [item],
            tiny("blip"),
            ("itc", "lm"),
            Tokenizer.from_vocabulary(words),
            TrainConfig(prompt=None, texts=2, captions=2),
        )
        sample = pairs[0, 0]
        tokenizer = Tokenizer.from_vocabulary(words)
        assert {tokenizer.decode(row) for row in sample.captions} == {"a wall", "a red wall"}
        assert [tokenizer.decode(row) for row in sample.prompted] == ["a picture of a red wall"] * 2

    def test_several_captions_train_and_validate(self, train_tiny: Callable) -> None:
        """With a queue, a momentum model, a predicate and reading processes, and again after a stop."""
        settings = {"captions": 2, "queue_size": 20, "alpha": 0.4, "flip": False, "steps": 4}
        straight = train_tiny("albef", Judged(), out="straight", validation=Judged(8), **settings)
        with pytest.raises(KeyboardInterrupt):
            train_tiny("albef", JudgedAndStopped(8 * 2 + 3), validation=Judged(8), **settings)
        run = train_tiny("albef", Judged(), validation=Judged(8), resume=True, **settings)
        assert losses_of(run) == losses_of(straight)


class TestGroups:
    def test_items_of_a_group_are_one_picture(self, words: Path) -> None:
        items = [{**Walls()[i], "group": group} for i, group in enumerate(["a", "b", "a", 1, "1", 1])]
        keys = batch_of(items, words).image_keys
        same = (keys[:, None] == keys).tolist()
        assert [row.index(True) for row in same] == [0, 1, 0, 3, 4, 3]

    def test_groups_of_a_file(self, tmp_path: Path, words: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        columns = {"image": ["a.png"] * 2, "caption": ["x", "y"], "group": [3, 3], "negatives": [["z"], []]}
        columns |= {"claims": ["x", "y"], "facts": [["x"], ["y"]]}
        write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
        assert {key: read_pairs(tmp_path / "pairs.parquet")[0][key] for key in list(columns)[2:]} == {
            "group": 3,
            "negatives": ["z"],
            "claims": "x",
            "facts": ["x"],
        }

    def test_wrong_groups_and_claims(self, words: Path) -> None:
        for wrong, message in (
            ({"group": 1.5}, "group: expected a string or an integer, got float"),
            ({"caption": ["a wall", "a red wall"], "claims": ["x"]}, "expected claims for each of 2 captions, got 1"),
            ({"caption": ["a wall", "a red wall"], "claims": "x"}, "expected claims for each of 2 captions, got str"),
            ({"negatives": "a pink wall"}, "negatives: expected a list of texts, got str"),
            ({"negatives": [3]}, "expected a string, got int"),
        ):
            pairs = PairDataset(
                [{**Walls()[0], **wrong}], tiny("blip"), ("itc", "itm"), Tokenizer.from_vocabulary(words), TrainConfig()
            )
            (skipped,) = pairs[0, 0]
            assert message in skipped.error


class TestOwnNegatives:
    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_itm_sees_each_with_its_picture(self, family: str, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The logits of the additional rows are those of each wrong text alone with its picture."""
        model = student(family, ("itc", "itm"), words)
        batch = batch_of(PartlyNamed(), words, family, negatives=2)
        assert batch.negatives is not None and batch.negative_of is not None
        assert batch.negative_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        computed: list[tuple[Any, ...]] = []
        monkeypatch.setattr(losses, "itm", lambda *args: computed.append(args) or args[0].sum())
        model.losses(batch, TrainConfig(), fits=says_so)
        logits, labels, own = computed[0]
        assert own == 12
        assert len(logits) == 3 * 6 + 12 and labels[18:].tolist() == [0] * 12
        states = model.encode_pixels(batch.pixels)
        for row, picture in enumerate(batch.negative_of.tolist()):
            length = int(batch.negatives.mask[row].sum())
            ids, mask = (each[row : row + 1, :length].clone() for each in (batch.negatives.ids, batch.negatives.mask))
            if model.config.text.enc_id is not None:
                ids[:, 0] = model.config.text.enc_id
            alone = model.itm_head(model.text.fuse(ids, mask, states[picture : picture + 1])[:, 0])[0]
            torch.testing.assert_close(logits[18 + row], alone, atol=1e-5, rtol=1e-4)

    def test_as_many_as_the_settings_say(self, words: Path) -> None:
        items = [PartlyNamed()[i] for i in range(5)] + [Walls()[5]]
        for count, expected in ((1, 5), (2, 10), (9, 10), (None, 0)):
            batch = batch_of(items, words, negatives=count)
            assert (0 if batch.negative_of is None else len(batch.negative_of)) == expected
        drawn = {tuple(batch_of(items, words, seed=seed).negatives.ids[0].tolist()) for seed in range(20)}
        assert len(drawn) == 2
        with pytest.raises(ConfigError, match="negatives: expected a whole number from 1 to 10,000"):
            TrainConfig(negatives=-1)

    def test_a_picture_is_not_mirrored_if_its_wrong_texts_say_left(self, words: Path) -> None:
        half = np.zeros((16, 16, 3), np.uint8)
        half[:, :8] = 255

        def mirrored(**more: Any) -> int:
            item = {"image": half, "caption": "a wall", **more}
            config = tiny("blip")
            pairs = PairDataset(
                [item], config, ("itc", "itm"), Tokenizer.from_vocabulary(words), TrainConfig(crop_scale=None)
            )
            return sum(int(pairs[i, 0].pixels[0, 0, 0] == 0) for i in range(40))

        assert mirrored() and mirrored(negatives=["a picture"])
        assert mirrored(negatives=["a wall left"]) == mirrored(facts=["left of"]) == 0

    def test_they_teach_what_a_batch_does_not(self, words: Path, tmp_path: Path) -> None:
        """All pictures are of one group, so that only the wrong texts tell the colours apart."""
        items = []
        for index in range(32):
            name, other = ("red", "green") if index % 2 else ("green", "red")
            item = {**Walls()[NAMES.index(name)], "negatives": [f"a {other} wall"], "group": "all"}
            items.append(item)
        settings = {"tasks": ["itc", "itm"], "steps": 100, "batch_size": 8, "lr": 3e-3, "crop_scale": None}
        train(tiny("blip"), items, tmp_path / "run", settings, vocabulary=words, device="cpu", show_progress_bar=False)
        model = ite.load(tmp_path / "run" / "model.safetensors", tokenizer=words, device="cpu")
        green, red = (each["image"] for each in items[:2])
        found = model.match_matrix([red, green], ["a red wall", "a green wall"])
        # In the batch the same pairs count as matches: without the wrong texts, all would be about 1.
        assert min(found[0, 0], found[1, 1]) > 0.9 and max(found[0, 1], found[1, 0]) < 0.75
