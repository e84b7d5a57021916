"""Pictures with their texts: paired, prepared, and run in batches, each picture passing the vision transformer once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import ComputeError, InputError, at_index
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inputs.item_lists import (
    ItemErrors,
    batches,
    is_single_picture,
    is_single_text,
    progress_bar,
    require_iterable,
    snapshot_pictures,
)
from image_text_embedding.inputs.prefetch import prefetch_batches
from image_text_embedding.inputs.text_encoder import TextEncoder
from image_text_embedding.models.networks.finite_values import not_finite

if TYPE_CHECKING:
    import torch

TokenIds = list[int]

# States of B pictures (B, 1 + patches, width) and R = n * B rows -> R results.
Compute = Callable[["torch.Tensor", list[Any]], list[Any]]


class PictureTextBatches:
    """Pictures and the texts of each: as many of each, or a single one of either for all of the other."""

    unit = "images"  # what the error about unequal numbers calls them
    item = "image"  # what the progress bar calls one

    def __init__(self, runtime: ModelRuntime, images: Any, on_error: str, **texts: Any) -> None:
        """
        Args:
            texts: named lists of texts, such as questions=...: one string for all pictures, or one for each; None = no such
                texts. The name stands in error messages.
        """
        self.runtime = runtime
        self.one_picture, self.pictures = self.listed(images)
        given = {kind: value for kind, value in texts.items() if value is not None}
        self.single = {kind: is_single_text(value) for kind, value in given.items()}
        self.texts = {
            kind: [value] if self.single[kind] else list(require_iterable(value, kind)) for kind, value in given.items()
        }
        lengths = {self.unit: len(self.pictures)} if not self.one_picture else {}
        lengths |= {kind: len(self.texts[kind]) for kind in given if not self.single[kind]}
        if len(set(lengths.values())) > 1:
            raise InputError(
                "expected as many of each (or a single one for all), got "
                + " and ".join(f"{length} {kind}" for kind, length in lengths.items())
            )
        self.count = next(iter(lengths.values()), 1)
        self.one = not lengths
        self.failures = ItemErrors(on_error, self.one)

    def listed(self, images: Any) -> tuple[bool, list[Any]]:
        """Whether the argument is a single picture, and the pictures as a list."""
        single = is_single_picture(images)
        return single, [images] if single else snapshot_pictures(images, "pictures")

    def read(self, picture: Any) -> Any:
        """What `states` takes of a picture."""
        return self.runtime.pixels(picture)

    def alike(self, group: list[tuple[Any, Any]]) -> list[list[tuple[Any, Any]]]:
        """A batch of (index, what `read` returns), divided into those that `states` takes together."""
        return [group]

    def states(self, read: list[Any]) -> torch.Tensor:
        """Pictures as `read` returns them -> their states (B, 1 + patches, width)."""
        return self.runtime.states(read)

    def unit_vectors(self, states: torch.Tensor) -> torch.Tensor:
        """States as `states` returns them -> vectors of unit length (B, D)."""
        return self.runtime.unit_vectors_of_states(states)

    def rows(self, kind: str, encode: Callable[[Any], Any]) -> dict[int, Any]:
        """Index -> encode(text), such as token ids, of the usable texts.

        The error of a text that all pictures share is an error of each picture.
        """
        if self.single[kind]:
            return self.shared(range(self.count), lambda: encode(self.texts[kind][0]))
        return dict(self.failures.each(enumerate(self.texts[kind]), encode))

    def shared(self, indices: Iterable[int], read: Callable[[], Any]) -> dict[int, Any]:
        """Index -> what all indices share, read once; if reading fails, every index has the error."""
        try:
            return dict.fromkeys(indices, read())
        except (InputError, ComputeError) as error:
            if not self.failures.skip:
                raise
            self.failures.errors += [(index, at_index(error, index)) for index in indices]
            return {}

    def run(self, rows: dict[int, Any], compute: Compute, missing: Any, batch_size: int, show: bool | None) -> Any:
        """A result for each index of `rows`, `missing` for the others; a single result for a single picture and text."""
        import torch

        values = [missing] * self.count
        unit = self.item if not self.one_picture else "text"
        with torch.inference_mode(), progress_bar(len(rows), unit, show) as bar:
            for indices, states, batch in self._batches(rows, batch_size):
                for index, value in zip(indices, compute(states, batch)):
                    values[index] = value
                bar.update(len(indices))
        return values[0] if self.one and values else values

    def _batches(self, rows: dict[int, Any], size: int) -> Iterator[tuple[list[int], torch.Tensor, list[Any]]]:
        """(indices, states of their pictures or of the shared one, rows)"""
        if self.one_picture:
            require_integer("batch_size", size)
            pixels = self.shared(rows, lambda: self.read(self.pictures[0])) if rows else {}
            if pixels:
                states = self.runtime.require_finite(self.states([next(iter(pixels.values()))]))
                for batch in batches(rows.items(), size):
                    yield [index for index, _ in batch], states, [row for _, row in batch]
            return
        pictures = ((index, self.pictures[index]) for index in rows)
        with closing(prefetch_batches(pictures, self.read, size, self.failures)) as groups:
            for group in (part for each in groups for part in self.alike(each)):
                states = self.states([pixels for _, pixels in group])
                good = self._check_finite(states, [index for index, _ in group])
                indices = [index for (index, _), is_good in zip(group, good.tolist()) if is_good]
                if indices:
                    yield indices, states[good], [rows[i] for i in indices]

    def _check_finite(self, states: torch.Tensor, indices: list[int]) -> torch.Tensor:
        """Which pictures' states are finite, bool (B,); an error for each of the others."""
        good = states.isfinite().flatten(1).all(1)
        for index, is_good in zip(indices, good.tolist()):
            if not is_good:
                error = ComputeError(f"item {index}: the model {not_finite(self.runtime.dtype)}")
                if not self.failures.skip:
                    raise error
                self.failures.errors.append((index, error))
        return good


def first_token(runtime: ModelRuntime, token: str) -> int:
    """The id that starts a fused text: [ENC] for "enc", as in training, if the family has it; else [CLS]."""
    enc_id = runtime.config.text.enc_id
    return enc_id if token == "enc" and enc_id is not None else runtime.tokenizer.cls_id


def text_encoder_for(runtime: ModelRuntime, questions: bool = False) -> TextEncoder:
    """Encodes captions, or questions, by the rules of the model."""
    rules = runtime.config.questions if questions else runtime.config.captions
    assert rules is not None
    return TextEncoder(runtime.tokenizer, rules, runtime.config.name, runtime.seen_pieces)


def require_texts(name: str, value: Any) -> Any:
    """The texts that a task needs.

    Raises:
        InputError: they are None.
    """
    if value is None:
        raise InputError(f"{name}: expected one string, or one for each picture, got None")
    return value
