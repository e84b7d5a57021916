"""Fixtures of all training tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.training_runs import (
    WORDS,
    Walls,
    tiny,
)

from image_text_embedding.models.devices import torch_threads
from image_text_embedding.training import train
from image_text_embedding.training.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):  # with models this small, threads only wait for each other
        yield


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than the run."""
    monkeypatch.setattr(RunFolder, "plot", lambda _: None)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocab.txt with the words of `Walls`."""
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture
def train_tiny(words: Path, tmp_path: Path) -> Callable[..., Path]:
    """train_tiny("blip", steps=3) -> the folder of the run, "run" or `out`."""

    def train_tiny(model: Any, source: Any = None, out: str = "run", resume: bool = False, **settings: Any) -> Path:
        validation, fits = settings.pop("validation", None), settings.pop("fits", None)
        model = tiny(model) if model in ("blip", "albef") else model
        source = Walls() if source is None else source
        given = {"steps": 6, "batch_size": 8, "crop_scale": None, "log_every": 1, "checkpoint_every": 2, **settings}
        train(
            model,
            source,
            tmp_path / out,
            given,
            vocabulary=words,
            validation=validation,
            fits=fits,
            resume=resume,
            device="cpu",
            show_progress_bar=False,
        )
        return tmp_path / out

    return train_tiny
