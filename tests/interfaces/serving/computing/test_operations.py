"""How many threads of torch a batch of the service is computed with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import image_text_embedding as ite
from image_text_embedding.interfaces.serving.computing import operations


@pytest.mark.parametrize(
    ("modality", "limit", "threads"), [("text", 4_000_000, 1), ("text", 800_000, 3), ("image", 4_000_000, 3)]
)
def test_only_small_texts_are_computed_by_one_thread(
    model: ite.Encoder, monkeypatch: pytest.MonkeyPatch, modality: str, limit: int, threads: int
) -> None:
    seen = []

    def embed(*_: Any) -> list[Any]:
        seen.append(torch.get_num_threads())
        raise ValueError("it failed")

    monkeypatch.setattr(operations, "embed_prepared", embed)
    monkeypatch.setattr(operations, "SMALL_TEXT_TOWER", limit)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ValueError, match="it failed"):
            operations.embed_operation(model, modality, 8).compute([[1]])
        # After an error, too, others have all threads.
        assert seen == [threads] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
