"""The Towhee operators, one class per task; each model family derives its own classes from these.

An operator is thin: `__init__` calls `load`, `__call__` calls a method of the encoder. Nothing here imports torch until an
operator is built.
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
from image_text_embedding.foundation.optional_imports import import_package
from image_text_embedding.inference.tasks.task_settings import check_setting_names, setting_names
from image_text_embedding.inputs.item_lists import is_single_picture
from image_text_embedding.interfaces.towhee_operators.towhee_api import Image, LegacyRegistry, NNOperator, SharedType
from image_text_embedding.models.config_files import list_models, model_config


class ModelOperator(NNOperator):
    """The base class of our operators: one model of a family, for one task.

    Thread-safe: many threads may call one instance at once. Instances of the same model share its weights.

    Args:
        model_name: one of `supported_model_names()`; `-` and `_` are equal.
        device: None = the device in the pipeline's config, else CUDA if there is a GPU, else the CPU.
        checkpoint_path: a file or folder with weights for `model_name`, instead of the official ones.
        settings: keyword arguments of the Encoder's method for this task.

    Raises:
        UnknownModelError: this family has no such model for this task; the message lists the names.
        InputError: an unknown device or setting.
        WeightsError: the weights are not available or do not fit the model.
    """

    namespace = ""  # the name in a pipeline is `ops.<namespace>.<family>`
    family = ""
    task = ""
    output_name = ""  # the name of the output in a chain of 0.9.0 that gives none
    formats: tuple[str, ...] = ("pytorch",)
    aliases: Mapping[str, str] = MappingProxyType({})  # names by which older pipelines call other models
    modality: str | None = None  # the only tower to load; None = both

    def __init__(
        self,
        model_name: str,
        device: Any = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.model_name = self._resolve_name(model_name)
        self.settings = self._checked(settings)
        if device is None and self._device_id >= 0:
            device = f"cuda:{self._device_id}"
        self.encoder = self._load(checkpoint=checkpoint_path, device=device)

    @property
    def shared_type(self) -> SharedType:
        """Shareable. 1.x assumes this; without it 0.9.0 builds one model per concurrent call."""
        return SharedType.Shareable

    @classmethod
    def supported_model_names(cls, format: str | None = None) -> list[str]:
        """The family's models for this task; with a format, only those that `save_model` can write in it."""
        configs = [model_config(name) for name in list_models()] if format in (None, *cls.formats) else []
        names = [config.name for config in configs if config.family == cls.family and cls.task in config.tasks]
        return [name for name in names if name not in cls.aliases]

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's types and shapes of the arguments of one call: a picture and a text."""
        return [(Image, (-1, -1, 3)), (str, (1,))]

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of the result of one call: a text."""
        return [(str, (1,))]

    def _load(self, **options: Any) -> Any:
        # Imported here, so that registering does not import torch.
        from image_text_embedding.inference.loading import load

        return load(self.model_name, modality=self.modality, **options)

    @classmethod
    def _resolve_name(cls, model_name: Any) -> str:
        name = str(model_name).replace("-", "_")
        name = cls.aliases.get(name, name)
        supported = cls.supported_model_names()
        if name in supported:
            return name
        if name in list_models():
            config = model_config(name)
            why = f"cannot {cls.task}" if config.family == cls.family else f"is of the family {config.family!r}"
            fits_other_family = config.family != cls.family and cls.task in config.tasks
            instead = f"{cls.namespace}.{config.family}(model_name={name!r}, ...), or " if fits_other_family else ""
            raise UnknownModelError(f"{name!r} {why}: use {instead}one of {', '.join(supported)}.")
        raise UnknownModelError(
            f"unknown model {model_name!r}{did_you_mean(name, supported)} "
            f"Models of {cls.family} that {cls.task}: {', '.join(supported)}."
        )

    @classmethod
    def _checked(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings. Unknown names are an error when the pipeline is built, not only when it runs."""
        check_setting_names(settings, [*setting_names(cls.task), *(["prompt"] if cls.task == "caption" else [])])
        return settings


class EmbeddingOperator(ModelOperator):
    """One tower of one model: takes pictures or texts, returns vectors of length 1.

    `towhee.build_pipeline_model` writes the tower as ONNX for a Triton server. There the operator sends its requests to that
    server and loads no weights.

    Args:
        model_name, device, checkpoint_path: as in `ModelOperator`.
        modality: "image" or "text"; the other tower is not loaded.
        backend, precision: how the tower is computed, as in `load`.
        max_wait: seconds that a call with one item waits for calls of other threads (`pipe.batch(...)`, a server), to compute
            them together; 0 = do not wait.

    Raises:
        UnknownModelError, InputError, WeightsError: as `ModelOperator`; also an unknown modality, backend or precision.
        SetupError: the backend is not installed.
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
        self._resolve_name(model_name)  # checked first, because it is the first argument
        if modality not in MODALITIES:
            raise InputError(
                f"modality: expected 'image' or 'text', got {modality!r}{did_you_mean(str(modality), MODALITIES)}"
            )
        self.modality = modality
        self.backend, self.precision = backend, precision
        super().__init__(model_name, device, checkpoint_path)
        self._batching_encoder = self.encoder.coalesce(max_wait=max_wait) if max_wait else None

    def _load(self, **options: Any) -> Any:
        # 0.9.0 has no Triton, and get_accelerator fails there outside of a pipe.
        if LegacyRegistry is None:
            towhee_runtime = import_package("towhee.runtime.runtime_conf")
            if towhee_runtime.get_accelerator() is not None:
                from image_text_embedding.inference.loading import load_served

                tower = towhee_runtime.accelerate(super()._load)()  # loads nothing: this is the server's client
                checkpoint = options["checkpoint"]
                folder = Path(checkpoint) if checkpoint is not None and Path(checkpoint).is_dir() else None
                return load_served(model_config(self.model_name), tower, str(self.modality), folder)
        return super()._load(**options, backend=self.backend, precision=self.precision)

    @property
    def supported_formats(self) -> list[str]:
        """The formats in which Triton can serve the tower. (A property, as in all operators of Towhee's hub.)"""
        return ["onnx"]

    def save_model(self, format: str = "pytorch", path: str | os.PathLike[str] = "default") -> str:
        """Write the tower to a file.

        Args, Returns, Raises:
            as `inference.backends.tower_export.save_tower`.
        """
        from image_text_embedding.inference.backends.tower_export import save_tower

        return str(save_tower(self.encoder.runtime, str(self.modality), format, path))

    def __call__(self, data: Any) -> Any:
        """One item -> a vector, (D,) float32. A list -> a list of vectors, as Towhee's own embedding operators do.

        Args:
            data: for "image" any picture that `Encoder.encode_image` takes: a Towhee Image or VideoFrame (its mode is
                respected), an array, a PIL image, a path, a URL or encoded bytes; for "text" a string; or a list of them.

        Raises:
            ImageError, TextError: an item cannot be used; `.index` is its index in the list.
        """
        encoder = self._batching_encoder or self.encoder
        encode = encoder.encode_image if self.modality == "image" else encoder.encode_text
        vectors = encode(data, show_progress_bar=False)
        return list(vectors) if isinstance(data, (list, tuple)) else vectors

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's type and shape of the argument of one call."""
        return [(Image, (-1, -1, 3))] if self.modality == "image" else [(str, (1,))]

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of the result of one call: a float32 vector."""
        return [(np.float32, (self.encoder.dim,))]


class MatchingOperator(ModelOperator):
    """The probability that a text matches a picture (ITM). `settings` are keyword arguments of `Encoder.match`."""

    namespace = "image_text_matching"
    task = "match"
    output_name = "score"

    def __call__(self, image: Any, text: Any) -> Any:
        """A picture and a text -> a float. Lists of both, or a list of one and one of the other -> a list of floats.

        With return_logits=True each float is instead a list of two: the logits of "no match" and "match".
        """
        scores = self.encoder.match(image, text, show_progress_bar=False, **self.settings)
        return scores if isinstance(scores, float) else scores.tolist()

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of the result of one call: a probability."""
        return [(float, (1,))]


class CaptioningOperator(ModelOperator):
    """A sentence that describes a picture. `settings` are keyword arguments of `Encoder.caption`: prompt, num_beams, ...

    `blip_base` and `blip_large` mean the models fine-tuned for captioning, as in the hub's operator (which used pictures of
    384 pixels).
    """

    namespace = "image_captioning"
    task = "caption"
    output_name = "text"
    aliases = MappingProxyType({"blip_base": "blip_caption_base", "blip_large": "blip_caption_large"})

    def __call__(self, image: Any) -> Any:
        """A picture -> a string; a list -> a list of strings. With num_return_sequences > 1, a list per picture."""
        return self.encoder.caption(image, show_progress_bar=False, **self.settings)

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's type and shape of the argument of one call."""
        return [(Image, (-1, -1, 3))]


class AnsweringOperator(ModelOperator):
    """The answer to a question about a picture. `settings` are keyword arguments of `Encoder.answer`: choices, ..."""

    namespace = "visual_question_answering"
    task = "answer"
    output_name = "answer"

    def __call__(self, image: Any, question: Any) -> Any:
        """A picture and a question -> a string; lists of them -> a list. With choices, the result of `Encoder.answer`."""
        return self.encoder.answer(image, question, show_progress_bar=False, **self.settings)


class EntailmentOperator(ModelOperator):
    """Whether a picture entails a hypothesis (SNLI-VE)."""

    namespace = "visual_entailment"
    task = "entail"
    output_name = "probabilities"

    def __call__(self, image: Any, hypothesis: Any) -> Any:
        """A picture and a hypothesis -> the result of `Encoder.entail`, a dictionary; lists of them -> a list of these."""
        return self.encoder.entail(image, hypothesis, show_progress_bar=False, **self.settings)

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of the result of one call: a dictionary of three probabilities."""
        return [(dict, (3,))]


class GroundingOperator(ModelOperator):
    """Where in a picture a phrase is seen, with the matching head: `Encoder.ground`."""

    namespace = "visual_grounding"
    task = "match"
    output_name = "grounding"

    def __call__(self, image: Any, phrase: Any, boxes: Any = None) -> Any:
        """A picture, a phrase and, optionally, candidate boxes -> a `Grounding`; lists of them -> a list."""
        return self.encoder.ground(image, phrase, boxes, show_progress_bar=False, **self.settings)

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's types and shapes of the arguments of one call: a picture, a text, boxes."""
        return [*super().input_schema(), (np.float32, (-1, 4))]

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of the result of one call: an object with the box and the map."""
        return [(object, (1,))]

    @classmethod
    def _checked(cls, settings: dict[str, Any]) -> dict[str, Any]:
        check_setting_names(settings, setting_names("ground"))
        return settings


class ReasoningOperator(ModelOperator):
    """The probability that a statement about two pictures is true (NLVR2)."""

    namespace = "visual_reasoning"
    task = "reason"
    output_name = "score"

    def __call__(self, left: Any, right: Any, statement: Any) -> Any:
        """Two pictures and a statement -> a float. Lists of all three -> a list of floats.

        Raises:
            InputError: there are not as many left as right pictures.
        """
        one = is_single_picture(left)
        if one is not is_single_picture(right) or (not one and len(left) != len(right)):
            raise InputError("expected a left and a right picture, or equally long lists of them")
        pairs = (left, right) if one else list(zip(left, right))
        scores = self.encoder.reason(pairs, statement, show_progress_bar=False, **self.settings)
        return scores if isinstance(scores, float) else scores.tolist()

    def input_schema(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Towhee's types and shapes of the arguments of one call: two pictures and a text."""
        return [(Image, (-1, -1, 3)), (Image, (-1, -1, 3)), (str, (1,))]

    def output_schema(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Towhee's type and shape of the result of one call: a probability."""
        return [(float, (1,))]
