"""Requests and records of the AzureML registry's models, for the server's `/score` and the command `score`.

A request is {"input_data": {"columns": [...], "index": [...], "data": [[...], ...]}, "params": {...}}; its answer is a bare
list of records, one for each row, in their order.

| task | columns | record |
| --- | --- | --- |
| image-to-text | image | text |
| visual-question-answering | image, text | text |
| embeddings | image, text; each filled in all rows or in none | image_features, text_features (of unit length) |
| zero-shot-image-classification | image; text of row 0 = labels with commas between them | probs, labels |
| image-text-matching | image, text | probability |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from image_text_embedding.foundation.errors import EmbeddingError, InputError, at_index
from image_text_embedding.foundation.messages import abbreviate, did_you_mean
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.task_settings import (
    build_settings,
    check_setting_names,
    our_task,
    score_setting_names,
)

COLUMNS = ("image", "text")

# The most that a client may ask for of what multiplies the work of an item.
MAX_SEQUENCES = 32
MULTIPLIERS = ("num_beams", "num_return_sequences")


@dataclass(frozen=True)
class ScoreRequest:
    """A request, checked.

    Attributes:
        task: "caption", "answer", "embed", "classify" or "match".
        images, texts: a cell for each row; None where it is empty.
        settings: of the task, as keywords of the Encoder's method.
        on_error: "skip": a row that cannot be used gets an error as its record. "raise": the request fails.
    """

    task: str
    images: list[Any]
    texts: list[Any]
    settings: dict[str, Any]
    on_error: str

    @property
    def labels(self) -> list[str]:
        """The labels of a classification."""
        return [label.strip() for label in str(self.texts[0] or "").split(",")]


def read_score_request(raw: Any, model_tasks: Sequence[str], task: str | None = None) -> ScoreRequest:
    """The request in a JSON object.

    Args:
        model_tasks: the `config.tasks` of the model.
        task: what to do, if the request's params do not say. None = what the columns suggest: with pictures alone captions;
            with texts beside them answers; or else vectors; as far as the model can.

    Raises:
        InputError: it has other fields, columns or types, or the model cannot do the task.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("input_data"), Mapping):
        raise InputError(f'expected {{"input_data": {{"columns": [...], "data": [...]}}}}, got {abbreviate(raw)}')
    columns, rows = _read_table(raw["input_data"])
    params = raw.get("params") or {}
    if not isinstance(params, Mapping):
        raise InputError(f"params: expected an object, got {abbreviate(params)}")
    cells = {name: [_cell(row[columns.index(name)]) if name in columns else None for row in rows] for name in COLUMNS}
    settings = dict(params)
    task = settings.pop("task", None) or task or _suggested_task(cells["image"], cells["text"], model_tasks)
    on_error = settings.pop("on_error", "skip")
    if on_error not in ("raise", "skip"):
        raise InputError(f"params.on_error: expected 'raise' or 'skip', got {abbreviate(on_error)}")
    task = our_task(task)
    check_setting_names(settings, score_setting_names(task), f"Params of {task}")
    build_settings(task, settings)
    request = ScoreRequest(task, cells["image"], cells["text"], settings, on_error)
    _check_cells(request)
    return request


def check_multipliers(settings: Mapping[str, Any]) -> None:
    """Check settings that multiply the work of an item. (Not of a command, whose user pays for the work.)

    Raises:
        InputError: one is too large.
    """
    for name in MULTIPLIERS:
        value = settings.get(name)
        if isinstance(value, int) and value > MAX_SEQUENCES:
            raise InputError(f"{name}: expected at most {MAX_SEQUENCES}, got {value}")


def score(encoder: Encoder, request: ScoreRequest, pictures: list[Any], batch_size: int) -> list[Any]:
    """A record, or an error, for each row.

    Args:
        pictures: for each row what the Encoder takes, or an error; None for a row without one.
    """
    found: list[Any] = list(pictures)
    usable = [i for i, picture in enumerate(pictures) if not isinstance(picture, Exception)]
    if usable:
        images, texts = [pictures[i] for i in usable], [request.texts[i] for i in usable]
        for i, record in zip(usable, _records(encoder, request, images, texts, batch_size)):
            found[i] = at_index(record, None) if isinstance(record, EmbeddingError) else record
    return found


def answer_rows(found: list[Any], on_error: str) -> list[dict[str, Any]]:
    """The answer to a request: errors as records, in their rows.

    Raises:
        EmbeddingError: a row failed, and on_error is "raise".
    """
    for index, record in enumerate(found):
        if isinstance(record, EmbeddingError) and on_error == "raise":
            raise at_index(record, index)
    return [{"error": str(record)} if isinstance(record, EmbeddingError) else record for record in found]


def _records(
    encoder: Encoder, request: ScoreRequest, images: list[Any], texts: list[Any], batch_size: int
) -> list[Any]:
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False, "on_error": "skip"}
    if request.task == "embed":
        columns = []
        for name, items, encode in (
            ("image_features", images, encoder.encode_image),
            ("text_features", texts, encoder.encode_text),
        ):
            if items[0] is not None:
                vectors = _listed(encode(items, **options))
                columns.append([each if isinstance(each, Exception) else {name: each.tolist()} for each in vectors])
        return [_joined(row) for row in zip(*columns)]
    options |= request.settings
    if request.task == "classify":
        labels = request.labels
        return [
            each
            if isinstance(each, Exception)
            else {"probs": [dict(each)[label] for label in labels], "labels": labels}
            for each in _listed(encoder.classify(images, labels, **options))
        ]
    if request.task == "match":
        found = _listed(encoder.match(images, texts, **options))
        return [each if isinstance(each, Exception) else {"probability": float(each)} for each in found]
    if request.task == "caption":
        found = _listed(encoder.caption(images, **options))
    else:
        found = _listed(encoder.answer(images, texts, **options))
    return [each if isinstance(each, Exception) else {"text": _text(each)} for each in found]


def _text(result: Any) -> Any:
    """A caption or an answer; of (choice, probability) pairs the best choice."""
    return result[0][0] if isinstance(result, list) and isinstance(result[0], tuple) else result


def _joined(parts: Sequence[Any]) -> Any:
    """The fields of a row, or its first error."""
    errors = [part for part in parts if isinstance(part, Exception)]
    return errors[0] if errors else {name: value for part in parts for name, value in part.items()}


def _listed(found: tuple[Any, list[tuple[int, EmbeddingError]]]) -> list[Any]:
    """Results with their errors in place."""
    results = list(found[0])
    for index, error in found[1]:
        results[index] = error
    return results


def _read_table(table: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows; a row of a single column may be the cell itself."""
    for name in table:
        if name not in ("columns", "index", "data"):
            raise InputError(f"input_data: unknown field {abbreviate(name)}; expected columns, index and data")
    columns, data, index = table.get("columns"), table.get("data"), table.get("index")
    if not isinstance(columns, list) or not columns:
        raise InputError(f"input_data.columns: expected a list of {' and '.join(COLUMNS)}, got {abbreviate(columns)}")
    for name in columns:
        if name not in COLUMNS or columns.count(name) > 1:
            shown = did_you_mean(str(name), COLUMNS)
            raise InputError(f"input_data.columns: expected image and text, each once, got {abbreviate(name)}{shown}")
    if not isinstance(data, list):
        raise InputError(f"input_data.data: expected a list of rows, got {abbreviate(data)}")
    rows = [row if isinstance(row, list) else [row] for row in data]
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise InputError(f"input_data.data: expected {len(columns)} cells in row {number}, got {len(row)}", number)
    if index is not None and (not isinstance(index, list) or len(index) != len(rows)):
        raise InputError(f"input_data.index: expected a list of {len(rows)}, one for each row, got {abbreviate(index)}")
    return columns, rows


def _cell(value: Any) -> Any:
    return None if value == "" else value


def _suggested_task(images: list[Any], texts: list[Any], able: Sequence[str]) -> str:
    has_images, has_texts = (any(cell is not None for cell in cells) for cells in (images, texts))
    if has_images and not has_texts and "caption" in able:
        return "caption"
    if has_images and has_texts and "answer" in able:
        return "answer"
    return "embed" if "embed" in able else able[0]


def _check_cells(request: ScoreRequest) -> None:
    """Check that the columns that the task needs are filled."""

    def require(name: str, cells: list[Any]) -> None:
        for number, cell in enumerate(cells):
            if cell is None:
                raise InputError(
                    f"input_data: {request.task} needs {name} in every row, got none in row {number}", number
                )

    if request.task == "embed":
        filled = {name for name in COLUMNS for cell in getattr(request, f"{name}s") if cell is not None}
        if not filled and request.images:
            raise InputError("input_data: embeddings need image or text in every row, got neither")
        for name in sorted(filled):
            require(name, getattr(request, f"{name}s"))
        return
    require("image", request.images)
    if request.task in ("answer", "match"):
        require("text", request.texts)
    if request.task == "classify" and request.texts:
        require("text (labels with commas between them)", request.texts[:1])
        if not all(request.labels) or len(set(request.labels)) < len(request.labels):
            raise InputError(
                f"input_data: expected different labels with commas between them, got {request.texts[0]!r:.200}"
            )
