"""The Towhee operators for videos, named as Towhee's hub names such operators: `ops.video_text_embedding.blip(...)`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.tasks.task_settings import check_setting_names, setting_names
from image_text_embedding.interfaces.towhee_operators.operators import ModelOperator
from image_text_embedding.interfaces.towhee_operators.towhee_api import Image

VIDEO_MODALITIES = ("video", "text")


class VideoEmbeddingOperator(ModelOperator):
    """One tower of one model of pictures: takes videos or texts, returns vectors of length 1.

    Args:
        model_name, device, checkpoint_path: as in `ModelOperator`.
        modality: "video" or "text", as in the hub's operators; the other tower is not loaded.
        frames: how many frames stand for a video. None = all that a list has (a pipeline's decoder has chosen them), and 8
            of a file.

    Raises:
        UnknownModelError, InputError, WeightsError: as `ModelOperator`; also an unknown modality.
    """

    namespace = "video_text_embedding"
    task = "embed"
    output_name = "vec"

    def __init__(
        self,
        model_name: str,
        modality: str,
        device: Any = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        frames: int | None = None,
    ) -> None:
        self._resolve_name(model_name)  # checked first, because it is the first argument
        if modality not in VIDEO_MODALITIES:
            raise InputError(
                f"modality: expected 'video' or 'text', got {modality!r}{did_you_mean(str(modality), VIDEO_MODALITIES)}"
            )
        self.modality = "image" if modality == "video" else "text"
        self.frames = frames
        super().__init__(model_name, device, checkpoint_path)

    def __call__(self, data: Any) -> Any:
        """A video or a text -> a vector, (D,) float32. A list of videos or of texts -> a list of vectors.

        Args:
            data: for "video" what `Encoder.encode_video` takes: a list of Towhee's VideoFrames is one video, a path or URL
                another; for "text" a string.

        Raises:
            VideoError, ImageError, TextError: an item cannot be used; `.index` is its index in the list.
        """
        if self.modality == "image":
            vectors = self.encoder.encode_video(data, self.frames, show_progress_bar=False)
        else:
            vectors = self.encoder.encode_text(data, show_progress_bar=False)
        return list(vectors) if vectors.ndim == 2 else vectors

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's type and shape of the argument of one call: frames, or a text."""
        return [(Image, (-1, -1, -1, 3))] if self.modality == "image" else [(str, (1,))]

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of the result of one call: a float32 vector."""
        return [(np.float32, (self.encoder.dim,))]


class VideoMatchingOperator(ModelOperator):
    """The probability that a text matches a video (ITM). `settings` are keyword arguments of `Encoder.match_video`.

    frames: as in `VideoEmbeddingOperator`.
    """

    namespace = "video_text_matching"
    task = "match"
    output_name = "score"

    def __call__(self, video: Any, text: Any) -> Any:
        """A video and a text -> a float. Lists of both, or a list of one and one of the other -> a list of floats.

        With return_logits=True each float is instead a list of two: the logits of "no match" and "match".
        """
        settings = {"frames": None, **self.settings}
        scores = self.encoder.match_video(video, text, show_progress_bar=False, **settings)
        return scores if isinstance(scores, float) else scores.tolist()

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's types and shapes of the arguments of one call: frames and a text."""
        return [(Image, (-1, -1, -1, 3)), (str, (1,))]

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of the result of one call: a probability."""
        return [(float, (1,))]

    @classmethod
    def _checked(cls, settings: dict[str, Any]) -> dict[str, Any]:
        check_setting_names(settings, [*setting_names("match"), "frames"])
        return settings
