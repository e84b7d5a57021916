"""What the Towhee operators of every family share, one class per task.

An operator is thin: `encoder.load` in `__init__`, a method of the encoder in `__call__`. Nothing here imports
torch before an operator is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from image_text_embedding.foundation.argument_checks import MODALITIES
from image_text_embedding.foundation.errors import InputError, UnknownModelError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.interfaces.towhee_operators.towhee_api import Image, LegacyRegistry, NNOperator, SharedType
from image_text_embedding.models.config_files import list_models, model_config


class ModelOperator(NNOperator):
    """What our operators have in common: one model of a family, for one task.

    Shareable: one instance may be called from many threads at once. Instances of one model share its weights.

    Args:
        model_name: one of `supported_model_names()`; `-` and `_` are equal.
        device: None = the device that the pipeline's config names, else CUDA where there is one, else the CPU.
        checkpoint_path: a file or folder with weights for `model_name`, instead of the official ones.
        settings: keywords of the Encoder's method for this task.

    Raises:
        UnknownModelError: no such model in this family for this task; the message lists the names.
        InputError: an unknown device or setting.
        WeightsError: the weights cannot be had or do not fit.
    """

    namespace = ""  # of its name in a pipeline: `ops.<namespace>.<family>`
    family = ""
    task = ""
    output_name = ""  # what the output is called in a chain of 0.9.0 that names none
    formats: tuple[str, ...] = ("pytorch",)
    aliases: Mapping[str, str] = MappingProxyType({})  # names with which older pipelines mean another model
    modality: str | None = None  # the one tower that is needed; None = both

    def __init__(
        self,
        model_name: str,
        device: Any = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.model_name = self._known(model_name)
        self.settings = self._checked(settings)
        if device is None and self._device_id >= 0:
            device = f"cuda:{self._device_id}"
        self.encoder = self._load(checkpoint=checkpoint_path, device=device)

    @property
    def shared_type(self) -> SharedType:
        """Shareable, which 1.x assumes and 0.9.0 does not: it would build one model for each concurrent call."""
        return SharedType.Shareable

    @classmethod
    def supported_model_names(cls, format: str | None = None) -> list[str]:
        """The family's models for this task, and of them those that `save_model` writes in a format."""
        configs = [model_config(name) for name in list_models()] if format in (None, *cls.formats) else []
        able = [config.name for config in configs if config.family == cls.family and cls.task in config.tasks]
        return [name for name in able if name not in cls.aliases]

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's types and shapes of what one call takes: a picture and a text."""
        return [(Image, (-1, -1, 3)), (str, (1,))]

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of what one call gives: a text."""
        return [(str, (1,))]

    def _load(self, **how: Any) -> Any:
        from image_text_embedding.inference.loading import load  # here, so that registering does not import torch

        return load(self.model_name, modality=self.modality, **how)

    @classmethod
    def _known(cls, model_name: Any) -> str:
        name = str(model_name).replace("-", "_")
        name = cls.aliases.get(name, name)
        ours = cls.supported_model_names()
        if name in ours:
            return name
        if name in list_models():
            config = model_config(name)
            why = f"cannot {cls.task}" if config.family == cls.family else f"is of the family {config.family!r}"
            other = config.family != cls.family and cls.task in config.tasks
            instead = f"{cls.namespace}.{config.family}(model_name={name!r}, ...), or " if other else ""
            raise UnknownModelError(f"{name!r} {why}: use {instead}one of {', '.join(ours)}.")
        raise UnknownModelError(
            f"unknown model {model_name!r}{did_you_mean(name, ours)} Models of {cls.family} that {cls.task}: {', '.join(ours)}."
        )

    @classmethod
    def _checked(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings whose names are checked when the pipeline is built, and not when it runs."""
        if settings:
            from image_text_embedding.inference.tasks.task_settings import SETTINGS

            known = [*SETTINGS[cls.task], *(["prompt"] if cls.task == "caption" else [])]
            for name in settings:
                if name not in known:
                    raise InputError(
                        f"unknown setting {name!r}{did_you_mean(name, known)} Settings: {', '.join(known)}."
                    )
        return settings


class EmbeddingOperator(ModelOperator):
    """One tower of one model: pictures or texts in, vectors of unit length out.

    `towhee.build_pipeline_model` writes its tower as ONNX for a Triton server; there the operator asks that server for
    vectors, and loads no weights.

    Args:
        modality: "image" or "text"; the other tower is not loaded.
        backend, precision: what computes the tower, as in `load`.
        model_name, device, checkpoint_path: as in `ModelOperator`, whose errors it raises.
        max_wait: seconds that a call with one item waits for others, so that those of many threads (`pipe.batch(...)`, a
            server) are computed together; 0 = each by itself.
    """

    namespace = "image_text_embedding"
    task = "embed"
    output_name = "vec"
    formats = ("pytorch", "torchscript", "onnx")

    def __init__(
        self,
        model_name: str,
        modality: str,
        device: Any = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        backend: str = "torch",
        precision: str | None = None,
        max_wait: float = 0,
    ) -> None:
        self._known(model_name)  # first, as it comes first
        if modality not in MODALITIES:
            raise InputError(
                f"modality: expected 'image' or 'text', got {modality!r}{did_you_mean(str(modality), MODALITIES)}"
            )
        self.modality = modality
        self.backend, self.precision = backend, precision
        super().__init__(model_name, device, checkpoint_path)
        self._coalesced = self.encoder.coalesce(max_wait=max_wait) if max_wait else None

    def _load(self, **how: Any) -> Any:
        if LegacyRegistry is None:  # 0.9.0 has no Triton, and fails when it is asked for one outside of a pipe
            from towhee.runtime.runtime_conf import accelerate, get_accelerator

            if get_accelerator() is not None:
                from image_text_embedding.inference.loading import load_served

                tower = accelerate(super()._load)()  # loads nothing: it is the server's client
                checkpoint = how["checkpoint"]
                folder = Path(checkpoint) if checkpoint is not None and Path(checkpoint).is_dir() else None
                return load_served(model_config(self.model_name), tower, str(self.modality), folder)
        return super()._load(**how, backend=self.backend, precision=self.precision)

    @property
    def supported_formats(self) -> list[str]:
        """The formats in which Triton can serve the tower. (A property in every operator of Towhee's hub.)"""
        return ["onnx"]

    def save_model(self, format: str = "pytorch", path: str | os.PathLike[str] = "default") -> str:
        """Write the tower: `saving.save_tower`, whose formats, default path and errors these are.

        Returns:
            the path.
        """
        from image_text_embedding.inference.backends.tower_export import save_tower

        return str(save_tower(self.encoder.runtime, str(self.modality), format, path))

    def __call__(self, data: Any) -> Any:
        """One item -> a vector, (D,) float32. A list -> a list of vectors, as Towhee's own embedding operators do.

        Args:
            data: for "image" whatever `Encoder.encode_image` takes: a Towhee Image or VideoFrame (its mode is
                honoured), an array, a PIL image, a path, a URL, encoded bytes; for "text" a string; or a list of them.

        Raises:
            ImageError, TextError: an item cannot be used; `.index` is its place in a list.
        """
        model = self._coalesced or self.encoder
        encode = model.encode_image if self.modality == "image" else model.encode_text
        vectors = encode(data, show_progress_bar=False)
        return list(vectors) if isinstance(data, (list, tuple)) else vectors

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's type and shape of what one call takes."""
        return [(Image, (-1, -1, 3))] if self.modality == "image" else [(str, (1,))]

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of what one call gives: a float32 vector."""
        return [(np.float32, (self.encoder.dim,))]


class MatchingOperator(ModelOperator):
    """The probability that a text says what a picture shows. `settings` are keywords of `Encoder.match`."""

    namespace = "image_text_matching"
    task = "match"
    output_name = "score"

    def __call__(self, image: Any, text: Any) -> Any:
        """A picture and a text -> a float. Lists of both, or a list of one and one of the other -> a list of floats."""
        scores = self.encoder.match(image, text, show_progress_bar=False, **self.settings)
        return scores if isinstance(scores, float) else scores.tolist()

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of what one call gives: a probability."""
        return [(float, (1,))]


class CaptioningOperator(ModelOperator):
    """A sentence that says what a picture shows. `settings` are keywords of `Encoder.caption`: prompt, num_beams, ...

    `blip_base` and `blip_large` mean the models that were fine-tuned to caption, as they did in the hub's operator (which
    took pictures of 384 pixels).
    """

    namespace = "image_captioning"
    task = "caption"
    output_name = "text"
    aliases = MappingProxyType({"blip_base": "blip_caption_base", "blip_large": "blip_caption_large"})

    def __call__(self, image: Any) -> Any:
        """A picture -> a string; a list -> a list of strings. With num_return_sequences > 1, lists in their place."""
        return self.encoder.caption(image, show_progress_bar=False, **self.settings)

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's type and shape of what one call takes."""
        return [(Image, (-1, -1, 3))]


class AnsweringOperator(ModelOperator):
    """The answer to a question about a picture. `settings` are keywords of `Encoder.answer`: choices, num_beams, ..."""

    namespace = "visual_question_answering"
    task = "answer"
    output_name = "answer"

    def __call__(self, image: Any, question: Any) -> Any:
        """A picture and a question -> a string; lists of them -> a list. With choices, what `Encoder.answer` gives."""
        return self.encoder.answer(image, question, show_progress_bar=False, **self.settings)
