"""The student: its losses against the formulas and the official code, shared layers, official weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import RETRIEVAL, VQA, fill, golden_checkpoint
from support.training_runs import (
    SIZE,
    Walls,
    batch_of,
    golden_student,
    student,
    tiny,
)

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.training import TrainConfig
from image_text_embedding.training.data.batches import TokenRows, TrainingBatch
from image_text_embedding.training.data.pair_dataset import PairDataset
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.sinusoids import sinusoid_positions
from image_text_embedding.training.objectives.student import VocabularyIds
from image_text_embedding.training.objectives.student_weights import new_student, parameter_groups


class TestStudent:
    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_matching_is_what_the_match_head_computes(
        self, family: str, golden: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On the golden numbers: 3N rows that share keys and values, against single rows."""
        model = golden_student(RETRIEVAL[family], ("itc", "itm"), f"{family}_retrieval")
        numbers = golden(f"{family}_retrieval")
        head = fill("match", RETRIEVAL[family], golden_checkpoint(f"{family}_retrieval"))
        ids, mask = numbers["input_ids"], numbers["attention_mask"]
        states = model.states(numbers["pixel_values"])
        n = len(ids)
        pictures, texts = torch.arange(3 * n) % n, torch.arange(3 * n).flip(0) % n
        labels = torch.ones(3 * n).long()
        monkeypatch.setattr(losses, "itm_pairs", lambda *_: (pictures, texts, labels))
        computed: list[torch.Tensor] = []
        monkeypatch.setattr(losses, "itm", lambda logits, _: computed.append(logits))
        batch = TrainingBatch(numbers["pixel_values"], pictures, texts, TokenRows(ids, mask))
        nothing = torch.empty(0)
        with torch.no_grad():
            model._matching_loss(states, model.text(ids, mask), batch, nothing, nothing, nothing)
            first = ids.clone()
            first[:, 0] = model.config.text.enc_id or ids[0, 0]
            for logits, p, t in zip(computed[0], pictures, texts):
                alone = head(first[t][None], mask[t][None], states[p][None])[0]
                assert (logits - alone).abs().max() < 1e-4

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_answering_starts_from_official_weights(self, family: str, golden: Callable) -> None:
        """The loss on the golden questions equals the loss of the official code's logits."""
        numbers = golden(f"{family}_vqa")
        model = golden_student(VQA[family], ("vqa",), f"{family}_vqa")
        question = TokenRows(numbers["question_ids"], numbers["question_mask"])
        answer = TokenRows(numbers["answer_ids"], numbers["answer_mask"])
        n = len(question.ids)
        batch = TrainingBatch(torch.empty(0), torch.empty(0), torch.empty(0), questions=question, answers=answer)
        batch.answer_of, batch.answer_weights = torch.arange(n), torch.ones(n)
        with torch.no_grad():
            loss = model._answering_loss(model.states(numbers["pixel_values"]), batch, 0.1)
        expected = losses.answers(numbers["logits"], answer.ids, answer.mask.bool(), torch.ones(n), n, 0.1)
        assert float(loss) == pytest.approx(float(expected), abs=1e-3)

    def test_the_prompt_is_not_learnt(self, words: Path) -> None:
        model = student("blip", ("lm",), words)
        batch = batch_of(model.config, ("lm",), words)
        assert batch.prompted is not None
        with torch.no_grad():
            loss = model.losses(batch, TrainConfig())["lm"]
            ids, mask = batch.prompted.ids, batch.prompted.mask
            logits = model.decoder.logits(
                ids, model.decoder.read(model.encode_pixels(batch.pixels)), attention_mask=mask
            )
        counted = mask.bool() & (torch.arange(ids.shape[1]) >= 4)  # [DEC] a picture of
        assert loss == losses.lm(logits, ids, counted, 0.1)
        assert loss != losses.lm(logits, ids, mask.bool(), 0.1)

    def test_several_answers_to_one_question(self, words: Path) -> None:
        """The loss equals the weighted losses of asking the question once per answer."""
        model = student("blip", ("vqa",), words)
        tokenizer = Tokenizer.from_vocabulary(words)
        items = [
            {**Walls()[0], "answer": ["red", "red", "red", "pink wall"]},
            {**Walls()[1], "question": "is it green?"},
        ]
        apart = [{**items[0], "answer": "red"}, {**items[0], "answer": "pink wall"}, items[1]]

        def loss(given: list[dict[str, Any]], *weights: float) -> float:
            pairs = PairDataset(given, model.config, ("vqa",), tokenizer, TrainConfig(crop_scale=None, flip=False))
            batch, _ = pairs.collate([pairs[i, i] for i in range(len(given))])
            if weights:
                batch.answer_weights = torch.tensor(weights)
            with torch.no_grad():
                return float(model.losses(batch, TrainConfig())["vqa"])

        assert loss(items) == pytest.approx(loss(apart, 0.75, 0.25, 1.0) * 3 / 2, abs=1e-5)

    @pytest.mark.parametrize("task", ["lm", "vqa"])
    def test_several_texts_are_as_many_pictures(self, task: str, words: Path) -> None:
        """The loss of a picture with three texts equals that of three pictures with one text each."""
        model = student("blip", (task,), words)
        texts = {"caption": ["a red wall", "a pink wall", "a green wall"]}
        texts |= {
            "question": ["what colour is it", "is it green", "is it red"],
            "answer": ["red", ["no", "red"], "red"],
        }
        items = [{**Walls()[i], **texts} for i in range(2)]
        apart = [{**item, **{key: value[n] for key, value in texts.items()}} for item in items for n in range(3)]

        def loss(given: list[dict[str, Any]], count: int) -> float:
            settings = TrainConfig(crop_scale=None, flip=False, texts=count)
            pairs = PairDataset(given, model.config, (task,), Tokenizer.from_vocabulary(words), settings)
            batch, _ = pairs.collate([pairs[i, i] for i in range(len(given))])
            with torch.no_grad():
                return float(model.losses(batch, settings)[task])

        assert loss(items, 3) == pytest.approx(loss(apart, 1), abs=1e-5)

    def test_encoder_and_decoder_share_all_but_self_attention(self, words: Path) -> None:
        model = student("blip", ("itc", "itm", "lm"), words)
        apart = {
            name
            for name, parameter in model.decoder.named_parameters()
            if name in dict(model.text.named_parameters()) and parameter is not model.text.get_parameter(name)
        }
        assert apart and all(".attention." in name for name in apart)
        assert model.has_equal_layers() and len(list(model.decoder.parameters())) > len(apart)
        assert not student("blip", ("itc", "itm"), words).can_share_layers()
        assert not student(
            "blip", ("itc", "vqa"), words
        ).can_share_layers()  # the official answering models share nothing

    @pytest.mark.parametrize(("family", "tasks"), [("blip", ("itc", "itm", "lm")), ("albef", ("itc", "itm", "mlm"))])
    def test_gradient_checkpointing_changes_no_gradient(self, family: str, tasks: tuple[str, ...], words: Path) -> None:
        found = []
        for twice in (False, True):
            model = student(family, tasks, words)
            if twice:
                model.enable_gradient_checkpointing()
            torch.manual_seed(3)
            losses = model.losses(batch_of(model.config, tasks, words), TrainConfig())
            sum(losses.values()).backward()
            found.append((losses, [p.grad for p in model.parameters()]))
        (losses, gradients), (losses_twice, gradients_twice) = found
        assert losses == losses_twice
        assert all(g is not None and torch.allclose(g, h, atol=1e-7) for g, h in zip(gradients, gradients_twice))

    def test_one_decoder_writes_captions_and_answers(self, words: Path) -> None:
        """Both losses have gradients in the decoder of a model that does both."""
        config = tiny("blip", ("embed", "match", "caption", "answer"))
        tasks = ("itc", "itm", "lm", "vqa")
        model = new_student(config, tasks, VocabularyIds(2, 3, 4, SIZE), TrainConfig())
        batch = batch_of(config, tasks, words)
        losses = model.losses(batch, TrainConfig())
        assert tuple(losses) == tasks
        for name in ("lm", "vqa"):
            (gradient,) = torch.autograd.grad(
                losses[name], model.decoder.layers[0].attention.query.weight, retain_graph=True
            )
            assert gradient.abs().sum() > 0

    def test_sinusoids_distinguish_positions_from_the_start(self) -> None:
        config, words = tiny("blip", ("embed", "match", "caption")), VocabularyIds(2, 3, 4, SIZE)
        faint, strong = (
            new_student(config, ("itc",), words, TrainConfig(sinusoids=strength)).vision.pos_embed.detach()
            for strength in (None, 0.5)
        )
        assert faint.std() < 0.03
        torch.testing.assert_close(strong, sinusoid_positions(strong.shape[1] - 1, strong.shape[2], 0.5))
        found = sinusoid_positions(16, 32, 0.5)[0]
        assert not found[0].any()
        grid = found[1:].reshape(4, 4, 32)
        assert (grid[0, 0] - grid[0, 1]).norm() < (grid[0, 0] - grid[0, 3]).norm()
        assert torch.pdist(found[1:]).min() > 0.3
        torch.testing.assert_close(grid[0, :, 16:], grid[3, :, 16:])  # a column is the same in every row
        torch.testing.assert_close(grid[:, 0, :16], grid[:, 3, :16])

    def test_sinusoids_are_added_to_a_trained_model(self, words: Path, train_tiny: Callable) -> None:
        first = train_tiny("blip", steps=2) / "model.safetensors"
        further = train_tiny(first, steps=1, lr=1e-12, sinusoids=1.5, out="further") / "model.safetensors"
        start, found = (read_checkpoint(path).tensors["vision.pos_embed"] for path in (first, further))
        torch.testing.assert_close(
            found - start, sinusoid_positions(start.shape[1] - 1, start.shape[2], 1.5), atol=1e-5, rtol=0
        )

    def test_only_matrices_decay(self, words: Path) -> None:
        model = student("blip", ("itc", "itm", "lm"), words)
        decayed, undecayed = parameter_groups(model, 0.05)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        assert decayed["weight_decay"] == 0.05 and undecayed["weight_decay"] == 0
        assert all(p.ndim >= 2 for p in decayed["params"])
        assert {names[id(p)].rsplit(".", 1)[-1] for p in undecayed["params"]} == {"bias", "weight", "temp"}
        assert len(decayed["params"]) + len(undecayed["params"]) == len(list(model.parameters()))

    def test_the_temperature_stays_in_its_range(self, words: Path) -> None:
        model = student("blip", ("itc",), words)
        for value, expected in ((7.0, 0.5), (-1.0, 0.001), (0.1, 0.1)):
            model.temp.data.fill_(value)
            model.clamp_temperature()
            assert model.temp.item() == pytest.approx(expected)


class TestOfficialWeights:
    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_official_weights(self, family: str, golden: Callable) -> None:
        """The temperature is that of the file, and the vectors are those of the official code."""
        model = golden_student(RETRIEVAL[family], ("itc", "itm"), f"{family}_retrieval")
        numbers = golden(f"{family}_retrieval")
        assert torch.equal(model.temp, golden_checkpoint(f"{family}_retrieval").tensors["temp"])
        assert all(parameter.requires_grad for parameter in model.parameters())
        features = torch.nn.functional.normalize(model(numbers["pixel_values"]), dim=-1)
        assert (features - numbers["image_features"]).abs().max() < 1e-5

    def test_the_official_masked_word_head(self, tmp_path: Path) -> None:
        """Named as in ALBEF's pretrained files (`BertLMPredictionHead`), where output matrix and bias have two names each."""
        with pytest.raises(CheckpointError, match=r"missing: mlm_head\."):
            golden_student(RETRIEVAL["albef"], ("itc", "mlm"), "albef_retrieval")
        state = dict(golden_checkpoint("albef_retrieval").tensors)
        head = "text_encoder.cls.predictions"
        words = next(
            value for key, value in state.items() if key.endswith("text_encoder.bert.embeddings.word_embeddings.weight")
        )
        state[f"{head}.transform.dense.weight"], state[f"{head}.transform.dense.bias"] = (
            torch.randn(48, 48),
            torch.randn(48),
        )
        state[f"{head}.transform.LayerNorm.weight"], state[f"{head}.transform.LayerNorm.bias"] = torch.randn(2, 48)
        state[f"{head}.bias"] = state[f"{head}.decoder.bias"] = torch.randn(600)
        state[f"{head}.decoder.weight"] = words
        torch.save({"model": state}, tmp_path / "albef.pth")
        model = golden_student(RETRIEVAL["albef"], ("itc", "itm", "mlm"), tmp_path / "albef.pth")
        assert torch.equal(model.mlm_head.dense.weight, state[f"{head}.transform.dense.weight"])
        assert torch.equal(model.mlm_head.norm.bias, state[f"{head}.transform.LayerNorm.bias"])
        assert torch.equal(model.mlm_head.bias, state[f"{head}.bias"])
