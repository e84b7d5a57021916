"""Parts of a model: loaded strictly from a checkpoint, and sharing the tensors that they have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.environment import GOLDEN
from support.models import CAPTION, DEC, RETRIEVAL, VQA, fill, golden_checkpoint, max_difference

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
from image_text_embedding.models.config import DecoderConfig
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.models.part_cache import load_part


class TestStrictLoading:
    def test_the_tied_keys_may_be_stored_twice_or_once(self) -> None:
        complete = golden_checkpoint("blip_caption")
        twice = [key for key in complete.tensors if key.startswith("text_decoder.cls.predictions.decoder.")]
        assert len(twice) == 2
        once = Checkpoint(
            complete.path, {key: complete.tensors[key] for key in complete.tensors if key not in twice}, {}
        )
        expected, got = (fill("caption", CAPTION, checkpoint).state_dict() for checkpoint in (complete, once))
        assert all(torch.equal(expected[key], got[key]) for key in expected)

    @pytest.mark.parametrize(
        "key", ["text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.bias"]
    )
    def test_tied_keys_that_differ_are_an_error(self, key: str) -> None:
        complete = golden_checkpoint("blip_caption")
        changed = complete.tensors[key].clone()
        changed.view(-1)[7] += 1
        with pytest.raises(CheckpointError, match=f"1 tied but different: .*{key}"):
            fill("caption", CAPTION, Checkpoint(complete.path, {**complete.tensors, key: changed}, {}))

    def test_an_output_matrix_trained_apart_from_the_word_embeddings(self, golden: Callable, tmp_path: Path) -> None:
        """As in files of transformers 4: the file's matrix is used, with a warning."""
        numbers, complete = golden("blip_caption"), golden_checkpoint("blip_caption")
        key = "text_decoder.cls.predictions.decoder.weight"
        torch.save({"model": {**complete.tensors, key: 2 * complete.tensors[key]}}, tmp_path / "apart.pth")
        resolved = ResolvedModel(CAPTION, tmp_path / "apart.pth", "sha of apart", None, None)
        with pytest.warns(
            UserWarning, match=r"apart\.pth: the decoder's output matrix differs from its word embeddings"
        ):
            head = load_part("caption", resolved, torch.device("cpu"), torch.float32)
        bias = head.decoder.lm_head.bias
        context = head.decoder.read(numbers["image_hidden"])
        logits = head.decoder.logits(numbers["input_ids"], context, attention_mask=numbers["attention_mask"])
        assert max_difference(logits - bias, 2 * (numbers["logits"] - bias)) < 2e-4

    def test_word_embeddings_stored_only_under_the_name_of_the_head(self) -> None:
        """As in files of a safetensors writer that stores only one of two tied tensors."""
        complete = golden_checkpoint("blip_caption")
        gone = "text_decoder.bert.embeddings.word_embeddings.weight"
        rest = {key: tensor for key, tensor in complete.tensors.items() if key != gone}
        head = fill("caption", CAPTION, Checkpoint(complete.path, rest, {}))
        assert torch.equal(head.decoder.embeddings.word.weight, complete.tensors[gone])

    @pytest.mark.parametrize(
        ("part", "gone"),
        [
            ("answer", "text_decoder.cls.predictions.transform.LayerNorm.weight"),
            ("answer", "text_decoder.bert.encoder.layer.3.crossattention.self.key.bias"),
            ("answer", "text_encoder.encoder.layer.0.crossattention.output.dense.weight"),
        ],
    )
    def test_a_missing_key_is_named(self, part: str, gone: str) -> None:
        complete = golden_checkpoint("blip_vqa")
        rest = {key: tensor for key, tensor in complete.tensors.items() if key != gone}
        with pytest.raises(CheckpointError, match="1 missing"):
            fill(part, VQA["blip"], Checkpoint(complete.path, rest, {}))

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
        assert not any(".cross." in name for name in text)  # an embedding needs none
        assert any(".cross." in name for name in match)
        again = load_part("match", resolved, torch.device("cpu"), torch.float32)
        assert again is loaded["match"]
