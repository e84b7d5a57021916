"""Matching, captioning and answering, as modules: the original code's numbers, transformers' tokens, and batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.environment import GOLDEN
from support.models import DEC, ENC, PAD, QUESTIONS, RETRIEVAL, SEP, VQA, fill, golden_checkpoint, sized
from torch import nn

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
from image_text_embedding.models.config import DecoderConfig
from image_text_embedding.models.config_files import model_config
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.models.networks.generation import GenerationSettings, generate
from image_text_embedding.models.networks.heads import rank_answers
from image_text_embedding.models.part_cache import load_part

CAPTION = sized("blip", ("caption",), DecoderConfig(4, DEC))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


class TestTheOriginalCodesNumbers:
    """States within 1e-5 and logits within 1e-4 of everything in golden/ that heads compute."""

    @pytest.mark.parametrize("token", ["cls", "enc"])
    def test_blip_matching(self, golden: Callable, token: str) -> None:
        numbers, checkpoint = golden("blip_retrieval"), golden_checkpoint("blip_retrieval")
        image, head = (fill(part, RETRIEVAL["blip"], checkpoint) for part in ("image", "match"))
        states = image.states(numbers["pixel_values"])
        ids = numbers["input_ids"].clone()
        ids[:, 0] = {"cls": ids[0, 0], "enc": ENC}[token]
        assert difference(states, numbers["image_hidden"]) < 1e-5
        fused = head.text.fuse(ids, numbers["attention_mask"], states)
        assert difference(fused, numbers[f"fused_hidden_{token}"]) < 1e-5
        assert difference(head(ids, numbers["attention_mask"], states), numbers[f"itm_logits_{token}"]) < 1e-4

    def test_albef_matching(self, golden: Callable) -> None:
        numbers, checkpoint = golden("albef_retrieval"), golden_checkpoint("albef_retrieval")
        image, head = (fill(part, RETRIEVAL["albef"], checkpoint) for part in ("image", "match"))
        states = image.states(numbers["pixel_values"])
        text = numbers["input_ids"], numbers["attention_mask"]
        assert difference(head.text.fuse(*text, states), numbers["fused_hidden"]) < 1e-5
        assert difference(head(*text, states), numbers["itm_logits"]) < 1e-4

    def test_captioning(self, golden: Callable) -> None:
        numbers, checkpoint = golden("blip_caption"), golden_checkpoint("blip_caption")
        image, head = (fill(part, CAPTION, checkpoint) for part in ("image", "caption"))
        states = image.states(numbers["pixel_values"])
        assert difference(states, numbers["image_hidden"]) < 1e-5
        context = head.decoder.read(states)
        logits = head.decoder.logits(numbers["input_ids"], context, attention_mask=numbers["attention_mask"])
        assert difference(logits, numbers["logits"]) < 1e-4

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_question_answering(self, golden: Callable, family: str) -> None:
        numbers, checkpoint = golden(f"{family}_vqa"), golden_checkpoint(f"{family}_vqa")
        image, head = (fill(part, VQA[family], checkpoint) for part in ("image", "answer"))
        question = numbers["question_ids"], numbers["question_mask"]
        states = head.text.fuse(*question, image.states(numbers["pixel_values"]))
        assert difference(states, numbers["question_hidden"]) < 1e-5
        answers = {"context_mask": numbers["question_mask"], "attention_mask": numbers["answer_mask"]}
        logits = head.decoder.logits(numbers["answer_ids"], head.decoder.read(states), **answers)
        assert difference(logits, numbers["logits"]) < 1e-4


class TestStrictLoading:
    def test_the_tied_keys_may_be_there_twice_or_once(self) -> None:
        whole = golden_checkpoint("blip_caption")
        twice = [key for key in whole.tensors if key.startswith("text_decoder.cls.predictions.decoder.")]
        assert len(twice) == 2
        once = Checkpoint(whole.path, {key: whole.tensors[key] for key in whole.tensors if key not in twice}, {})
        expected, got = (fill("caption", CAPTION, checkpoint).state_dict() for checkpoint in (whole, once))
        assert all(torch.equal(expected[key], got[key]) for key in expected)

    @pytest.mark.parametrize(
        "key", ["text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.bias"]
    )
    def test_tied_keys_that_differ_are_an_error(self, key: str) -> None:
        whole = golden_checkpoint("blip_caption")
        changed = whole.tensors[key].clone()
        changed.view(-1)[7] += 1
        with pytest.raises(CheckpointError, match=f"1 tied but different: .*{key}"):
            fill("caption", CAPTION, Checkpoint(whole.path, {**whole.tensors, key: changed}, {}))

    def test_a_head_that_was_trained_apart_from_the_words(self, golden: Callable, tmp_path: Path) -> None:
        """As transformers 4 leaves it: used as it is, and said."""
        numbers, whole = golden("blip_caption"), golden_checkpoint("blip_caption")
        key = "text_decoder.cls.predictions.decoder.weight"
        torch.save({"model": {**whole.tensors, key: 2 * whole.tensors[key]}}, tmp_path / "apart.pth")
        resolved = ResolvedModel(CAPTION, tmp_path / "apart.pth", "sha of apart", None, None)
        with pytest.warns(UserWarning, match=r"apart\.pth: the decoder's output matrix is not that of its words"):
            head = load_part("caption", resolved, torch.device("cpu"), torch.float32)
        bias = head.decoder.lm_head.bias
        context = head.decoder.read(numbers["image_hidden"])
        logits = head.decoder.logits(numbers["input_ids"], context, attention_mask=numbers["attention_mask"])
        assert difference(logits - bias, 2 * (numbers["logits"] - bias)) < 2e-4

    def test_the_words_may_lie_under_the_heads_name_alone(self) -> None:
        """As safetensors writers that keep one of two tied tensors may choose."""
        whole = golden_checkpoint("blip_caption")
        gone = "text_decoder.bert.embeddings.word_embeddings.weight"
        kept = {key: tensor for key, tensor in whole.tensors.items() if key != gone}
        head = fill("caption", CAPTION, Checkpoint(whole.path, kept, {}))
        assert torch.equal(head.decoder.embeddings.word.weight, whole.tensors[gone])

    @pytest.mark.parametrize(
        ("part", "gone"),
        [
            ("answer", "text_decoder.cls.predictions.transform.LayerNorm.weight"),
            ("answer", "text_decoder.bert.encoder.layer.3.crossattention.self.key.bias"),
            ("answer", "text_encoder.encoder.layer.0.crossattention.output.dense.weight"),
        ],
    )
    def test_a_missing_key_is_named(self, part: str, gone: str) -> None:
        whole = golden_checkpoint("blip_vqa")
        kept = {key: tensor for key, tensor in whole.tensors.items() if key != gone}
        with pytest.raises(CheckpointError, match="1 missing"):
            fill(part, VQA["blip"], Checkpoint(whole.path, kept, {}))

    def test_a_decoder_deeper_than_the_configuration_is_unexpected(self) -> None:
        shallow = dataclasses.replace(VQA["blip"], decoder=DecoderConfig(3, DEC))
        with pytest.raises(CheckpointError, match=r"unexpected: text_decoder\.bert\.encoder\.layer\.3"):
            fill("answer", shallow, golden_checkpoint("blip_vqa"))

    @pytest.mark.parametrize("order", [("text", "match"), ("match", "text")])
    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_tower_and_head_share_one_copy(self, family: str, order: tuple[str, str]) -> None:
        path = GOLDEN / f"{family}_retrieval.pth"
        resolved = ResolvedModel(RETRIEVAL[family], path, f"sha of {family}", None, None)
        loaded = {part: load_part(part, resolved, torch.device("cpu"), torch.float32) for part in order}
        text, match = (dict(loaded[part].named_parameters()) for part in ("text", "match"))
        shared = [name for name in text if name.startswith("text.")]
        assert all(text[name].data_ptr() == match[name].data_ptr() for name in shared)
        assert not any(".cross." in name for name in text)  # an embedding alone needs none
        assert any(".cross." in name for name in match)
        again = load_part("match", resolved, torch.device("cpu"), torch.float32)
        assert again is loaded["match"]


class TestABatchIsItsItems:
    """Padding must not be seen: every row as if it were alone."""

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_matching(self, golden: Callable, family: str) -> None:
        numbers = golden(f"{family}_retrieval")
        head = fill("match", RETRIEVAL[family], golden_checkpoint(f"{family}_retrieval"))
        ids, mask, states = (numbers[key] for key in ("input_ids", "attention_mask", "image_hidden"))
        together = head(ids, mask, states)
        for i, length in enumerate(mask.sum(1).tolist()):
            alone = head(ids[i : i + 1, :length], mask[i : i + 1, :length], states[i : i + 1])
            assert difference(alone[0], together[i]) < 1e-5

    def test_texts_that_share_a_picture(self, golden: Callable) -> None:
        numbers = golden("blip_retrieval")
        head = fill("match", RETRIEVAL["blip"], golden_checkpoint("blip_retrieval"))
        ids, mask = numbers["input_ids"].repeat(2, 1), numbers["attention_mask"].repeat(2, 1)
        pictures = numbers["image_hidden"][:2]
        assert difference(head(ids, mask, pictures), head(ids, mask, pictures.repeat_interleave(3, dim=0))) < 1e-5

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_answering(self, golden: Callable, family: str) -> None:
        numbers = golden(f"{family}_vqa")
        image, head = (fill(part, VQA[family], golden_checkpoint(f"{family}_vqa")) for part in ("image", "answer"))
        _end_sometimes(head.decoder)
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
            assert _words(alone[0][0]) == _words(written[i])
            assert alone[1][0].tolist() == ranked[i].tolist()
            assert difference(alone[2][0], probabilities[i]) < 1e-5


class TestRankingFollowsTheOriginals:
    """Against the rule written out with plain loops over one answer at a time."""

    @pytest.mark.parametrize("most_logits", [2**26, 2 * 5 * 600])
    @pytest.mark.parametrize(("family", "k"), [("blip", 6), ("blip", 3), ("albef", 6), ("albef", 3)])
    def test_rank(self, golden: Callable, family: str, k: int, most_logits: int, monkeypatch) -> None:
        monkeypatch.setattr("image_text_embedding.models.networks.heads.MAX_LOGITS", most_logits)
        numbers, config = golden(f"{family}_vqa"), VQA[family]
        head = fill("answer", config, golden_checkpoint(f"{family}_vqa"))
        states, mask = numbers["question_hidden"], numbers["question_mask"]
        begin = 1 if family == "albef" else DEC
        answers = [[7, 9, SEP], [7, SEP], [350, 20, 31, 8, SEP], [44, SEP], [512, 513, SEP], [3, 3, SEP]]
        longest = max(map(len, answers))
        ids = torch.tensor([[begin, *answer, *[PAD] * (longest - len(answer))] for answer in answers])
        real = (ids != PAD).long()
        found, probabilities = rank_answers(head, config, states, mask, ids, real, k)

        for q in range(len(states)):
            length = int(mask[q].sum())
            context = head.decoder.read(states[q : q + 1, :length])
            first = head.decoder.logits(torch.tensor([[begin]]), context)[0, 0].softmax(-1)
            candidates = sorted(range(6), key=lambda a: -first[answers[a][0]].item())[:k]
            scores = {}
            for a in candidates:
                logits = head.decoder.logits(torch.tensor([[begin, *answers[a]]]), context)[0, :-1]
                target = torch.tensor(answers[a])
                smoothing = 0.1 if family == "blip" else 0.0
                loss = nn.functional.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
                scores[a] = -loss.item() + (first[answers[a][0]].log().item() if family == "albef" else 0)
            best = sorted(candidates, key=lambda a: -scores[a])
            assert found[q].tolist() == best
            expected = torch.tensor([scores[a] for a in best]).softmax(0)
            torch.testing.assert_close(probabilities[q], expected, atol=1e-5, rtol=1e-4)


SMALL = {
    "text_config": {
        "vocab_size": 600,
        "hidden_size": 64,
        "encoder_hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "max_position_embeddings": 64,
        "bos_token_id": DEC,
        "sep_token_id": SEP,
        "pad_token_id": PAD,
    },
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
    },
}
BASE = {"text_config": {"num_attention_heads": 12}, "vision_config": {"image_size": 224}}


def _end_sometimes(decoder: nn.Module) -> None:
    """Made-up weights hardly ever write [SEP]; then no text would end, and none would be padded."""
    decoder.lm_head.bias[SEP] += 2.5


def _words(row: torch.Tensor) -> list[int]:
    """Up to the end. (After it generate pads: with [PAD], but in beam search with [SEP], as 0 counts as no id there.)"""
    tokens = row.tolist()
    return tokens[: tokens.index(SEP)] if SEP in tokens else [token for token in tokens if token != PAD]


TASKS = {
    "match": "BlipForImageTextRetrieval",
    "caption": "BlipForConditionalGeneration",
    "answer": "BlipForQuestionAnswering",
}


def made_up(task: str, sizes: dict) -> SimpleNamespace:
    """A model of transformers with made-up weights, and ours filled from the same weights under transformers' names."""
    import transformers

    theirs_config = transformers.BlipConfig(**sizes)
    with torch.device("meta"):  # its own initialisation takes longer than the tests
        theirs = getattr(transformers, TASKS[task])(theirs_config).eval()
    theirs.to_empty(device="cpu").tie_weights()
    if task != "match":  # which transformers 4 forgets
        theirs.text_decoder.cls.predictions.decoder.weight = theirs.text_decoder.bert.embeddings.word_embeddings.weight
    generator = torch.Generator().manual_seed(11)
    full = sizes is BASE
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            mean = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.normal_(mean, 0.04 if full else 0.12, generator=generator)
        for buffer in theirs.buffers():  # position ids all
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
        if task != "match":
            theirs.text_decoder.cls.predictions.bias[102 if full else SEP] += 3.0
    vision, text = theirs_config.vision_config, theirs_config.text_config
    base = model_config("blip_base")
    config = dataclasses.replace(
        base,
        tasks=("embed", "match") if task == "match" else (task,),
        embed_dim=256 if task == "match" else None,
        vision=dataclasses.replace(
            base.vision,
            image_size=vision.image_size,
            width=vision.hidden_size,
            depth=vision.num_hidden_layers,
            num_heads=vision.num_attention_heads,
            layer_norm_eps=vision.layer_norm_eps,
        ),
        text=dataclasses.replace(
            base.text,
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            depth=text.num_hidden_layers,
            text_depth=text.num_hidden_layers,
            num_heads=text.num_attention_heads,
            intermediate_size=text.intermediate_size,
            max_positions=text.max_position_embeddings,
        ),
        decoder=DecoderConfig(text.num_hidden_layers, text.bos_token_id),
        questions=QUESTIONS,
    )
    checkpoint = Checkpoint(Path("theirs.bin"), theirs.state_dict(), {})
    pixels = torch.empty(3, 3, vision.image_size, vision.image_size).normal_(generator=generator.manual_seed(5))
    image, head = fill("image", config, checkpoint), fill(task, config, checkpoint)
    states, ends = image.states(pixels), (text.sep_token_id, text.pad_token_id)
    return SimpleNamespace(theirs=theirs, pixels=pixels, states=states, head=head, start=text.bos_token_id, ends=ends)


class TestTransformers:
    """The same weights give the same numbers and tokens: many cases on small models, and each task at full base size."""

    def match(self, made: SimpleNamespace) -> float:
        ids = torch.tensor([[101, 5, 77, 8, 9], [101, 6, 4, 0, 0], [101, 55, 44, 33, 0]])
        mask = (ids != 0).long()
        with torch.no_grad():
            expected = made.theirs(ids, made.pixels, attention_mask=mask).itm_score
        return difference(made.head(ids, mask, made.states), expected)

    def caption(self, made: SimpleNamespace, prompt: list[int], **manner: Any) -> tuple[list, list]:
        theirs_prompt = torch.tensor([[101, *prompt, 102]] * 3)  # they drop the last and overwrite the first
        expected = made.theirs.generate(made.pixels, input_ids=theirs_prompt, do_sample=False, **manner)
        ours = torch.tensor([[made.start, *prompt]] * 3)
        return generate(
            made.head.decoder, ours, made.states, None, GenerationSettings(**manner), *made.ends
        ).tolist(), expected.tolist()

    def answer(self, made: SimpleNamespace, question: list[int], **manner: Any) -> tuple[list, list]:
        ids = torch.tensor([[101, *question, 102]])
        expected = made.theirs.generate(ids, made.pixels[:1], do_sample=False, **manner)
        read = made.head.text.fuse(ids, torch.ones_like(ids), made.states[:1])
        came = generate(
            made.head.decoder, torch.tensor([[made.start]]), read, None, GenerationSettings(**manner), *made.ends
        )
        return came.tolist(), expected.tolist()

    def test_matching(self) -> None:
        assert self.match(made_up("match", SMALL)) < 1e-4

    def test_matching_at_full_base_size(self) -> None:
        assert self.match(made_up("match", BASE)) < 1e-4

    def test_captions(self) -> None:
        made = made_up("caption", SMALL)
        for beams in (1, 3):
            for prompt in ([], [55, 7, 301]):
                for penalty in (1.0, 1.3):
                    manner = {"num_beams": beams, "max_length": 20, "min_length": 5, "repetition_penalty": penalty}
                    came, expected = self.caption(made, prompt, **manner)
                    assert came == expected

    def test_captions_at_full_base_size(self) -> None:
        made = made_up("caption", BASE)
        for beams, prompt in ((1, []), (3, []), (3, [1037, 3861, 1997])):
            manner = {"num_beams": beams, "max_length": 12, "min_length": 5, "repetition_penalty": 1.5}
            came, expected = self.caption(made, prompt, **manner)
            assert came == expected and len(set(came[0])) > 5

    def test_answers(self) -> None:
        made = made_up("answer", SMALL)
        for beams in (1, 3):
            came, expected = self.answer(made, [5, 77, 8, 9], num_beams=beams, max_length=10, min_length=1)
            assert came == expected

    def test_answers_at_full_base_size(self) -> None:
        made = made_up("answer", BASE)
        manner = {"num_beams": 3, "max_length": 10, "min_length": 1, "repetition_penalty": 1.5}
        came, expected = self.answer(made, [2129, 2116, 6077], **manner)
        assert came == expected and len(set(came[0])) > 3


@pytest.fixture(scope="module")
def caption() -> SimpleNamespace:
    return made_up("caption", SMALL)


class TestWriting:
    def run(self, made: SimpleNamespace, rows: slice = slice(3), **manner: Any) -> torch.Tensor:
        start = torch.full((len(made.states[rows]), 1), made.start)
        seeds = manner.pop("seeds", []) * len(start) or None  # the same for each picture
        settings = GenerationSettings(**{"max_length": 20, "min_length": 5, **manner})
        return generate(made.head.decoder, start, made.states[rows], None, settings, *made.ends, seeds)

    @pytest.mark.parametrize("beams", [1, 3])
    def test_cached_is_uncached(self, caption: SimpleNamespace, beams: int) -> None:
        cached, uncached = (self.run(caption, num_beams=beams, use_cache=use).tolist() for use in (True, False))
        assert cached == uncached
        assert len(set(map(tuple, cached))) > 1

    def test_cached_logits_are_uncached_logits(self, caption: SimpleNamespace) -> None:
        from transformers import DynamicCache

        decoder, context = caption.head.decoder, caption.head.decoder.read(caption.states)
        ids = torch.randint(3, 500, (3, 9), generator=torch.Generator().manual_seed(0))
        whole, cache = decoder.logits(ids, context), DynamicCache()
        parts = [decoder.logits(ids[:, a:b], context, cache=cache) for a, b in ((0, 4), (4, 5), (5, 9))]
        assert difference(torch.cat(parts, dim=1), whole) < 1e-5

    @pytest.mark.parametrize("manner", [{"num_beams": 1}, {"num_beams": 3}, {"top_p": 0.9, "seeds": [4]}])
    def test_a_batch_is_its_items(self, caption: SimpleNamespace, manner: dict) -> None:
        together = [_words(row) for row in self.run(caption, **manner)]
        alone = [_words(self.run(caption, slice(i, i + 1), **manner)[0]) for i in range(3)]
        assert together == alone
        assert len({len(row) for row in together}) > 1  # some end before others, so that padding is at stake

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
        kept = likely.softmax(0).cumsum(0) - likely.softmax(0) < 0.6
        expected = torch.zeros(600).scatter(0, tokens, (likely.softmax(0) * kept))
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
        came = torch.bincount(rows[:, 1], minlength=600) / count
        assert difference(came, expected / expected.sum()) < 0.02
        assert bool((expected[came > 0] > 0).all())

    def test_lengths_and_penalty(self, caption: SimpleNamespace) -> None:
        for beams in (1, 2):
            rows = self.run(caption, num_beams=beams, max_length=12, min_length=12)
            assert rows.shape == (3, 12) and not (rows[:, :-1] == SEP).any()
            rows = self.run(caption, num_beams=beams, max_length=30, min_length=30, repetition_penalty=100.0)
            assert all(len(set(row)) == 30 for row in rows.tolist())

    def test_several_beams_come_back_best_first(self, caption: SimpleNamespace) -> None:
        best = self.run(caption, num_beams=3)
        three = self.run(caption, num_beams=3, num_return_sequences=3)
        assert [_words(row) for row in three[::3]] == [_words(row) for row in best]
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
