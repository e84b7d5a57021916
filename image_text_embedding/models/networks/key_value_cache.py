"""Self-attention keys and values of the tokens that a decoder has read, so that each step computes one token."""

from __future__ import annotations

import torch


class KeyValueCache:
    """One pair of buffers per layer, allocated once for the longest text and updated in place.

    Attributes:
        length: how many tokens the buffers hold.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length, self.length = max_length, 0
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (R, H, L, width / H) of new tokens -> those of all tokens. `advance` follows the last layer."""
        if layer == len(self._layers):
            shape = (*keys.shape[:2], self.max_length, keys.shape[3])
            self._layers.append((keys.new_empty(shape), values.new_empty(shape)))
        all_keys, all_values = self._layers[layer]
        end = self.length + keys.shape[2]
        all_keys[:, :, self.length : end] = keys
        all_values[:, :, self.length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def advance(self, count: int) -> None:
        """Count `count` tokens that every layer has appended."""
        self.length += count

    def select(self, rows: torch.Tensor) -> None:
        """Make row i what row `rows[i]` was; the number of rows may change. rows: int64 (R,)."""
        for i, pair in enumerate(self._layers):
            filled = [buffer[rows, :, : self.length] for buffer in pair]
            if len(rows) != len(pair[0]):
                pair = self._layers[i] = tuple(buffer.new_empty((len(rows), *buffer.shape[1:])) for buffer in pair)  # type: ignore[assignment]
            for buffer, values in zip(pair, filled):
                buffer[:, :, : self.length] = values
