"""The first-token path of a tower: the vectors of the full path, for less work."""

from __future__ import annotations

import pytest
import torch
from support.models import small
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.networks.towers import ImageTower, TextTower


def filled(tower: torch.nn.Module) -> torch.nn.Module:
    """Fill with weights that make attention far from uniform."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.normal_(mean, 0.15, generator=generator)
    return tower.eval()


def pixels(config: ModelConfig, count: int = 3) -> torch.Tensor:
    size = config.vision.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
@torch.no_grad()
def test_pictures(name: str) -> None:
    config = small(name)
    tower, values = filled(ImageTower(config)), pixels(config)
    full, short = tower.project(tower.states(values)), tower(values)
    assert (normalize(short, dim=-1) - normalize(full, dim=-1)).abs().max() < 1e-6
    assert (short - full).abs().max() < 3e-6 * full.abs().max()
    assert (full[0] - full[1]).abs().max() > 0.1  # different pictures have different vectors


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
@torch.no_grad()
def test_texts_of_every_length_and_padding(name: str) -> None:
    tower = filled(TextTower(small(name)))
    ids = torch.randint(0, 30000, (6, 9), generator=torch.Generator().manual_seed(5))
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [8], [2], [9]])).long()
    full, short = tower.text_proj(tower.text(ids, mask)[:, 0]), tower(ids, mask)
    assert (normalize(short, dim=-1) - normalize(full, dim=-1)).abs().max() < 1e-6
    for row, real, vector in zip(ids, mask, short):  # padding changes nothing
        alone = tower(row[None, : real.sum()], real[None, : real.sum()])[0]
        assert (alone - vector).abs().max() < 3e-6 * full.abs().max()


@torch.no_grad()
def test_half_precision_is_as_close() -> None:
    config = small("blip_base")
    values = pixels(config)
    exact = filled(ImageTower(config))(values)
    tower = filled(ImageTower(config)).to(torch.bfloat16)
    for vectors in (tower(values.bfloat16()), tower.project(tower.states(values.bfloat16()))):
        assert torch.cosine_similarity(vectors.float(), exact).min() > 0.995


def flops(function, *args: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


def test_the_last_layer_costs_next_to_nothing() -> None:
    """Both towers save most of the work of one layer."""
    config = small("blip_base")
    image, text = filled(ImageTower(config)), filled(TextTower(config))
    values, tokens = pixels(config), config.vision
    full, short = flops(lambda x: image.project(image.states(x)), values), flops(image, values)
    layer = (full - flops(image.vision.patch_embed, values)) / tokens.depth
    assert full - short > 0.85 * layer
    ids = torch.ones(4, 20, dtype=torch.long)
    full, short = flops(lambda *x: text.text_proj(text.text(*x)[:, 0]), ids, ids), flops(text, ids, ids)
    assert full - short > 0.8 * full / config.text.text_depth
