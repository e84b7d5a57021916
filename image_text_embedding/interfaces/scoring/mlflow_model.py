"""What MLflow runs of a folder that `Encoder.save_mlflow` wrote: the registry's requests as data frames.

MLflow's server answers `{"dataframe_split": {"columns", "index", "data"}, "params"}` with `{"predictions": [...]}`: the
`input_data` and the records of `/score`, without those names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.errors import EmbeddingError, ImageError, as_item_error
from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inference.backends.mlflow_export import VOCABULARY, WEIGHTS
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.loading import load
from image_text_embedding.inputs.url_fetch import is_url
from image_text_embedding.interfaces.scoring.base64_pictures import decode_base64
from image_text_embedding.interfaces.scoring.score_requests import (
    answer_rows,
    check_multipliers,
    read_score_request,
    score,
)

# No paths: a request must not read the files of the server.
EXPECTED = "a picture as bytes, an http(s) URL, a data: URL or base64"

BATCH_SIZE = 32


def _load_pyfunc(path: str, model_config: Mapping[str, Any]) -> MlflowModel:
    """Called by MLflow.

    Args:
        model_config: as the folder has it, or as given to `mlflow.pyfunc.load_model`: "task"; "device" and "precision" as in
            `load`.
    """
    folder, options = Path(path), dict(model_config)
    task = options.pop("task")
    return MlflowModel(load(folder / WEIGHTS, tokenizer=folder / VOCABULARY, **options), task)


class MlflowModel:
    """Scores data frames with one model.

    Args:
        task: what to do where the params do not say; None as in `read_score_request`.
    """

    def __init__(self, encoder: Encoder, task: str | None) -> None:
        self._encoder, self._task = encoder, task

    def predict(self, frame: Any, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """A record for each row.

        Args:
            frame: a pandas.DataFrame with the columns image, text, or both.
            params: on_error, task, and settings of the task. None and an empty list are as if not given.

        Raises:
            MlflowException: the request cannot be used; MLflow's server answers 400.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None and value != []}
        rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
        try:
            table = {"columns": [str(name) for name in frame.columns], "data": rows}
            request = read_score_request({"input_data": table, "params": given}, self._encoder.config.tasks, self._task)
            check_multipliers(request.settings)
            if not rows:
                return []
            pictures = [None if cell is None else _picture(cell) for cell in request.images]
            return answer_rows(score(self._encoder, request, pictures, BATCH_SIZE), request.on_error)
        except EmbeddingError as error:
            exceptions = import_optional("mlflow.exceptions", "mlflow", "an MLflow model")
            raise exceptions.MlflowException.invalid_parameter_value(str(error)) from error


def _picture(cell: Any) -> Any:
    """What `load_picture` takes, or an error."""
    try:
        if isinstance(cell, bytes):
            return cell
        if not isinstance(cell, str):
            raise ImageError(f"expected {EXPECTED}, got {abbreviate(cell)}")
        return cell if is_url(cell) else decode_base64(cell, EXPECTED)
    except Exception as error:
        return as_item_error(error, ImageError)
