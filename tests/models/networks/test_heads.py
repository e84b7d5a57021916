"""Matching, captioning and answering heads: the original code's numbers, padding, and the ranking of answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.models import (
    CAPTION,
    DEC,
    ENC,
    PAD,
    RETRIEVAL,
    SEP,
    VE,
    VQA,
    fill,
    fill_with_report,
    generated_tokens,
    golden_checkpoint,
    make_texts_end,
    max_difference,
)
from torch import nn

from image_text_embedding.models.networks.decoding_state import GenerationSettings
from image_text_embedding.models.networks.generation import generate
from image_text_embedding.models.networks.heads import rank_answers


class TestTheOriginalCodesNumbers:
    """States within 1e-5 and logits within 1e-4 of the numbers in golden/."""

    @pytest.mark.parametrize("token", ["cls", "enc"])
    def test_blip_matching(self, golden: Callable, token: str) -> None:
        numbers, checkpoint = golden("blip_retrieval"), golden_checkpoint("blip_retrieval")
        image, head = (fill(part, RETRIEVAL["blip"], checkpoint) for part in ("image", "match"))
        states = image.states(numbers["pixel_values"])
        ids = numbers["input_ids"].clone()
        ids[:, 0] = {"cls": ids[0, 0], "enc": ENC}[token]
        assert max_difference(states, numbers["image_hidden"]) < 1e-5
        fused = head.text.fuse(ids, numbers["attention_mask"], states)
        assert max_difference(fused, numbers[f"fused_hidden_{token}"]) < 1e-5
        assert max_difference(head(ids, numbers["attention_mask"], states), numbers[f"itm_logits_{token}"]) < 1e-4

    def test_albef_matching(self, golden: Callable) -> None:
        numbers, checkpoint = golden("albef_retrieval"), golden_checkpoint("albef_retrieval")
        image, head = (fill(part, RETRIEVAL["albef"], checkpoint) for part in ("image", "match"))
        states = image.states(numbers["pixel_values"])
        text = numbers["input_ids"], numbers["attention_mask"]
        assert max_difference(head.text.fuse(*text, states), numbers["fused_hidden"]) < 1e-5
        assert max_difference(head(*text, states), numbers["itm_logits"]) < 1e-4

    def test_captioning(self, golden: Callable) -> None:
        numbers, checkpoint = golden("blip_caption"), golden_checkpoint("blip_caption")
        image, head = (fill(part, CAPTION, checkpoint) for part in ("image", "caption"))
        states = image.states(numbers["pixel_values"])
        assert max_difference(states, numbers["image_hidden"]) < 1e-5
        context = head.decoder.read(states)
        logits = head.decoder.logits(numbers["input_ids"], context, attention_mask=numbers["attention_mask"])
        assert max_difference(logits, numbers["logits"]) < 1e-4

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_question_answering(self, golden: Callable, family: str) -> None:
        numbers, checkpoint = golden(f"{family}_vqa"), golden_checkpoint(f"{family}_vqa")
        image, head = (fill(part, VQA[family], checkpoint) for part in ("image", "answer"))
        question = numbers["question_ids"], numbers["question_mask"]
        states = head.text.fuse(*question, image.states(numbers["pixel_values"]))
        assert max_difference(states, numbers["question_hidden"]) < 1e-5
        answers = {"context_mask": numbers["question_mask"], "attention_mask": numbers["answer_mask"]}
        logits = head.decoder.logits(numbers["answer_ids"], head.decoder.read(states), **answers)
        assert max_difference(logits, numbers["logits"]) < 1e-4

    def test_entailment(self, golden: Callable) -> None:
        numbers, checkpoint = golden("albef_ve"), golden_checkpoint("albef_ve")
        (image, _), (head, report) = (fill_with_report(part, VE, checkpoint) for part in ("image", "entail"))
        logits = head(numbers["input_ids"], numbers["attention_mask"], image.states(numbers["pixel_values"]))
        assert max_difference(logits, numbers["logits"]) < 1e-4
        assert report.loaded + sum(report.ignored.values()) == len(checkpoint.tensors)
        assert set(report.ignored) == {"momentum copies", "image tower", "position ids"}


class TestABatchEqualsItsItems:
    """Padding changes nothing: every row equals the result of its item alone."""

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_matching(self, golden: Callable, family: str) -> None:
        numbers = golden(f"{family}_retrieval")
        head = fill("match", RETRIEVAL[family], golden_checkpoint(f"{family}_retrieval"))
        ids, mask, states = (numbers[key] for key in ("input_ids", "attention_mask", "image_hidden"))
        together = head(ids, mask, states)
        for i, length in enumerate(mask.sum(1).tolist()):
            alone = head(ids[i : i + 1, :length], mask[i : i + 1, :length], states[i : i + 1])
            assert max_difference(alone[0], together[i]) < 1e-5

    def test_texts_that_share_a_picture(self, golden: Callable) -> None:
        numbers = golden("blip_retrieval")
        head = fill("match", RETRIEVAL["blip"], golden_checkpoint("blip_retrieval"))
        ids, mask = numbers["input_ids"].repeat(2, 1), numbers["attention_mask"].repeat(2, 1)
        pictures = numbers["image_hidden"][:2]
        assert max_difference(head(ids, mask, pictures), head(ids, mask, pictures.repeat_interleave(3, dim=0))) < 1e-5

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_answering(self, golden: Callable, family: str) -> None:
        numbers = golden(f"{family}_vqa")
        image, head = (fill(part, VQA[family], golden_checkpoint(f"{family}_vqa")) for part in ("image", "answer"))
        make_texts_end(head.decoder)
        states = image.states(numbers["pixel_values"])
        ids, mask = numbers["question_ids"], numbers["question_mask"]
        answers = numbers["answer_ids"], numbers["answer_mask"]

        def run(ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
            read = head.text.fuse(ids, mask, states)
            start = torch.full((len(ids), 1), DEC)
            written = generate(head.decoder, start, read, mask, GenerationSettings(10, 1, num_beams=3), SEP, PAD)
            return written, *rank_answers(head, VQA[family], read, mask, *answers, k=3)

        written, ranked, probabilities = run(ids, mask, states)
        assert len({tuple(row) for row in written.tolist()}) > 1
        for i, length in enumerate(mask.sum(1).tolist()):
            alone = run(ids[i : i + 1, :length], mask[i : i + 1, :length], states[i : i + 1])
            assert generated_tokens(alone[0][0]) == generated_tokens(written[i])
            assert alone[1][0].tolist() == ranked[i].tolist()
            assert max_difference(alone[2][0], probabilities[i]) < 1e-5


class TestRankingEqualsTheOriginals:
    """The rule of the official code, written as loops over one answer at a time."""

    @pytest.mark.parametrize("max_logits", [2**26, 2 * 5 * 600])
    @pytest.mark.parametrize(("family", "k"), [("blip", 6), ("blip", 3), ("albef", 6), ("albef", 3)])
    def test_rank(self, golden: Callable, family: str, k: int, max_logits: int, monkeypatch) -> None:
        monkeypatch.setattr("image_text_embedding.models.networks.heads.MAX_LOGITS", max_logits)
        numbers, config = golden(f"{family}_vqa"), VQA[family]
        head = fill("answer", config, golden_checkpoint(f"{family}_vqa"))
        states, mask = numbers["question_hidden"], numbers["question_mask"]
        start = 1 if family == "albef" else DEC
        answers = [[7, 9, SEP], [7, SEP], [350, 20, 31, 8, SEP], [44, SEP], [512, 513, SEP], [3, 3, SEP]]
        longest = max(map(len, answers))
        ids = torch.tensor([[start, *answer, *[PAD] * (longest - len(answer))] for answer in answers])
        real = (ids != PAD).long()
        ranked, probabilities = rank_answers(head, config, states, mask, ids, real, k)

        for q in range(len(states)):
            length = int(mask[q].sum())
            context = head.decoder.read(states[q : q + 1, :length])
            first = head.decoder.logits(torch.tensor([[start]]), context)[0, 0].softmax(-1)
            candidates = sorted(range(6), key=lambda a: -first[answers[a][0]].item())[:k]
            scores = {}
            for a in candidates:
                logits = head.decoder.logits(torch.tensor([[start, *answers[a]]]), context)[0, :-1]
                target = torch.tensor(answers[a])
                smoothing = 0.1 if family == "blip" else 0.0
                loss = nn.functional.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
                scores[a] = -loss.item() + (first[answers[a][0]].log().item() if family == "albef" else 0)
            best = sorted(candidates, key=lambda a: -scores[a])
            assert ranked[q].tolist() == best
            expected = torch.tensor([scores[a] for a in best]).softmax(0)
            torch.testing.assert_close(probabilities[q], expected, atol=1e-5, rtol=1e-4)
