"""The ViT against timm's, to which the official code is equal: the same names, order, values and gradients."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch
from support.models import small
from torch import nn

from image_text_embedding.models.config import VisionConfig
from image_text_embedding.models.config_files import model_config
from image_text_embedding.models.networks.vision_transformer import VisionTransformer


def of_timm(config: VisionConfig) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer as Reference

    reference = Reference(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        num_classes=0,
        global_pool="",
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
        weight_init="skip",
    )
    with torch.no_grad():  # timm leaves these two as they are in memory
        reference.cls_token.zero_(), reference.pos_embed.zero_()
    return reference


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
def test_values_and_gradients_are_those_of_timm(name: str) -> None:
    config = small(name).vision
    torch.manual_seed(1)
    reference, ours = of_timm(config), VisionTransformer(config)
    # Resumed training finds the optimiser's state by the order of parameters.
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in reference.named_parameters()]
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours.load_state_dict(reference.state_dict(), strict=True)
    pixels = torch.randn(3, 3, config.image_size, config.image_size)
    found, expected = ours(pixels), reference.forward_features(pixels)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.first(pixels), expected[:, 0], atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(found)
    (found * weights).sum().backward(), (expected * weights).sum().backward()
    for (name, parameter), other in zip(ours.named_parameters(), reference.parameters()):
        torch.testing.assert_close(parameter.grad, other.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_at_full_size() -> None:
    config = model_config("blip_itm_base_coco").vision
    torch.manual_seed(2)
    reference, ours = of_timm(config).eval(), VisionTransformer(config).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    pixels = torch.randn(1, 3, config.image_size, config.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(ours(pixels), reference.forward_features(pixels), atol=2e-5, rtol=1e-5)


def test_a_new_one_draws_the_same_numbers_as_timm() -> None:
    """So that training from scratch with a seed gives what it gave when the ViT was timm's."""
    config = small("blip_base").vision
    torch.manual_seed(3)
    reference = of_timm(config)
    after = torch.rand(1)
    torch.manual_seed(3)
    ours = VisionTransformer(config)
    assert torch.equal(torch.rand(1), after)
    equal = {"blocks.1.attn.qkv.weight", "blocks.1.mlp.fc2.bias", "patch_embed.proj.weight", "pos_embed"}
    expected = dict(reference.named_parameters())
    assert all(torch.equal(dict(ours.named_parameters())[name], expected[name]) for name in equal)


def test_a_model_is_loaded_without_timm_and_torchvision() -> None:
    """Their import takes longer than that of torch, and fails where torchvision was built for another torch."""
    code = """
import sys
sys.modules["timm"] = sys.modules["torchvision"] = None
import image_text_embedding as ite
model = ite.load("blip_demo", device="cpu")
assert model.encode_text("a dog").shape == (model.dim,)
slow = {"torch._dynamo", "torch.onnx", "transformers"} & set(sys.modules)
assert not slow, slow
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
