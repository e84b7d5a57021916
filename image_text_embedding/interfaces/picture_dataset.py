"""`PictureDataset`: pictures for torch's `DataLoader`, decoded in its workers, which get no copy of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from image_text_embedding.foundation.errors import EmbeddingError, at_index
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inputs.image_loading import decoded_picture
from image_text_embedding.inputs.item_lists import snapshot_pictures
from image_text_embedding.inputs.pixels import to_pixels


class PictureReader:
    """A picture -> uint8 (S, S, 3), the pixels that the model computes: all that workers need of a model.

    Args:
        encoder: whose size and limits of pictures apply.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._size, self._limits = encoder.config.vision.image_size, encoder.runtime.limits

    def __call__(self, picture: Any) -> np.ndarray:
        with decoded_picture(picture, self._limits) as decoded:
            return to_pixels(decoded, self._size)


class PictureDataset(Dataset[np.ndarray]):
    """Pictures as the pixels that a model computes; `Encoder.encode_image` gives for these the vectors of the pictures.

        for pixels in DataLoader(PictureDataset(paths, model), batch_size=64, num_workers=8):
            vectors = model.encode_image(pixels.numpy())

    Args:
        pictures: paths, URLs, or whatever else `Encoder.encode_image` takes.
        encoder: the model, of which only the size and limits of pictures are kept.
    """

    def __init__(self, pictures: Iterable[Any], encoder: Encoder) -> None:
        self._pictures = snapshot_pictures(pictures, "pictures")
        self._read = PictureReader(encoder)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 (S, S, 3).

        Raises:
            ImageError: the picture cannot be used; the message names its index.
        """
        try:
            return self._read(self._pictures[index])
        except EmbeddingError as error:
            raise at_index(error, index) from error.__cause__
