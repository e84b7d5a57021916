"""Scoring without a server: a request in a JSON file, JSON lines of any length, or a folder of CSV files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.errors import ImageError, InputError, as_item_error
from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.task_settings import our_task
from image_text_embedding.inputs.item_lists import batches
from image_text_embedding.inputs.url_fetch import is_url
from image_text_embedding.interfaces.scoring.base64_pictures import decode_base64
from image_text_embedding.interfaces.scoring.resumable_lines import write_lines
from image_text_embedding.interfaces.scoring.score_requests import (
    COLUMNS,
    ScoreRequest,
    answer_rows,
    read_score_request,
    score,
)

EXPECTED = "a picture as a path, an http(s) URL, a data: URL or base64"

# A cell of a CSV file may be a picture.
MAX_CELL = 2**27


@dataclass
class Summary:
    """What a run scored: `rows` new records, `failed` of which are errors, and `already` lines of an earlier run."""

    rows: int = 0
    failed: int = 0
    already: int = 0


class BatchScorer:
    """Scores files with one model.

    Args:
        task: what to do where a request does not say; None as in `read_score_request`.

    Raises:
        InputError: there is no such task.
    """

    def __init__(self, encoder: Encoder, task: str | None, batch_size: int) -> None:
        self._encoder, self._batch_size = encoder, batch_size
        self._task = None if task is None else our_task(task)
        self.summary = Summary()

    def score_file(self, source: Path, out: Path) -> Summary:
        """Score a .json file, a .jsonl file (a request or a record in each line), or a folder of .csv files.

        Raises:
            InputError: it is something else, cannot be read or written, or its requests are wrong.
        """
        try:
            if source.is_dir():
                files = sorted(path for path in source.iterdir() if path.suffix.lower() == ".csv")
                if not files:
                    raise InputError(f"expected a folder with .csv files, got {source}, which has none")
                self._write(out, files, _csv_rows(files), self._csv_lines)
            elif source.suffix.lower() in (".jsonl", ".ndjson"):
                with source.open(encoding="utf-8", errors="replace") as lines:
                    self._write(out, [source], (line for line in lines if line.strip()), self._json_lines)
            elif source.suffix.lower() == ".json":
                self._score_request(source, out)
            else:
                raise InputError(f"expected a .json or .jsonl file, or a folder of .csv files, got {source}")
        except OSError as error:
            raise InputError(f"cannot read {source}: {error.strerror or error}") from error
        return self.summary

    def _score_request(self, source: Path, out: Path) -> None:
        try:
            raw = json.loads(source.read_bytes())
        except ValueError as error:
            raise InputError(f"{source}: expected JSON: {error}") from error
        request = read_score_request(raw, self._encoder.config.tasks, self._task)
        records = answer_rows(self._score(request), request.on_error)
        try:
            atomic_write(out, json.dumps(records, indent=2).encode())
        except OSError as error:
            raise InputError(f"cannot write {out}: {error.strerror or error}") from error

    def _write(
        self, out: Path, files: list[Path], items: Iterable[Any], answer: Callable[[list[Any]], list[str]]
    ) -> None:
        stats = [(str(path.resolve()), path.stat()) for path in files]
        identity = {
            "files": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats],
            "model": self._encoder.info["sha256"],
            "task": self._task,
        }
        _, self.summary.already = write_lines(out, identity, items, answer, self._batch_size)

    def _json_lines(self, lines: list[str]) -> list[str]:
        """An answer for each line: a list for a request, a record for a record. Records are computed together."""
        answers: list[Any] = []
        records: list[tuple[int, dict[str, Any]]] = []
        for index, line in enumerate(lines):
            answers.append(None)
            try:
                raw = json.loads(line)
                if isinstance(raw, dict) and "input_data" in raw:
                    request = read_score_request(raw, self._encoder.config.tasks, self._task)
                    answers[index] = answer_rows(self._score(request), request.on_error)
                else:
                    records.append((index, _record(raw)))
            except (ValueError, RecursionError) as error:  # an InputError is a ValueError
                self._fail()
                answers[index] = {"error": str(error)}
        found = self._score_records([record for _, record in records])
        for (index, _), record in zip(records, found):
            answers[index] = record
        return [json.dumps(each) for each in answers]

    def _csv_lines(self, rows: list[tuple[str, int, dict[str, Any]]]) -> list[str]:
        """The registry's lines: row number, text (for other tasks the record as JSON), file name."""
        lines = []
        found = self._score_records([record for *_, record in rows])
        for (name, number, _), record in zip(rows, found):
            text = record["text"] if isinstance(record.get("text"), str) else json.dumps(record)
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow([number, text, name])
            lines.append(line.getvalue().replace("\n", " "))
        return lines

    def _score_records(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Records of rows that have no request of their own; those with the same columns together."""
        found: list[Any] = [None] * len(records)
        groups: dict[tuple[str, ...], list[int]] = {}
        for index, record in enumerate(records):
            # A classification's labels are those of its first row: with other labels it is another one.
            labels = (record.get("text", ""),) if self._task == "classify" else ()
            groups.setdefault((*sorted(record), *labels), []).append(index)
        for indices in groups.values():
            columns = sorted(records[indices[0]])
            data = [[records[index][name] for name in columns] for index in indices]
            try:
                request = read_score_request(
                    {"input_data": {"columns": columns, "data": data}}, self._encoder.config.tasks, self._task
                )
                rows = answer_rows(self._score(request), "skip")
            except InputError as error:
                for _ in indices:
                    self._fail()
                rows = [{"error": str(error)}] * len(indices)
            for index, row in zip(indices, rows):
                found[index] = row
        return found

    def _score(self, request: ScoreRequest) -> list[Any]:
        """Records and errors of a request, a batch at a time."""
        found: list[Any] = []
        for indices in batches(range(len(request.images)), self._batch_size):
            rows = slice(indices[0], indices[-1] + 1)
            pictures = [None if cell is None else _picture(cell) for cell in request.images[rows]]
            texts = request.texts[rows]
            if request.task == "classify":
                texts = [request.texts[0], *texts[1:]]
            part = dataclasses.replace(request, images=request.images[rows], texts=texts)
            found += score(self._encoder, part, pictures, self._batch_size)
        self.summary.rows += len(found)
        self.summary.failed += sum(isinstance(each, Exception) for each in found)
        return found

    def _fail(self) -> None:
        self.summary.rows += 1
        self.summary.failed += 1


def _record(raw: Any) -> dict[str, Any]:
    """The filled columns of a line's record."""
    if not isinstance(raw, dict) or not raw or not set(raw) <= set(COLUMNS):
        raise InputError(f'expected {{"image": ..., "text": ...}} or {{"input_data": ...}}, got {abbreviate(raw)}')
    return {name: value for name, value in raw.items() if value not in (None, "")}


def _csv_rows(files: list[Path]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(file name, row number, the filled columns) of every row; pandas' index column is skipped."""
    csv.field_size_limit(min(MAX_CELL, sys.maxsize))
    for path in files:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) & set(reader.fieldnames or ()):
                raise InputError(f"{path}: expected a header with image or text, got {abbreviate(reader.fieldnames)}")
            try:
                for number, row in enumerate(reader):
                    yield path.name, number, {name: row[name] for name in COLUMNS if row.get(name)}
            except csv.Error as error:
                raise InputError(f"{path}: line {reader.line_num}: {error}") from error


def _picture(cell: Any) -> Any:
    """What `load_picture` takes, or an error."""
    try:
        if not isinstance(cell, str):
            raise ImageError(f"expected {EXPECTED}, got {abbreviate(cell)}")
        if is_url(cell) or (len(cell) < 4096 and "\0" not in cell and os.path.isfile(cell)):
            return cell
        return decode_base64(cell, EXPECTED)
    except Exception as error:
        return as_item_error(error, ImageError)
