"""The order of the pairs."""

from __future__ import annotations

from image_text_embedding.training.data.batch_loading import BatchOrder


class TestBatchOrder:
    def test_every_epoch_is_another_permutation(self) -> None:
        batches = list(BatchOrder(10, 4, 1, 0, 40))
        positions, indices = zip(*(pair for batch in batches for pair in batch))
        assert positions == tuple(range(40)) and {len(batch) for batch in batches} == {4}
        epochs = [indices[i : i + 10] for i in range(0, 40, 10)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len(set(epochs)) == 4
        assert list(BatchOrder(10, 4, 1, 12, 40)) == batches[3:]
        assert list(BatchOrder(10, 4, 2, 0, 40)) != batches
