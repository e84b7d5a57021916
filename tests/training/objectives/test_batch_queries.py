"""Queries: texts of no picture in particular, which ITC asks of every picture of the batch; against a slow plain version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import COLOURS, StopsAt, Walls, losses_of, student, tensors, tiny

from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.training import TrainConfig, train
from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.data.pair_dataset import PairDataset
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.student import unit_vectors

NAMES = list(COLOURS)


class Asked(Walls):
    """Walls with their colours as facts. Each brings a query that fits it, and one that fits none or another."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, other = (NAMES[i % len(NAMES)] for i in (index, index + 2))
        return {
            **super().__getitem__(index),
            "caption": "a wall",
            "claims": ["wall"],
            "facts": ["wall", name],
            "queries": [name, f"a {other} wall" if index % 2 else "a picture of it"],
            "query_claims": [[name], [other] if index % 2 else ["nothing"]],
        }

    def fits(self, claims: list[str], facts: list[str]) -> bool:
        return set(claims) <= set(facts)


class AskedAndStopped(Asked, StopsAt):
    pass


def pairs_of(items: Any, words: Path, family: str = "blip", labelled: bool = True, **settings: Any) -> PairDataset:
    return PairDataset(
        items,
        tiny(family),
        ("itc", "itm"),
        Tokenizer.from_vocabulary(words),
        TrainConfig(crop_scale=None, flip=False, **settings),
        labelled=labelled,
    )


def batch_of(items: Any, words: Path, family: str = "blip", **settings: Any) -> TrainingBatch:
    pairs = pairs_of(items, words, family, **settings)
    batch, skipped = pairs.collate([pairs[i, i] for i in range(4)])
    assert batch is not None and not skipped
    return batch


@pytest.mark.parametrize("family", ["blip", "albef"])
@pytest.mark.parametrize("captions", [1, 2])
def test_every_picture_is_asked_every_query(family: str, captions: int, words: Path) -> None:
    source, model = Asked(), student(family, ("itc",), words)
    batch = batch_of(source, words, family, captions=captions)
    assert batch.queries is not None and batch.query_claims is not None and len(batch.query_claims) == 8
    with torch.no_grad():
        found = float(model.losses(batch, TrainConfig(), fits=source.fits)["itc"])
        without = float(model.losses(batch, TrainConfig())["itc"])  # nobody says what fits: the queries are left out
        batch.queries, claims = None, batch.query_claims
        captions_alone = float(model.losses(batch, TrainConfig(), fits=source.fits)["itc"])
        image = unit_vectors(model.vision_proj, model.encode_pixels(batch.pixels))
        rows = [row for i in range(4) for row, _ in pairs_of(source, words, family)[i, i].queries]
        alone = [
            unit_vectors(model.text_proj, model.text(torch.tensor([row]), torch.ones(1, len(row)))) for row in rows
        ]
        logits = (image @ torch.cat(alone).T / model.temp).double()
    facts = [source[i]["facts"] for i in range(4)]
    slow = 0.0
    for each, fitting in (
        (logits, [[source.fits(c, f) for c in claims] for f in facts]),
        (logits.T, [[source.fits(c, f) for f in facts] for c in claims]),
    ):
        rows_with = [
            -sum(float(row[j] - row.logsumexp(0)) for j, is_match in enumerate(right) if is_match) / sum(right)
            for row, right in zip(each, fitting)
            if any(right)
        ]
        assert rows_with
        slow += sum(rows_with) / len(rows_with) / 2
    assert not all(any(source.fits(c, f) for f in facts) for c in claims)  # some queries fit no picture
    assert found - captions_alone == pytest.approx(slow, abs=2e-4)
    assert without == pytest.approx(captions_alone, abs=1e-5)


def test_nothing_fits() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = losses.itc_queries(logits, torch.zeros(3, 4, dtype=torch.bool))
    assert float(loss) == 0


def test_a_run_learns_from_queries_and_resumes(tmp_path: Path, words: Path) -> None:
    """Captions that all say the same teach nothing; the queries tell the colours apart."""

    settings = {
        "tasks": ["itc"],
        "steps": 30,
        "batch_size": 4,
        "lr": 2e-3,
        "seed": 2,
        "checkpoint_every": 10,
        "log_every": 1,
    }

    def run(source: Any, name: str, **more: Any) -> Path:
        return train(tiny("blip"), source, tmp_path / name, settings, vocabulary=words, show_progress_bar=False, **more)

    whole = run(Asked(), "whole")
    first, *_, last = [each["itc"] for each in losses_of(tmp_path / "whole")]
    assert last < 0.9 * first
    with pytest.raises(KeyboardInterrupt):
        run(AskedAndStopped(60), "halted")
    resumed = train(None, Asked(), tmp_path / "halted", resume=True, show_progress_bar=False)
    continued = tensors(resumed)
    assert all(torch.equal(value, continued[name]) for name, value in tensors(whole).items())


def test_wrong_queries(words: Path) -> None:
    for wrong, message in (
        ({"queries": "red"}, "queries: expected a list of texts, got str"),
        ({"queries": ["red"], "query_claims": []}, "query_claims: expected one for each of 1 queries, got 0"),
        ({"queries": ["red"], "query_claims": "red"}, "query_claims: expected one for each of 1 queries, got str"),
        ({"queries": [3], "query_claims": None}, "expected a string, got int"),
    ):
        (skipped,) = pairs_of([{**Asked()[0], **wrong}], words)[0, 0]
        assert message in skipped.error
    (skipped,) = pairs_of([Asked()[0]], words, labelled=False)[0, 0]
    assert "queries: expected a predicate" in skipped.error
    # A query without claims is its own claim.
    item = {**Asked()[0], "query_claims": None}
    assert [claims for _, claims in pairs_of([item], words)[0, 0].queries] == item["queries"]
