"""Training from scratch that starts from a ViT of timm and from BERT: the states of both are those of the originals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.environment import put_in_hub_cache
from support.models import max_difference
from support.training_runs import SIZE, WORDS, student, tiny
from torch.nn import functional as F

from image_text_embedding.foundation.errors import CheckpointError, ConfigError
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.config_files import model_config
from image_text_embedding.training.objectives.pretrained_towers import NO_TOWERS, find_towers

VIT: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
BERT: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 60,
}
IDS = torch.tensor([[2, 5, 8, 12, 3], [2, 6, 3, 0, 0]])
MASK = (IDS != 0).long()


def drawn(module: Any) -> Any:
    """The module with weights far from those that any code draws by itself."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            mean = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.normal_(mean, 0.3, generator=generator)
    return module.eval()


def vit(path: Path, **changes: Any) -> Any:
    """A ViT of timm, with its weights in a file."""
    from timm.models.vision_transformer import VisionTransformer

    model = drawn(VisionTransformer(**VIT | {"num_classes": 10} | changes))
    save_file(model.state_dict(), path)
    return model


def bert(folder: Path, kind: str = "BertForMaskedLM", **changes: Any) -> Any:
    """A BERT of transformers, with its weights in a folder."""
    import transformers

    model = drawn(getattr(transformers, kind)(transformers.BertConfig(**BERT | changes)))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ["blip", "albef"])
def test_a_vision_tower_is_that_of_timm(tmp_path: Path, words: Path, family: str) -> None:
    model = student(family, ("itc", "itm"), words)
    original = vit(tmp_path / "vit.safetensors")
    find_towers(str(tmp_path / "vit.safetensors"), None).fill(model)
    pixels = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert max_difference(model.vision(pixels), original.forward_features(pixels)) < 1e-5


def test_position_embeddings_are_resized(tmp_path: Path, words: Path) -> None:
    """As the official code does it: bicubic, without antialiasing, the class token's as it is. DeiT's file has 'model'."""
    model = student("blip", ("lm",), words)
    original = vit(tmp_path / "vit.safetensors", img_size=40)
    torch.save({"model": original.state_dict()}, tmp_path / "deit.pth")
    find_towers(str(tmp_path / "deit.pth"), None).fill(model)
    found, old = model.vision.pos_embed, original.pos_embed
    grid = F.interpolate(old[:, 1:].view(1, 5, 5, 32).permute(0, 3, 1, 2), (2, 2), mode="bicubic", align_corners=False)
    assert torch.equal(found[:, :1], old[:, :1])
    assert max_difference(found[:, 1:], grid.flatten(2).transpose(1, 2)) < 1e-6


@pytest.mark.parametrize("family", ["blip", "albef"])
def test_text_layers_are_those_of_bert(tmp_path: Path, words: Path, family: str) -> None:
    """ALBEF's fusion layers are the upper half. BLIP leaves out the token types, as in the official code."""
    tasks = ("itc", "itm", "lm") if family == "blip" else ("itc", "itm", "mlm")
    model, before = (student(family, tasks, words) for _ in range(2))
    original = bert(tmp_path / "bert")
    if family == "blip":
        original.bert.embeddings.token_type_embeddings.weight.data.zero_()
    find_towers(None, str(tmp_path / "bert")).fill(model)
    with torch.no_grad():
        expected = original.bert(IDS, MASK, output_hidden_states=True).hidden_states
        alone = expected[2] if family == "blip" else expected[1]
        assert max_difference(model.text(IDS, MASK), alone) < 1e-5
        states, attended = model.text.embeddings(IDS), MASK[:, None, None].bool()
        for layer in model.text.layers:
            states = layer(states, attended)
        assert max_difference(states, expected[2]) < 1e-5
        logits = original(IDS, MASK).logits
        words_of = model.text.embeddings.word.weight[:SIZE]
        head = model.mlm_head if family == "albef" else model.decoder.lm_head
        assert max_difference(head(states, model.text.embeddings.word.weight)[..., :SIZE], logits) < 1e-4
        assert torch.equal(words_of, original.bert.embeddings.word_embeddings.weight)
    new, old = model.state_dict(), before.state_dict()
    changed = {name for name in new if not torch.equal(new[name], old[name])}
    assert not any(".cross." in name or name.startswith(("vision", "itm_head", "text_proj")) for name in changed)
    if family == "blip":
        # [DEC] and [ENC], which BERT lacks; all layers but self-attention are shared, and self-attention is BERT's in both
        assert torch.equal(new["text.embeddings.word.weight"][SIZE:], old["text.embeddings.word.weight"][SIZE:])
        assert model.decoder.layers[1].fc1 is model.text.layers[1].fc1
        own = original.bert.encoder.layer[1].attention.self.query.weight
        assert torch.equal(model.decoder.layers[1].attention.query.weight, own)
        assert torch.equal(model.text.layers[1].attention.query.weight, own)
        assert model.decoder.layers[1].attention is not model.text.layers[1].attention


def test_bert_files_of_2018(tmp_path: Path, words: Path) -> None:
    """bert-base-uncased has gamma and beta, a pooler and a head for the next sentence; a lone encoder has none of these."""
    model = bert(tmp_path / "bert", "BertForPreTraining")
    renamed = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in model.state_dict().items()
    }
    torch.save(renamed | {"bert.embeddings.position_ids": torch.arange(60)[None]}, tmp_path / "pytorch_model.bin")
    model.bert.save_pretrained(tmp_path / "encoder")
    found = []
    for source in (tmp_path / "pytorch_model.bin", tmp_path / "encoder", tmp_path / "bert"):
        started = student("albef", ("itc", "itm", "mlm"), words)
        find_towers(None, str(source)).fill(started)
        found.append(started.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[2][name]) for name, value in found[0].items())
    different = {name.split(".")[0] for name, value in found[1].items() if not torch.equal(value, found[0][name])}
    assert different == {"mlm_head"}


def test_a_name_of_timm(tmp_path: Path) -> None:
    """The hub's file is used, which timm's name stands for."""
    import timm

    model = drawn(timm.create_model("vit_tiny_patch16_224"))
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    put_in_hub_cache("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", file)
    towers = find_towers("timm:vit_tiny_patch16_224", None)
    assert towers.vision is not None and towers.vision.num_heads == 3
    base = model_config("blip_base")
    vision = dataclasses.replace(base.vision, width=192, num_heads=3, depth=12, image_size=224)
    towers.check(dataclasses.replace(base, vision=vision))
    with pytest.raises(
        CheckpointError, match=r"expected num_heads 4, as the configuration's vision has, got num_heads 3\."
    ):
        towers.check(dataclasses.replace(base, vision=dataclasses.replace(vision, num_heads=4)))
    with pytest.raises(CheckpointError, match="expected width 768, as the configuration's vision has, got width 192"):
        towers.check(dataclasses.replace(base, vision=dataclasses.replace(base.vision, num_heads=3)))


@pytest.mark.parametrize(
    ("vision", "error", "message"),
    [
        ("timm:deit_base_patch16_244", ConfigError, "did you mean 'deit_base_patch16_224.*The papers use"),
        ("timm:resnet50", ConfigError, "expected a ViT of timm, got resnet50, a ResNet"),
        ("timm:", ConfigError, "no pretrained model ''"),
        ("gone.safetensors", CheckpointError, "gone.safetensors is not found"),
    ],
)
def test_other_names_of_vision_towers(vision: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_towers(vision, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 48, "num_heads": 3}, "expected width 32, as .* got width 48"),
        ({"depth": 2, "embed_dim": 64}, "expected width 32 and depth 1, as .* got width 64 and depth 2"),
        ({"patch_size": 4}, "expected patch_size 8, as .* got patch_size 4"),
        ({"mlp_ratio": 3.0}, r"expected \(128, 32\), got \(96, 32\)"),
        ({"init_values": 0.1}, "unexpected: blocks.0.ls1"),
        ({"global_pool": "avg"}, "missing: vision.norm"),
    ],
)
def test_vision_towers_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    vit(tmp_path / "vit.safetensors", **changes)
    with pytest.raises(CheckpointError, match=message):
        find_towers(str(tmp_path / "vit.safetensors"), None).check(tiny("blip"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 48}, "expected width 32, as .* got width 48"),
        ({"num_hidden_layers": 3}, "expected depth 2, as .* got depth 3"),
        ({"num_hidden_layers": 1}, "expected depth 2, as .* got depth 1"),
        ({"vocab_size": SIZE + 1}, f"expected words {SIZE}, as .* got words {SIZE + 1}"),
        ({"max_position_embeddings": 40}, r"expected \(48, 32\), got \(40, 32\)"),
        ({"num_attention_heads": 4}, "expected num_heads 2, as the configuration's text has, got num_heads 4"),
    ],
)
def test_text_towers_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    bert(tmp_path, **changes)
    for family in ("blip", "albef"):
        with pytest.raises(CheckpointError, match=message):
            find_towers(None, str(tmp_path)).check(tiny(family))


@pytest.mark.parametrize("text", ["gone.bin", "./gone", "/gone/bert.safetensors"])
def test_other_names_of_text_towers(text: str) -> None:
    with pytest.raises(CheckpointError, match="is not found"):
        find_towers(None, text)
    assert find_towers(None, None) == NO_TOWERS


def test_a_run_starts_from_both(train_tiny: Callable, tmp_path: Path) -> None:
    """It records what it started from; a resumed run needs the files only before its first checkpoint."""
    vit(tmp_path / "vit.safetensors")
    bert(tmp_path / "bert")
    towers = {"init_vision": str(tmp_path / "vit.safetensors"), "init_text": str(tmp_path / "bert")}
    settings = {"steps": 2, "lr": 1e-12, "min_lr": None, "weight_decay": None, **towers}
    run = train_tiny("blip", **settings)
    described = json.loads((run / "run.json").read_text())
    assert described["settings"]["init_vision"] == towers["init_vision"]
    assert all(len(digest) == 64 for digest in described["init"].values())
    found = read_checkpoint(run / "model.safetensors")
    weights = read_checkpoint(tmp_path / "vit.safetensors").tensors
    assert max_difference(found.tensors["vision.blocks.0.mlp.fc1.weight"], weights["blocks.0.mlp.fc1.weight"]) < 1e-6
    words_of = read_checkpoint(tmp_path / "bert" / "model.safetensors").tensors[
        "bert.embeddings.word_embeddings.weight"
    ]
    assert max_difference(found.tensors["text.embeddings.word.weight"][: len(WORDS)], words_of) < 1e-6
    assert "seen_pieces" not in found.metadata["image_text_embedding"]
    vit(tmp_path / "vit.safetensors", depth=2)
    train_tiny(None, resume=True, **settings)
    (run / "last.pt").unlink()
    with pytest.raises(ConfigError, match="names other weights now than when the run was started"):
        train_tiny(None, resume=True, **settings)


def test_runs_that_cannot_start_from_towers(train_tiny: Callable, tmp_path: Path) -> None:
    """Nothing is written that would be in the way of the next attempt."""
    vit(tmp_path / "vit.safetensors", depth=2)
    with pytest.raises(CheckpointError, match="got depth 2"):
        train_tiny("blip", init_vision=str(tmp_path / "vit.safetensors"))
    assert not (tmp_path / "run" / "run.json").exists()
    run = train_tiny("blip", steps=1)
    with pytest.raises(ConfigError, match="for training from scratch, but tiny has weights already"):
        train_tiny(run / "model.safetensors", out="next", init_vision=str(tmp_path / "vit.safetensors"))
