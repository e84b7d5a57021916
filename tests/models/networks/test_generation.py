"""Generation: the key-value cache, batches, sampling, lengths and penalties."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.models import SEP, generated_tokens, max_difference
from support.transformers_blip import SMALL_SIZES, made_up_blip

from image_text_embedding.models.networks.decoding_state import GenerationSettings
from image_text_embedding.models.networks.generation import generate
from image_text_embedding.models.networks.key_value_cache import KeyValueCache


@pytest.fixture(scope="module")
def caption() -> SimpleNamespace:
    return made_up_blip("caption", SMALL_SIZES)


class TestGeneration:
    def run(self, made: SimpleNamespace, rows: slice = slice(3), **settings: Any) -> torch.Tensor:
        start = torch.full((len(made.states[rows]), 1), made.start)
        seeds = settings.pop("seeds", []) * len(start) or None  # the same for each picture
        settings = GenerationSettings(**{"max_length": 20, "min_length": 5, **settings})
        return generate(made.head.decoder, start, made.states[rows], None, settings, *made.ends, seeds)

    @pytest.mark.parametrize("beams", [1, 3])
    def test_cached_is_uncached(self, caption: SimpleNamespace, beams: int) -> None:
        cached, uncached = (self.run(caption, num_beams=beams, use_cache=use).tolist() for use in (True, False))
        assert cached == uncached
        assert len(set(map(tuple, cached))) > 1

    def test_cached_logits_are_uncached_logits(self, caption: SimpleNamespace) -> None:
        decoder, context = caption.head.decoder, caption.head.decoder.read(caption.states)
        ids = torch.randint(3, 500, (3, 9), generator=torch.Generator().manual_seed(0))
        complete, cache = decoder.logits(ids, context), KeyValueCache(9)
        parts = [decoder.logits(ids[:, a:b], context, cache=cache) for a, b in ((0, 4), (4, 5), (5, 9))]
        assert max_difference(torch.cat(parts, dim=1), complete) < 1e-5

    @pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 3}, {"top_p": 0.9, "seeds": [4]}])
    def test_a_batch_equals_its_items(self, caption: SimpleNamespace, settings: dict) -> None:
        together = [generated_tokens(row) for row in self.run(caption, **settings)]
        alone = [generated_tokens(self.run(caption, slice(i, i + 1), **settings)[0]) for i in range(3)]
        assert together == alone
        assert len({len(row) for row in together}) > 1  # texts of different lengths, so there is padding

    def test_sampling_is_repeatable_and_leaves_the_global_generator_alone(self, caption: SimpleNamespace) -> None:
        before = torch.get_rng_state()
        drawn = [
            self.run(caption, top_p=0.95, num_return_sequences=4, seeds=seeds).tolist()
            for seeds in ([1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8])
        ]
        assert torch.equal(torch.get_rng_state(), before)
        assert drawn[0] == drawn[1] != drawn[2]
        assert len(drawn[0]) == 12 and len({tuple(row) for row in drawn[0]}) > 6

    def test_sampling_draws_from_the_nucleus_in_proportion(self, caption: SimpleNamespace) -> None:
        """10,000 first tokens against the distribution that top-k and top-p leave."""
        context = caption.head.decoder.read(caption.states[:1])
        logits = caption.head.decoder.logits(torch.tensor([[caption.start]]), context)[0, 0]
        likely, tokens = logits.topk(50)
        rest = likely.softmax(0).cumsum(0) - likely.softmax(0) < 0.6
        expected = torch.zeros(600).scatter(0, tokens, (likely.softmax(0) * rest))
        count = 10_000
        rows = self.run(
            caption,
            slice(1),
            top_p=0.6,
            max_length=2,
            min_length=0,
            num_return_sequences=count,
            seeds=list(range(count)),
        )
        ours = torch.bincount(rows[:, 1], minlength=600) / count
        assert max_difference(ours, expected / expected.sum()) < 0.02
        assert bool((expected[ours > 0] > 0).all())

    def test_lengths_and_penalty(self, caption: SimpleNamespace) -> None:
        for beams in (1, 2):
            rows = self.run(caption, num_beams=beams, max_length=12, min_length=12)
            assert rows.shape == (3, 12) and not (rows[:, :-1] == SEP).any()
            rows = self.run(caption, num_beams=beams, max_length=30, min_length=30, repetition_penalty=100.0)
            assert all(len(set(row)) == 30 for row in rows.tolist())

    def test_several_beams_are_returned_best_first(self, caption: SimpleNamespace) -> None:
        best = self.run(caption, num_beams=3)
        three = self.run(caption, num_beams=3, num_return_sequences=3)
        assert [generated_tokens(row) for row in three[::3]] == [generated_tokens(row) for row in best]
        assert len({tuple(row) for row in three.tolist()}) == 9

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, caption: SimpleNamespace, dtype: torch.dtype) -> None:
        import copy

        head = copy.deepcopy(caption.head).to(dtype)
        start = torch.full((3, 1), caption.start)
        rows = generate(
            head.decoder, start, caption.states.to(dtype), None, GenerationSettings(20, 5, num_beams=3), *caption.ends
        )
        assert rows.shape[0] == 3 and rows.shape[1] <= 20
