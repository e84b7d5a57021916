"""Videos: vectors, matching and re-ranking by a few frames, with a model of pictures (official `eval_retrieval_video.py`)."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import ComputeError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import PictureTextBatches, require_texts
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.inputs.item_lists import ItemErrors, progress_bar, snapshot_pictures
from image_text_embedding.inputs.prefetch import prefetch_batches
from image_text_embedding.inputs.video.video_loading import DEFAULT_FRAMES, is_single_video
from image_text_embedding.models.networks.finite_values import not_finite

if TYPE_CHECKING:
    import torch

DEFAULT_BATCH = 4  # videos, of eight frames each
PICTURES_AT_ONCE = 64  # frames in one pass of the vision transformer at most; a CPU takes fewer


class VideoTextBatches(PictureTextBatches):
    """Videos and the texts of each; the states of a video's frames follow each other: (B, T * (1 + patches), width)."""

    unit, item = "videos", "video"

    def __init__(
        self, runtime: ModelRuntime, videos: Any, on_error: str, frames: int | None = DEFAULT_FRAMES, **texts: Any
    ) -> None:
        self.frames = frames
        super().__init__(runtime, videos, on_error, **texts)

    def listed(self, images: Any) -> tuple[bool, list[Any]]:
        """Whether the argument is a single video, and the videos as a list."""
        return listed_videos(images)

    def read(self, picture: Any) -> list[np.ndarray]:
        """The pixels of a video's frames."""
        return self.runtime.frames(picture, self.frames)

    def alike(self, group: list[tuple[Any, Any]]) -> list[list[tuple[Any, Any]]]:
        """Videos with equally many frames together."""
        lengths = dict.fromkeys(len(frames) for _, frames in group)
        return [[pair for pair in group if len(pair[1]) == length] for length in lengths]

    def states(self, read: list[Any]) -> torch.Tensor:
        """Videos with equally many frames -> the states of the frames, one after the other, as one context for texts."""
        import torch

        size = min(PICTURES_AT_ONCE, self.runtime.pictures_at_once)
        pixels = [frame for frames in read for frame in frames]
        parts = [self.runtime.states(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        return torch.cat(parts).unflatten(0, (len(read), -1)).flatten(1, 2)

    def unit_vectors(self, states: torch.Tensor) -> torch.Tensor:
        """States as `states` returns them -> vectors of unit length (B, D), as those of `encode_video`."""
        from torch.nn import functional as F

        vision = self.runtime.config.vision
        frames = states.unflatten(1, (-1, 1 + (vision.image_size // vision.patch_size) ** 2)).flatten(0, 1)
        vectors = self.runtime.part("image").project(frames).float().unflatten(0, (len(states), -1)).mean(1)
        return self.runtime.require_finite(F.normalize(vectors, dim=-1))


def listed_videos(videos: Any) -> tuple[bool, list[Any]]:
    """Whether an argument is a single video, and the videos as a list that can be read later."""
    if is_single_video(videos):
        return True, [videos]
    listed = snapshot_pictures(videos, "videos")
    return (True, [listed]) if is_single_video(listed) else (False, listed)


def encode_videos(
    runtime: ModelRuntime,
    videos: Any,
    frames: int | None,
    batch_size: int,
    show: bool | None,
    convert_to_tensor: bool,
    on_error: str,
) -> Any:
    """See `VideoTasks.encode_video`."""
    import torch
    from torch.nn import functional as F

    runtime.require("embed", "image")
    batch_size = require_integer("batch_size", batch_size)
    one, listed = listed_videos(videos)
    failures = ItemErrors(on_error, one)
    found = torch.full((len(listed), runtime.config.embed_dim or 0), float("nan"), device=runtime.device)
    size = min(PICTURES_AT_ONCE, runtime.pictures_at_once)
    reading = prefetch_batches(enumerate(listed), lambda video: runtime.frames(video, frames), batch_size, failures)
    with torch.inference_mode(), progress_bar(len(listed), "video", show) as bar, closing(reading) as groups:
        for group in groups:
            pixels = [frame for _, read in group for frame in read]
            parts = [runtime.vectors(pixels[start : start + size]) for start in range(0, len(pixels), size)]
            vectors = torch.cat([torch.as_tensor(part, device=runtime.device).float() for part in parts])
            for (index, _), of_frames in zip(group, vectors.split([len(read) for _, read in group])):
                # The mean of the projections as they are, not of unit vectors: longer ones count for more.
                mean = of_frames.mean(0)
                if not bool(mean.isfinite().all()):
                    error = ComputeError(f"item {index}: the image tower {not_finite(runtime.dtype)}")
                    if not failures.skip:
                        raise error
                    failures.errors.append((index, error))
                    continue
                found[index] = F.normalize(mean, dim=-1)
            bar.update(len(group))
    result: Any = found[0] if one else found
    return failures.result(result if convert_to_tensor else result.cpu().numpy())


class VideoTasks:
    """What an `Encoder` does with videos.

    A video is a path, an http(s) or data: URL, encoded bytes, an open binary file, a list of its frames (pictures, such as
    the frames that Towhee decodes), or an array (T, H, W, 3). Several are a list of these, or an array (N, T, H, W, 3). A
    list of arrays or PIL images is one video, a list of strings is a list of videos; for paths of frames, [[path, ...]].

    frames: how many frames stand for a video; the paper takes 8. They are equally far apart, as in the official code: frame i
    is i * (n // frames) of n. None = all of a list or an array, and 8 of a file.

    Reading files needs the extra `video`.
    """

    runtime: ModelRuntime

    def encode_video(
        self,
        videos: Any,
        frames: int | None = DEFAULT_FRAMES,
        batch_size: int = DEFAULT_BATCH,
        show_progress_bar: bool | None = None,
        *,
        convert_to_tensor: bool = False,
        on_error: str = "raise",
    ) -> Any:
        """Vectors of videos, comparable to those of texts and pictures: the mean of the frames', made a unit vector.

        Returns:
            float32 (D,) for one video, (N, D) for many, (0, D) for none.

        Raises:
            VideoError: a video is damaged, too large, too slow to decode, without frames, or none.
            SetupError: the extra `video` is not installed.
        """
        return encode_videos(self.runtime, videos, frames, batch_size, show_progress_bar, convert_to_tensor, on_error)

    def match_video(
        self,
        videos: Any,
        texts: Any,
        frames: int | None = DEFAULT_FRAMES,
        batch_size: int = DEFAULT_BATCH,
        show_progress_bar: bool | None = None,
        *,
        itm_token: str = "enc",
        return_logits: bool = False,
        on_error: str = "raise",
    ) -> Any:
        """Probabilities that texts describe videos: the matching head reads the states of all frames at once.

        Arguments, results and errors are those of `Encoder.match` and `encode_video`.
        """
        from image_text_embedding.inference.tasks.matching import match

        given = VideoTextBatches(self.runtime, videos, on_error, frames, texts=require_texts("texts", texts))
        return match(given, MatchSettings(itm_token, return_logits), batch_size, show_progress_bar)

    def rerank_video(
        self,
        query: Any,
        candidates: Any,
        k: int = 128,
        frames: int | None = DEFAULT_FRAMES,
        batch_size: int = DEFAULT_BATCH,
        show_progress_bar: bool | None = None,
        *,
        modality: str | None = None,
        itm_token: str = "enc",
        on_error: str = "raise",
    ) -> Any:
        """`Encoder.rerank` over videos: a text finds videos, or a video finds texts.

        Args:
            k: how many are re-ranked, and stay in memory: those of a base model at 384 pixels take 14 MB each.
            modality: what the query is, "text" or "video". None: whatever is no string, or is a URL or an existing file, is a
                video.
        """
        from image_text_embedding.inference.tasks.reranking import rerank

        given = VideoTextBatches(self.runtime, candidates, on_error, frames)
        return rerank(given, query, k, modality, MatchSettings(itm_token), batch_size, show_progress_bar)
