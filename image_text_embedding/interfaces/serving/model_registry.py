"""The models that a service offers, each with its queue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.interfaces.serving.computing.compute_queue import ComputeQueue
from image_text_embedding.interfaces.serving.errors import ServingError


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model and its queue; `name` is what requests call it."""

    name: str
    encoder: Encoder
    queue: ComputeQueue


class ModelRegistry:
    """The served models by name. A request that names none gets the first that can do its task.

    Raises:
        InputError: two models have the same name.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models: dict[str, ServedModel] = {}
        for model in models:
            if _key(model.name) in self._models:
                raise InputError(f"expected models of different names, got {model.name!r} twice")
            self._models[_key(model.name)] = model

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def named(self, name: str) -> ServedModel:
        """The model of a name; `-` and `_` are equal.

        Raises:
            ServingError: 404, there is no such model.
        """
        model = self._models.get(_key(name))
        if model is None:
            names = [each.name for each in self]
            raise ServingError(
                404,
                f"unknown model {name[:200]!r}{did_you_mean(name[:200], names)} This server has {', '.join(names)}.",
                "model",
                code="model_not_found",
            )
        return model

    def choose(self, name: str | None, task: str) -> ServedModel:
        """The model of a name, or else the first that can do the task.

        Raises:
            ServingError: 404, there is no such model; 422, it cannot do the task.
        """
        if name:
            model = self.named(name)
            if task not in model.encoder.config.tasks:
                able = [each.name for each in self if task in each.encoder.config.tasks]
                instead = f"use {' or '.join(able)}" if able else f"no model of this server can {task}"
                raise ServingError(
                    422, f"{model.name} can {', '.join(model.encoder.config.tasks)}, but not {task}: {instead}", "model"
                )
            return model
        for model in self:
            if task in model.encoder.config.tasks:
                return model
        raise ServingError(422, f"no model of this server can {task}: start it with --model of one that can", "model")


def _key(name: str) -> str:
    return name.replace("-", "_")
