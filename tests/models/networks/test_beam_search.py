"""The search is that of the original code: recorded outputs of the generation with which BLIP was published."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from support.environment import GOLDEN
from support.models import PAD, SEP, golden_checkpoint

from image_text_embedding.models.checkpoints.parameter_names import BLIP_NAMES, rename_parameters
from image_text_embedding.models.config import TextConfig
from image_text_embedding.models.networks.beam_search import FinishedTexts, beam_search
from image_text_embedding.models.networks.bert import Decoder
from image_text_embedding.models.networks.decoding_state import DecodingState, GenerationSettings
from image_text_embedding.models.networks.generation import generate

with np.load(GOLDEN / "blip_beam.npz") as _arrays:
    RECORDED = dict(_arrays)
SETTINGS: list[dict[str, Any]] = json.loads(str(RECORDED["settings"]))


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    sizes = {"width": 48, "depth": 4, "num_heads": 4, "intermediate_size": 192, "max_positions": 64}
    config = TextConfig(vocab_size=600, token_types=False, text_depth=4, fusion_start=0, **sizes)
    tensors = golden_checkpoint("blip_beam").tensors
    ours = {name: tensors[key] for key, name in rename_parameters(tensors, BLIP_NAMES).items()}
    start = "decoder."
    state = {name.removeprefix(start): value for name, value in ours.items() if name.startswith(start)}
    del state["lm_head.weight"]  # tied to the word embeddings
    decoder = Decoder(config, context_width=64)
    decoder.load_state_dict(state)
    return decoder.eval().requires_grad_(False)


def settings_of(recorded: dict[str, Any], **changes: Any) -> tuple[list[int], GenerationSettings]:
    rest = {name: value for name, value in recorded.items() if name != "prompt"}
    return recorded["prompt"], GenerationSettings(**rest, **changes)


def run(
    decoder: Decoder, prompt: list[int], settings: GenerationSettings, rows: slice = slice(None)
) -> list[list[int]]:
    states = torch.from_numpy(RECORDED["states"][rows])
    prompts = torch.tensor([prompt] * len(states))
    return generate(decoder, prompts, states, None, settings, SEP, PAD).tolist()


def unpadded(row: Any) -> list[int]:
    """Without the padding at the end."""
    row = [int(token) for token in row]
    while row and row[-1] == PAD:
        row.pop()
    return row


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("index", range(len(SETTINGS)))
def test_every_recorded_sequence(decoder: Decoder, index: int, use_cache: bool) -> None:
    prompt, settings = settings_of(SETTINGS[index], use_cache=use_cache)
    ours = [unpadded(row) for row in run(decoder, prompt, settings)]
    assert ours == [unpadded(row) for row in RECORDED[f"sequences_{index}"]]


@pytest.mark.parametrize("index", [i for i, each in enumerate(SETTINGS) if each["num_beams"] > 1])
def test_every_recorded_score(decoder: Decoder, index: int) -> None:
    prompt, settings = settings_of(SETTINGS[index])
    states = torch.from_numpy(RECORDED["states"])
    with torch.inference_mode():
        state = DecodingState(decoder, torch.tensor([prompt] * len(states)), states, None, settings, SEP)
        found = beam_search(state, settings.num_beams, SEP)
    ours = [max(score for score, _ in item.texts) for item in found]
    np.testing.assert_allclose(ours, RECORDED[f"scores_{index}"], atol=1e-5)


@pytest.mark.parametrize("index", [0, 2, 7])
def test_a_text_does_not_depend_on_its_batch(decoder: Decoder, index: int) -> None:
    prompt, settings = settings_of(SETTINGS[index])
    together = [unpadded(row) for row in run(decoder, prompt, settings)]
    assert together == [unpadded(run(decoder, prompt, settings, slice(i, i + 1))[0]) for i in range(16)]
    assert len({len(row) for row in together}) > 1  # some leave the batch early


def test_finished_texts_keep_the_best_and_know_when_they_are_done() -> None:
    finished = FinishedTexts(2)
    finished.add([1, 2], -4.0)  # -2.0 per token
    assert not finished.is_done(best=-100.0, length=3)  # one is missing
    finished.add([1, 2, 3], -3.0)  # -1.0
    finished.add([1], -9.0)  # worse than both
    finished.add([4, 5], -1.0)  # -0.5: the worst leaves
    assert finished.best(5) == [[4, 5], [1, 2, 3]]
    assert finished.is_done(best=-4.0, length=4) and not finished.is_done(best=-3.9, length=4)
