"""Zero-shot classification: which of a few labels fits a picture best, by cosines (ITC) or by matching (ITM)."""

from __future__ import annotations

from typing import Any

import torch

from image_text_embedding.foundation.errors import InputError, TextError
from image_text_embedding.inference.embedding import encode_pictures
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import TokenIds, text_encoder_for
from image_text_embedding.inference.tasks.matching import logit_matrix
from image_text_embedding.inference.tasks.task_settings import ClassifySettings, MatchSettings
from image_text_embedding.inputs.item_lists import (
    ItemErrors,
    batches,
    is_single_picture,
    is_single_text,
    require_iterable,
    snapshot_pictures,
)


def classify(
    runtime: ModelRuntime,
    images: Any,
    labels: Any,
    settings: ClassifySettings,
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    """See `Encoder.classify`."""
    runtime.require("embed" if settings.method == "itc" else "match")
    names = [labels] if is_single_text(labels) else list(require_iterable(labels, "labels"))
    rows = encode_labels(runtime, names, settings.prompt)
    one = is_single_picture(images)
    pictures = [images] if one else snapshot_pictures(images, "pictures")
    failures = ItemErrors(on_error, one)
    if settings.method == "itc":
        probabilities = _by_cosines(runtime, pictures, rows, batch_size, show, failures)
    else:
        logits = logit_matrix(
            runtime,
            pictures,
            list(enumerate(rows)),
            len(rows),
            MatchSettings(settings.itm_token),
            batch_size,
            show,
            failures,
        )
        # That a text matches has the odds exp(match - no match); given that exactly one does, they add up to 1.
        probabilities = (logits[..., 1] - logits[..., 0]).softmax(-1)
    failed = {index for index, _ in failures.errors}
    results = [
        None if index in failed else sorted(zip(names, chances), key=lambda pair: -pair[1])
        for index, chances in enumerate(probabilities.tolist())
    ]
    return failures.result(results[0] if one else results)


def encode_labels(runtime: ModelRuntime, labels: list[Any], prompt: str | None) -> list[TokenIds]:
    """Token ids of the labels, each after the prompt.

    Raises:
        InputError: there are none.
        TextError: one cannot be used, or two are the same tokens; `.index` is its index.
    """
    if not labels:
        raise InputError("labels: expected at least one, got an empty list")
    reader = text_encoder_for(runtime)

    def encode(label: Any) -> TokenIds:
        # Without a prompt as well: an empty label is an error.
        row = reader(label)
        return row if prompt is None else reader(f"{prompt}{label}")

    rows = dict(ItemErrors("raise", one=False).each(enumerate(labels), encode))
    reader.warn(3)
    seen: dict[tuple[int, ...], int] = {}
    for index, row in rows.items():
        other = seen.setdefault(tuple(row), index)
        if other != index:
            raise TextError(
                f"labels: expected every label once, got {labels[other]!r} (item {other}) and {labels[index]!r} (item "
                f"{index}), which are the same tokens",
                index,
            )
    return list(rows.values())


@torch.inference_mode()
def _by_cosines(
    runtime: ModelRuntime,
    pictures: list[Any],
    rows: list[TokenIds],
    batch_size: int,
    show: bool | None,
    failures: ItemErrors,
) -> torch.Tensor:
    """softmax(cosine / temperature) over the labels, float32 (pictures, labels) on the CPU."""
    texts = torch.cat([runtime.unit_text_vectors(batch) for batch in batches(rows, batch_size)])
    on_error = "skip" if failures.skip else "raise"
    images = pictures[0] if failures.one else pictures
    found = encode_pictures(runtime, images, batch_size, show, True, True, on_error, "exact")
    if failures.skip:
        found, errors = found
        failures.errors += errors
    vectors = found.reshape(len(pictures), texts.shape[1])
    return (vectors @ texts.T / runtime.temperature).softmax(-1).cpu()
