"""Position embeddings made of sines and cosines."""

from __future__ import annotations

import torch


def sinusoid_positions(patches: int, width: int, strength: float) -> torch.Tensor:
    """Position embeddings (1, 1 + patches, width) of row and column; 0 for the class token.

    Sines and cosines with the amplitude `strength`, as in "Attention Is All You Need" (§3.5): one half of the width encodes
    the row, the other half the column.
    """
    side, quarter = int(patches**0.5), width // 4
    rates = 100 ** (-torch.arange(quarter) / quarter)
    angles = torch.arange(side)[:, None] * rates  # (side, quarter)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = waves[:, None].expand(-1, side, -1), waves.expand(side, -1, -1)
    positions = torch.zeros(1, 1 + patches, width)
    positions[0, 1:, : 4 * quarter] = strength * torch.cat([rows, columns], dim=2).flatten(0, 1)
    return positions
