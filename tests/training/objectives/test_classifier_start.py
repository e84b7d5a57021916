"""What reasoning about two pictures starts from: the renaming of the original code, written as its loops."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.models import NLVR, RETRIEVAL, golden_checkpoint

from image_text_embedding.models.checkpoints.parameter_names import PARAMETER_NAMES, rename_parameters
from image_text_embedding.models.config import PairConfig
from image_text_embedding.models.config_files import model_config
from image_text_embedding.training.objectives.classifier_start import reasoning_text, reasoning_weights


def ours(state: dict[str, torch.Tensor], family: str) -> dict[str, torch.Tensor]:
    return {name: state[key] for key, name in rename_parameters(state, PARAMETER_NAMES[family]).items()}


def blip_loop(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`load_checkpoint` of `models/blip_nlvr.py`."""
    found = {}
    for key, tensor in state.items():
        if "crossattention.self." in key:
            found[key.replace("self", "self0")] = found[key.replace("self", "self1")] = tensor
        elif "crossattention.output.dense." in key:
            found[key.replace("dense", "dense0")] = found[key.replace("dense", "dense1")] = tensor
        else:
            found[key] = tensor
    return found


def albef_loop(state: dict[str, torch.Tensor], start: int) -> dict[str, torch.Tensor]:
    """`Pretrain_nlvr.py`, where `start` is 6."""
    found = dict(state)
    for key in state:
        if "text_encoder.bert." not in key:
            continue
        new = key.replace("bert.", "")
        if "layer" in new and int(new.split(".")[3]) >= start:
            parts = new.split(".")
            first = (int(parts[3]) - start) * 2 + start
            for number in (first, first + 1):
                parts[3] = str(number)
                found[".".join(parts)] = state[key]
        else:
            found[new] = state[key]
        del found[key]
    return found


@pytest.mark.parametrize("family", ["blip", "albef"])
def test_a_retrieval_checkpoint_starts_it_as_in_the_original(family: str) -> None:
    state = dict(golden_checkpoint(f"{family}_retrieval").tensors)
    text = reasoning_text(RETRIEVAL[family])
    start = RETRIEVAL[family].text.fusion_start
    expected = ours(blip_loop(state) if family == "blip" else albef_loop(state, start), family)
    found = reasoning_weights(ours(state, family), text)
    assert found.keys() == expected.keys()
    assert all(found[name] is expected[name] for name in found)
    assert not any("momentum" in name or "_m." in name for name in found)


def test_the_sizes_of_the_official_models() -> None:
    for start, finished in (("blip_base", "blip_nlvr"), ("albef_14m", "albef_nlvr")):
        assert reasoning_text(model_config(start)) == model_config(finished).text
        assert reasoning_text(model_config(finished)) is model_config(finished).text
    assert reasoning_text(model_config("blip_itm_large_coco")).pair == PairConfig(True, 6)


@pytest.mark.parametrize("family", ["blip", "albef"])
def test_a_checkpoint_for_two_pictures_stays_as_it_is(family: str) -> None:
    """Such as the text-assignment pretraining, whose layers are those of the reasoner."""
    tensors = ours(dict(golden_checkpoint(f"{family}_nlvr").tensors), family)
    found = reasoning_weights(tensors, dataclasses.replace(NLVR[family].text))
    assert found.keys() == tensors.keys() and all(found[name] is tensors[name] for name in found)
