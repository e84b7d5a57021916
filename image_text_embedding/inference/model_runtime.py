"""A loaded model on its device: its parts, loaded when they are first needed, and the picture states that they share.

torch is imported by what computes with it, not by this file: vectors that another backend computes need none of it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from collections.abc import Callable
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image_text_embedding.foundation.argument_checks import MODALITIES
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.decoding.jpeg.gpu_decoding import GpuJpegDecoder
from image_text_embedding.inputs.decoding.jpeg.reduced_size import SHOWN
from image_text_embedding.inputs.image_loading import decoded_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.pixels import normalize_pixels, resize_pixels, to_pixels, to_pixels_fast
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.inputs.video.video_loading import load_video
from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint, read_checkpoint, save_weights
from image_text_embedding.models.checkpoints.seen_pieces import SEEN_PIECES, pack_seen_pieces
from image_text_embedding.models.config import INITIAL_TEMPERATURE, TEMPERATURE_RANGE
from image_text_embedding.models.config_files import list_models, model_config
from image_text_embedding.models.devices import DTYPES, DeviceSpec
from image_text_embedding.models.forked_process import note_loaded_model, require_computing
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.models.networks.finite_values import require_finite

if TYPE_CHECKING:
    import torch
    from torch import nn

# Values of a batch that a device resizes at once: half a gigabyte in float32.
MAX_RESIZE_VALUES = 2**27


class ModelRuntime:
    """What `Encoder` and the tasks compute with. Safe to use from many threads at once."""

    def __init__(
        self,
        resolved: ResolvedModel,
        tokenizer: Tokenizer | None,
        device: DeviceSpec,
        torch_precision: str,
        modality: str | None,
        limits: Limits,
        seen_pieces: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            torch_precision: one of DTYPES, what torch's parts compute in.
            seen_pieces: bool (vocabulary,), the pieces that the model was trained on; None = not recorded.
        """
        self.config = resolved.config
        self.resolved = resolved
        self.device_spec = device
        self.torch_precision = torch_precision
        self.modality = modality
        self.limits = limits
        # Loaded at once. A captioning or answering checkpoint has one use, and no text tower.
        self.first_parts: tuple[str, ...] = ("image", *self.config.tasks)
        if modality is not None:
            self.first_parts = (modality,)
        elif "embed" in self.config.tasks:
            self.first_parts = MODALITIES
        # Parts in memory; encoders of the same model share them.
        self.parts: dict[str, nn.Module] = {}
        # Towers that compute vectors instead of the parts "image" and "text".
        self.compiled: dict[str, Any] = {}
        self._build_states: Callable[[ModelRuntime, str], Any] | None = None
        self._tokenizer = tokenizer
        self.seen_pieces = seen_pieces
        self._copying: torch.cuda.Stream | None = None
        self._guard = threading.Lock()
        self._loaded_in = note_loaded_model()

    def __reduce__(self) -> tuple[Any, ...]:
        raise InputError("a ModelRuntime cannot be pickled or copied: pickle or copy its Encoder")

    @cached_property
    def device(self) -> torch.device:
        """Where torch's parts are."""
        import torch

        return torch.device(str(self.device_spec))

    @cached_property
    def dtype(self) -> torch.dtype:
        """What torch's parts compute in."""
        import torch

        found: torch.dtype = getattr(torch, DTYPES[self.torch_precision])
        return found

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; a model loaded with modality="image" has none."""
        assert self._tokenizer is not None, "require() comes first"
        return self._tokenizer

    def require(self, task: str, modality: str | None = None) -> None:
        """Check, before anything is read, that the checkpoint can do a task and that the parts it needs were loaded.

        Raises:
            InputError: it cannot; the message names the models that can.
            ComputeError: this process was forked after the model was loaded, and cannot compute.
        """
        require_computing(self.device_spec, self._loaded_in)
        if task not in self.config.tasks:
            able = [name for name in list_models() if task in model_config(name).tasks]
            raise InputError(
                f"{self.config.name} cannot {task}: its checkpoint has heads for {', '.join(self.config.tasks)}. "
                f"Models that can {task}: {', '.join(able)}."
            )
        if self.modality not in (None, modality):
            raise InputError(
                f"this {self.config.name} was loaded with modality={self.modality!r} and has no "
                f"{modality or ('text' if self.modality == 'image' else 'image')} tower: load it with modality=None"
                + (f" or {modality!r}" if modality else "")
            )

    def part(self, name: str, read: Callable[[Path], Checkpoint] = read_checkpoint) -> Any:
        """One of the model's parts, loaded if it is not in memory.

        Raises:
            ComputeError: this process was forked after the model was loaded, and cannot compute.
        """
        require_computing(self.device_spec, self._loaded_in)
        if name not in self.parts:
            from image_text_embedding.models.part_cache import load_part

            self.parts[name] = load_part(name, self.resolved, self.device, self.dtype, read)
        return self.parts[name]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the parts in memory as our own safetensors: see `Encoder.save`."""
        import torch

        from image_text_embedding.models.part_cache import load_part

        # Where a backend other than torch computes the towers, these are not in memory yet, and the heads may be in bf16.
        dtype = torch.float32 if self._build_states is not None else self.dtype
        names = dict.fromkeys((*self.first_parts, *self.parts))
        parts = [load_part(name, self.resolved, self.device, dtype, read_checkpoint) for name in names]
        tensors = {name: value for part in parts for name, value in part.state_dict().items()}
        done = [task for task in self.config.tasks if task == "embed" or task in names]
        if "embed" in done:
            tensors["temp"] = torch.tensor(self.temperature)
        decodes = {"caption", "answer"} & set(done)
        config = dataclasses.replace(
            self.config,
            tasks=tuple(done),
            decoder=self.config.decoder if decodes else None,
            questions=self.config.questions if "answer" in done else None,
        )
        origin = {
            "source": self.resolved.source,
            "revision": self.resolved.revision,
            "sha256": self.resolved.sha256,
            "version": metadata.version("image-text-embedding"),
        }
        about: dict[str, Any] = {"config": dataclasses.asdict(config), "origin": origin}
        if self.seen_pieces is not None:
            about[SEEN_PIECES] = pack_seen_pieces(self.seen_pieces)
        return save_weights(path, tensors, about)

    def pixels(self, picture: Any) -> np.ndarray:
        """Any supported picture input -> uint8 (S, S, 3)."""
        with decoded_picture(picture, self.limits) as decoded:
            return to_pixels(decoded, self.config.vision.image_size)

    def pixels_fast(self, picture: Any) -> np.ndarray:
        """As `pixels`, but a JPEG is decoded at a reduced scale, at least twice the model's size, and torch resizes."""
        size = self.config.vision.image_size
        with decoded_picture(picture, self.limits, min_side=2 * size) as decoded:
            return to_pixels_fast(decoded, size)

    def pixels_unresized(self, picture: Any) -> np.ndarray:
        """As `pixels_fast` without the resizing, which the device does: uint8 (H, W, 3).

        A picture that its decoder could not shrink is resized here: a batch of large ones would take gigabytes. With
        torchcodec a GPU decodes JPEGs, and resizes each at once.
        """
        size = self.config.vision.image_size
        with decoded_picture(picture, self.limits, min_side=2 * size, gpu=self.gpu_decoder) as decoded:
            small = decoded.width * decoded.height <= (4 * size) ** 2
            whole = decoded.info.get(SHOWN, (0, 0, *decoded.size)) == (0, 0, *decoded.size)
            return np.array(decoded) if small and whole else to_pixels_fast(decoded, size)

    @cached_property
    def gpu_decoder(self) -> GpuJpegDecoder | None:
        """Decodes JPEGs for `decode="device"` on a GPU; None elsewhere."""
        if self.device_spec.type != "cuda":
            return None
        return GpuJpegDecoder(self.device, self.config.vision.image_size, resize_pixels)

    def frames(self, video: Any, frames: int | None) -> list[np.ndarray]:
        """Any supported video input -> uint8 (S, S, 3) of each frame that stands for it: see `load_video`."""
        return load_video(video, frames, self.limits, self.config.vision.image_size)

    @cached_property
    def temperature(self) -> float:
        """What divides cosines before a softmax: learned with the towers; the initial value if the file has none."""
        tensors = read_checkpoint(self.resolved.weights).tensors
        lowest, highest = TEMPERATURE_RANGE
        # Hugging Face's conversions lack it.
        return min(highest, max(lowest, float(tensors["temp"]))) if "temp" in list(tensors) else INITIAL_TEMPERATURE

    def states(self, pixels: list[np.ndarray]) -> torch.Tensor:
        """uint8 (S, S, 3) each -> (B, 1 + patches, width): the one vision pass that all heads share."""
        require_computing(self.device_spec, self._loaded_in)
        if self._build_states is not None:
            import torch

            tower = self.compiled.get("states") or self._compile_states()
            return torch.from_numpy(tower(self._square_array(pixels))).to(self.device, self.dtype)
        return self.part("image").states(self.values(pixels))

    def states_by(self, build: Callable[[ModelRuntime, str], Any], at_once: bool) -> None:
        """Let another backend than torch compute the states: `build(runtime, "states")`, at once or when they are needed."""
        self._build_states = build
        if at_once:
            self._compile_states()

    def _compile_states(self) -> Any:
        assert self._build_states is not None
        tower = self.compiled["states"] = self._build_states(self, "states")
        return tower

    def vectors(self, pixels: list[np.ndarray]) -> torch.Tensor | np.ndarray:
        """uint8 (S, S, 3), or of any size, each -> (B, D), not of unit length, by the backend that computes pictures.

        torch gives a tensor on its device, another backend an array.
        """
        require_computing(self.device_spec, self._loaded_in)
        if "image" in self.compiled:
            return self.compiled["image"](self._square_array(pixels))
        return self.part("image")(self.values(pixels))

    def text_vectors(self, rows: list[list[int]]) -> torch.Tensor | np.ndarray:
        """Token ids of each text -> (B, D), not of unit length, as `vectors`, by the backend that computes texts."""
        require_computing(self.device_spec, self._loaded_in)
        if "text" in self.compiled:
            return self.compiled["text"](*self._padded_arrays(rows))
        return self.part("text")(*self.padded(rows))

    def require_finite(self, values: torch.Tensor) -> torch.Tensor:
        """The values, unchanged.

        Raises:
            ComputeError: a value is NaN or infinite.
        """
        return require_finite(values, self.dtype)

    def unit_vectors_of_states(self, states: torch.Tensor) -> torch.Tensor:
        """Picture states (B, 1 + patches, width) -> unit vectors (B, D) float32, for tasks that need the states as well.

        Raises:
            ComputeError: a vector is not finite.
        """
        from torch.nn import functional as F

        return self.require_finite(F.normalize(self.part("image").project(states).float(), dim=-1))

    def unit_text_vectors(self, rows: list[list[int]]) -> torch.Tensor:
        """Token ids of each text -> unit vectors (B, D) float32.

        Raises:
            ComputeError: a vector is not finite.
        """
        import torch
        from torch.nn import functional as F

        vectors = torch.as_tensor(self.text_vectors(rows), device=self.device)
        return self.require_finite(F.normalize(vectors.float(), dim=-1))

    def values(self, pixels: list[np.ndarray]) -> torch.Tensor:
        """uint8 (S, S, 3), or of any size, each -> what the image tower takes, (B, 3, S, S) on the device."""
        vision = self.config.vision
        return normalize_pixels(self._square(pixels, self.device), vision.mean, vision.std).to(self.dtype)

    def _square_array(self, pixels: list[np.ndarray]) -> np.ndarray:
        """uint8 (B, S, S, 3) for a compiled tower. Only pictures of other sizes need torch, which resizes them."""
        size = self.config.vision.image_size
        if all(picture.shape == (size, size, 3) for picture in pixels):
            return np.stack(pixels)
        import torch

        return self._square(pixels, torch.device("cpu")).numpy()

    def _square(self, pixels: list[np.ndarray], device: torch.device) -> torch.Tensor:
        """uint8 (B, S, S, 3) on a device. The device resizes pictures of other sizes, those of one size together."""
        import torch

        size = self.config.vision.image_size
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pixels):
            shapes.setdefault(picture.shape, []).append(index)
        if list(shapes) == [(size, size, 3)]:
            return self._upload(pixels, device)
        square = torch.empty(len(pixels), size, size, 3, dtype=torch.uint8, device=device)
        for shape, indices in shapes.items():
            chunk_size = max(1, MAX_RESIZE_VALUES // math.prod(shape))
            for start in range(0, len(indices), chunk_size):
                chunk = indices[start : start + chunk_size]
                square[chunk] = resize_pixels(self._upload([pixels[index] for index in chunk], device), size)
        return square

    def _upload(self, pixels: list[np.ndarray], device: torch.device) -> torch.Tensor:
        """Pictures of one size as uint8 (B, H, W, 3) on a device.

        From pinned memory a GPU copies them while it computes the previous batch.
        """
        import torch

        if device.type != "cuda":
            return torch.from_numpy(np.stack(pixels)).to(device)
        pinned = torch.empty((len(pixels), *pixels[0].shape), dtype=torch.uint8, pin_memory=True)
        np.stack(pixels, out=pinned.numpy())
        computing = torch.cuda.current_stream(device)
        with self._guard:
            if self._copying is None:
                self._copying = torch.cuda.Stream(device)
        with torch.cuda.stream(self._copying):
            uploaded = pinned.to(device, non_blocking=True)
        computing.wait_stream(self._copying)
        uploaded.record_stream(computing)
        return uploaded

    @property
    def pictures_at_once(self) -> int:
        """The largest useful batch of pictures.

        On a CPU it keeps the widest activations within 32 MiB: these stay near the caches, and the allocator reuses such
        blocks instead of requesting new pages from the system in every layer. (Measured on a base block at 384 px on one
        core: batches of 4 pictures take 3.5% less time than batches of 16, and memory does not grow.)
        """
        if self.device_spec.type != "cpu":
            return 2**31
        vision = self.config.vision
        tokens = 1 + (vision.image_size // vision.patch_size) ** 2
        return max(1, 2**25 // (tokens * 4 * vision.width * 4))

    def padded(self, rows: list[list[int]], first: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids of unequal length -> ids and mask, both (B, longest), 1 = a real token.

        Args:
            first: an id that takes the place of each row's first one, such as [ENC] that of [CLS].
        """
        import torch

        rows = rows if first is None else [[first, *row[1:]] for row in rows]
        ids, mask = map(torch.from_numpy, self._padded_arrays(rows))
        return ids.to(self.device), mask.to(self.device)

    def _padded_arrays(self, rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """As `padded`, int64 arrays."""
        longest = max(map(len, rows))
        ids = [row + [self.tokenizer.pad_id] * (longest - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        return np.array(ids, dtype=np.int64), np.array(mask, dtype=np.int64)
