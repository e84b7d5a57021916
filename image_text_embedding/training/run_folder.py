"""The folder of a run: everything that it leaves, and what it goes on from.

    run.json            the model, the settings and the pairs: what a run must agree on to be resumed
    vocab.txt           the vocabulary
    metrics.jsonl       one JSON object per logged step, and per validation
    skipped.jsonl       the pairs that could not be used, and why
    last.pt  best.pt    checkpoints: weights, optimiser, schedule, scaler, generators, place in the data
    model.safetensors   the weights of last.pt, which `load` opens;  best.safetensors: those of best.pt
    loss.png            the losses

A file appears whole or not at all, so whatever stops a run leaves the earlier checkpoint as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from image_text_embedding.foundation.atomic_files import atomic_replace
from image_text_embedding.foundation.errors import CheckpointError, ConfigError, SetupError
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import save_weights
from image_text_embedding.training.data.pair_dataset import SkippedPair

RUN, VOCABULARY, METRICS, SKIPPED = "run.json", "vocab.txt", "metrics.jsonl", "skipped.jsonl"

LAST, BEST, MODEL, BEST_MODEL, PLOT = "last.pt", "best.pt", "model.safetensors", "best.safetensors", "loss.png"


class RunFolder:
    """One run's files. Open it with `with`: while it is open no other process can."""

    def __init__(self, path: str | os.PathLike[str], resume: bool) -> None:
        """
        Raises:
            ConfigError: a new run would lie over another, or there is nothing to resume, or it runs elsewhere.
        """
        self.path = Path(path)
        if resume and not (self.path / RUN).is_file():
            raise ConfigError(f"{self.path} holds no run to resume: leave resume out to begin one")
        if not resume and (self.path / RUN).exists():
            raise ConfigError(f"{self.path} holds a run already: resume it, or choose another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {self.path}: {error}") from error
        self._lock = FileLock(self.path / ".lock")
        self._metrics: IO[str] | None = None
        self._skipped: set[int] = set()

    def __enter__(self) -> RunFolder:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"a training is running in {self.path}") from error
        for left in self.path.glob(".*.part"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._metrics is not None:
            self._metrics.close()
        self._lock.release()

    # What the run is

    def describe(self, run: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        """Write down what the run is, the vocabulary first: with run.json there it can be resumed."""
        words = sorted(tokenizer.words().items(), key=lambda pair: pair[1])
        with self._whole(VOCABULARY) as file:
            file.write("".join(f"{word}\n" for word, _ in words).encode())
        with self._whole(RUN) as file:
            file.write(json.dumps(run, indent=2).encode())

    def described(self) -> dict[str, Any]:
        """What `describe` wrote."""
        try:
            run: dict[str, Any] = json.loads((self.path / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {self.path / RUN}: {error}") from error
        return run

    # Checkpoints

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint that a run goes on from."""
        with self._whole(LAST) as file:
            torch.save(dict(state), file)

    def save_model(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
        """Write the model that the run has made so far."""
        save_weights(self.path / MODEL, tensors, metadata)

    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from."""
        return (self.path / LAST).exists()

    def keep_as_best(self) -> None:
        """What was just saved is the best so far. It is the same file until the next save: nothing is copied."""
        for name, best in ((LAST, BEST), (MODEL, BEST_MODEL)):
            temporary = self.path / f".{best}.part"
            try:
                try:
                    os.link(self.path / name, temporary)
                except OSError:  # a file system without links
                    shutil.copyfile(self.path / name, temporary)
                os.replace(temporary, self.path / best)
            except OSError as error:
                raise CheckpointError(f"cannot write {self.path / best}: {error}; {self.last_good()}") from error
            finally:
                temporary.unlink(missing_ok=True)

    def read(self) -> dict[str, Any] | None:
        """The checkpoint to go on from; None: the run was stopped before its first.

        Raises:
            CheckpointError: it cannot be read.
        """
        if not self.has_checkpoint():
            return None
        path = self.path / LAST
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load has no error of its own
            raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
        return state

    def last_good(self) -> str:
        """Words for errors: where to go on from."""
        return (
            f"the last good checkpoint is {self.path / LAST}" if self.has_checkpoint() else "there is no checkpoint yet"
        )

    # Metrics and skipped pairs

    def rewind(self, step: int) -> None:
        """Go on writing metrics after a step: what a killed run logged beyond its checkpoint is dropped."""
        kept = [row for row in self.metrics() if row["step"] <= step]
        with self._whole(METRICS) as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
        self._metrics = (self.path / METRICS).open("a", encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            self._skipped = {row["index"] for row in _rows(self.path / SKIPPED)}

    def log(self, row: Mapping[str, Any]) -> None:
        """One JSON object, written through at once."""
        assert self._metrics is not None, "rewind() comes first"
        try:
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path / METRICS}: {error}; {self.last_good()}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """What was logged so far."""
        path = self.path / METRICS
        return _rows(path) if path.exists() else []

    def skip(self, pairs: list[SkippedPair]) -> int:
        """Name pairs that cannot be used, each once.

        Returns:
            how many there are so far
        """
        new = {pair.index: pair for pair in pairs if pair.index not in self._skipped}
        if new:
            lines = [{"index": pair.index, "image": pair.image, "error": pair.error} for pair in new.values()]
            try:
                with (self.path / SKIPPED).open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(line) + "\n" for line in lines)
            except OSError as error:
                raise CheckpointError(f"cannot write {self.path / SKIPPED}: {error}; {self.last_good()}") from error
            self._skipped |= new.keys()
        return len(self._skipped)

    def plot(self) -> None:
        """The losses over the steps, each in its own panel; with their running mean where they are many."""
        figure = _figure()
        rows = self.metrics()
        trained = [row for row in rows if "lr" in row]
        checked = [row for row in rows if "validation" in row]
        names = [name for name in trained[-1]["losses"] if len(trained[-1]["losses"]) > 1] + ["loss"] if trained else []
        panels = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
        figure.set_size_inches(4.5 * len(panels), 3.6)
        for panel, name in zip(panels, names):
            points = [(row["step"], {**row["losses"], "loss": row["loss"]}) for row in trained]
            steps = [step for step, losses in points if name in losses]
            values = np.array([losses[name] for _, losses in points if name in losses])
            window = max(1, len(values) // 50)
            panel.plot(steps, values, color="C0", alpha=0.35 if window > 1 else 1.0, linewidth=1)
            if window > 1:
                smooth = np.convolve(values, np.ones(window) / window, mode="valid")
                panel.plot(steps[window - 1 :], smooth, color="C0", label="running mean")
            found = [(row["step"], row["validation"][name]) for row in checked if name in row["validation"]]
            if found:
                panel.plot(*zip(*found), "o-", color="C1", markersize=3, label="validation")
            panel.set_title(name)
            panel.set_xlabel("step")
            panel.grid(alpha=0.3)
            if window > 1 or found:
                panel.legend()
        figure.subplots_adjust(left=0.5 / (4.5 * len(panels)), right=0.99, bottom=0.14, top=0.91)
        with self._whole(PLOT) as file:
            figure.savefig(file, format="png", dpi=110)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[IO[bytes]]:
        """A file of the run; an error names the last good checkpoint."""
        try:
            with atomic_replace(self.path / name) as part, part.open("wb") as file:
                yield file
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's writer, when its file fails
            raise CheckpointError(f"cannot write {self.path / name}: {error}; {self.last_good()}") from error


def check_plotting() -> None:
    """
    Raises:
        SetupError: matplotlib is not installed, which a run would notice only at its first checkpoint.
    """
    _figure()


def _figure() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError("the loss plot needs matplotlib: pip install 'image-text-embedding[train]'") from error
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure


def _rows(path: Path) -> list[dict[str, Any]]:
    """JSON lines; a last one that was cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
