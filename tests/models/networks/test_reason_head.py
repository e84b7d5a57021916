"""The head that judges statements about two pictures: the original code's numbers, padding, shared weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.models import NLVR, fill, fill_with_report, golden_checkpoint, max_difference

from image_text_embedding.inputs.pixels import normalize_pixels

FAMILIES = ["blip", "albef"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_codes_numbers(golden: Callable, family: str) -> None:
    """States within 1e-5 and logits within 1e-4 of the numbers in golden/."""
    numbers, checkpoint, config = golden(f"{family}_nlvr"), golden_checkpoint(f"{family}_nlvr"), NLVR[family]
    image, head = (fill(part, config, checkpoint) for part in ("image", "reason"))
    pixels = normalize_pixels(numbers["pixels"], config.vision.mean, config.vision.std)
    assert max_difference(pixels, numbers["pixel_values"]) < 1e-5
    states = image.states(numbers["pixel_values"])
    text = numbers["input_ids"], numbers["attention_mask"]
    if family == "blip":
        assert max_difference(states, numbers["image_hidden"]) < 1e-5
        assert max_difference(head.text.fuse(*text, (states[:3], states[3:])), numbers["fused_hidden"]) < 1e-5
    assert max_difference(head(*text, states[:3], states[3:]), numbers["logits"]) < 1e-4
    swapped = head(*text, states[3:], states[:3])
    assert max_difference(swapped, numbers["logits"]) > 1e-3, "left and right differ"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_the_file_is_accounted_for(family: str) -> None:
    checkpoint = golden_checkpoint(f"{family}_nlvr")
    report = fill_with_report("reason", NLVR[family], checkpoint)[1]
    assert report.loaded + sum(report.ignored.values()) == len(checkpoint.tensors)
    assert set(report.ignored) <= {"position ids", "image tower", "momentum copies"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_equals_its_items_and_statements_share_a_pair(golden: Callable, family: str) -> None:
    numbers, checkpoint = golden(f"{family}_nlvr"), golden_checkpoint(f"{family}_nlvr")
    image, head = (fill(part, NLVR[family], checkpoint) for part in ("image", "reason"))
    states, ids, mask = image.states(numbers["pixel_values"]), numbers["input_ids"], numbers["attention_mask"]
    together = head(ids, mask, states[:3], states[3:])
    for i, length in enumerate(mask.sum(1).tolist()):
        alone = head(ids[i : i + 1, :length], mask[i : i + 1, :length], states[i : i + 1], states[3 + i : 4 + i])
        assert max_difference(alone[0], together[i]) < 1e-5
    shared = head(ids, mask, states[:1], states[3:4])
    assert max_difference(shared, head(ids, mask, *(states[i : i + 1].expand(3, -1, -1) for i in (0, 3)))) < 1e-5


def test_layers_that_take_turns_share_keys_and_values() -> None:
    """Official `share_cross_attention`: a parameter of two names, which a file writes twice."""
    head = fill("reason", NLVR["albef"], golden_checkpoint("albef_nlvr"))
    layers = head.text.layers
    for first, second in zip(layers[6::2], layers[7::2]):
        assert first.cross.key is second.cross.key and first.cross.value is second.cross.value
        assert not torch.equal(first.cross.query.weight, second.cross.query.weight)
