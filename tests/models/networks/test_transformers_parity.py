"""Heads against transformers: the same weights give the same numbers and tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from support.models import max_difference
from support.transformers_blip import BASE_SIZES, SMALL_SIZES, made_up_blip

from image_text_embedding.models.networks.generation import GenerationSettings, generate


class TestTransformers:
    """The same weights give the same numbers and tokens: many cases on small models, and each task at full base size."""

    def match(self, made: SimpleNamespace) -> float:
        ids = torch.tensor([[101, 5, 77, 8, 9], [101, 6, 4, 0, 0], [101, 55, 44, 33, 0]])
        mask = (ids != 0).long()
        with torch.no_grad():
            expected = made.theirs(ids, made.pixels, attention_mask=mask).itm_score
        return max_difference(made.head(ids, mask, made.states), expected)

    def caption(self, made: SimpleNamespace, prompt: list[int], **settings: Any) -> tuple[list, list]:
        theirs_prompt = torch.tensor([[101, *prompt, 102]] * 3)  # transformers drops the last id and replaces the first
        expected = made.theirs.generate(made.pixels, input_ids=theirs_prompt, do_sample=False, **settings)
        ours = torch.tensor([[made.start, *prompt]] * 3)
        return generate(
            made.head.decoder, ours, made.states, None, GenerationSettings(**settings), *made.ends
        ).tolist(), expected.tolist()

    def answer(self, made: SimpleNamespace, question: list[int], **settings: Any) -> tuple[list, list]:
        ids = torch.tensor([[101, *question, 102]])
        expected = made.theirs.generate(ids, made.pixels[:1], do_sample=False, **settings)
        read = made.head.text.fuse(ids, torch.ones_like(ids), made.states[:1])
        ours = generate(
            made.head.decoder, torch.tensor([[made.start]]), read, None, GenerationSettings(**settings), *made.ends
        )
        return ours.tolist(), expected.tolist()

    def test_matching(self) -> None:
        assert self.match(made_up_blip("match", SMALL_SIZES)) < 1e-4

    def test_matching_at_full_base_size(self) -> None:
        assert self.match(made_up_blip("match", BASE_SIZES)) < 1e-4

    def test_captions(self) -> None:
        made = made_up_blip("caption", SMALL_SIZES)
        for beams in (1, 3):
            for prompt in ([], [55, 7, 301]):
                for penalty in (1.0, 1.3):
                    settings = {"num_beams": beams, "max_length": 20, "min_length": 5, "repetition_penalty": penalty}
                    ours, expected = self.caption(made, prompt, **settings)
                    assert ours == expected

    def test_captions_at_full_base_size(self) -> None:
        made = made_up_blip("caption", BASE_SIZES)
        for beams, prompt in ((1, []), (3, []), (3, [1037, 3861, 1997])):
            settings = {"num_beams": beams, "max_length": 12, "min_length": 5, "repetition_penalty": 1.5}
            ours, expected = self.caption(made, prompt, **settings)
            assert ours == expected and len(set(ours[0])) > 5

    def test_answers(self) -> None:
        made = made_up_blip("answer", SMALL_SIZES)
        for beams in (1, 3):
            ours, expected = self.answer(made, [5, 77, 8, 9], num_beams=beams, max_length=10, min_length=1)
            assert ours == expected

    def test_answers_at_full_base_size(self) -> None:
        made = made_up_blip("answer", BASE_SIZES)
        settings = {"num_beams": 3, "max_length": 10, "min_length": 1, "repetition_penalty": 1.5}
        ours, expected = self.answer(made, [2129, 2116, 6077], **settings)
        assert ours == expected and len(set(ours[0])) > 3
