"""The folder of a run: everything that it leaves, and everything that it needs to be resumed.

    run.json            the model, the settings and the pairs, which cannot change when a run is resumed
    vocab.txt           the vocabulary
    metrics.jsonl       a JSON object per logged step and per validation
    skipped.jsonl       the pairs that cannot be used, and why
    last.pt  best.pt    checkpoints: weights, optimiser, schedule, scaler, generators, step
    model.safetensors   the weights of last.pt, which `load` opens;  best.safetensors: those of best.pt
    untrained.safetensors   the heads that the model has and the run does not train, as they were
    loss.png            the losses

Files are replaced atomically: whatever stops a run, the checkpoint before stays intact.
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

from image_text_embedding.foundation.atomic_files import atomic_replace, remove_unfinished_files
from image_text_embedding.foundation.errors import CheckpointError, ConfigError
from image_text_embedding.foundation.exclusive_lock import LockHeldError, acquire_lock
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.foundation.text_files import read_small_json, read_text
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import load_pickle, read_checkpoint, save_weights
from image_text_embedding.training.data.pair_dataset import SkippedPair

RUN, VOCABULARY, METRICS, SKIPPED = "run.json", "vocab.txt", "metrics.jsonl", "skipped.jsonl"

LAST, BEST, MODEL, BEST_MODEL, PLOT = "last.pt", "best.pt", "model.safetensors", "best.safetensors", "loss.png"

UNTRAINED = "untrained.safetensors"


class RunFolder:
    """The files of one run. Use it in a `with` statement, which locks the folder."""

    def __init__(self, path: str | os.PathLike[str], resume: bool) -> None:
        """
        Raises:
            ConfigError: the folder contains a run already, or none to resume, or cannot be created.
        """
        self.path = Path(path)
        if resume and not (self.path / RUN).is_file():
            raise ConfigError(f"{self.path} contains no run to resume: leave out resume to start one")
        if not resume and (self.path / RUN).exists():
            raise ConfigError(f"{self.path} already contains a run: resume it, or choose another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot create the folder {self.path}: {error}") from error
        self._lock: Any = None
        self._metrics: IO[str] | None = None
        self._skipped: set[int] = set()

    def __enter__(self) -> RunFolder:
        try:
            self._lock = acquire_lock(self.path / ".lock")
        except LockHeldError as error:
            raise ConfigError(
                f"another process is training in {self.path}: wait for it, or choose another folder"
            ) from error
        remove_unfinished_files(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._metrics is not None:
            self._metrics.close()
        self._lock.release()

    # Description

    def write_description(self, run: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        """Write vocab.txt, then run.json: a folder with run.json can be resumed."""
        words = sorted(tokenizer.words().items(), key=lambda pair: pair[1])
        with self._replace(VOCABULARY) as file:
            file.write("".join(f"{word}\n" for word, _ in words).encode())
        with self._replace(RUN) as file:
            file.write(json.dumps(run, indent=2).encode())

    def read_description(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            return read_small_json(self.path / RUN)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {self.path / RUN}: {error}") from error

    def record_steps(self, steps: int) -> None:
        """Write the length of a run that was made longer or shorter into run.json."""
        run = self.read_description()
        if run["settings"]["steps"] != steps:
            run["settings"]["steps"] = steps
            with self._replace(RUN) as file:
                file.write(json.dumps(run, indent=2).encode())

    # Checkpoints

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write last.pt, from which a run is resumed.

        Raises:
            CheckpointError: it cannot be written; the checkpoint before stays intact.
        """
        with self._replace(LAST) as file:
            torch.save(dict(state), file)

    def save_model(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
        """Write the model of the last checkpoint."""
        save_weights(self.path / MODEL, tensors, metadata)

    def save_untrained(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the heads that the run does not train, once, for every model that it writes."""
        save_weights(self.path / UNTRAINED, tensors, {})

    def untrained(self) -> dict[str, torch.Tensor]:
        """What `save_untrained` wrote; nothing if the run trains all heads.

        Raises:
            CheckpointError: it cannot be read.
        """
        path = self.path / UNTRAINED
        return dict(read_checkpoint(path).tensors) if path.exists() else {}

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return (self.path / LAST).exists()

    def mark_as_best(self) -> None:
        """Make the last checkpoint and its model the best ones, with hard links if the file system has them."""
        for name, best in ((LAST, BEST), (MODEL, BEST_MODEL)):
            temporary = self.path / f".{best}.part"
            try:
                try:
                    os.link(self.path / name, temporary)
                except OSError:  # no hard links on this file system
                    shutil.copyfile(self.path / name, temporary)
                os.replace(temporary, self.path / best)
            except OSError as error:
                raise CheckpointError(f"cannot write {self.path / best}: {error}; {self.last_good()}") from error
            finally:
                temporary.unlink(missing_ok=True)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The content of last.pt; None if the run was stopped before its first checkpoint.

        Raises:
            CheckpointError: it cannot be read.
        """
        if not self.has_checkpoint():
            return None
        path = self.path / LAST
        state: dict[str, Any] = load_pickle(path)
        return state

    def last_good(self) -> str:
        """For error messages: which checkpoint a run can be resumed from."""
        return (
            f"the last good checkpoint is {self.path / LAST}" if self.has_checkpoint() else "there is no checkpoint yet"
        )

    # Metrics and skipped pairs

    def start_logging(self, step: int) -> None:
        """Open the metrics, for `log`. Rows beyond `step`, which a killed run logged after its checkpoint, are dropped."""
        rows = [row for row in self._logged_rows() if row["step"] <= step]
        with self._replace(METRICS) as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self._metrics = (self.path / METRICS).open("a", encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            self._skipped = {row["index"] for row in _read_json_lines(self.path / SKIPPED)}

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to the metrics and flush it."""
        assert self._metrics is not None, "call start_logging() first"
        try:
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path / METRICS}: {error}; {self.last_good()}") from error

    def _logged_rows(self) -> list[dict[str, Any]]:
        path = self.path / METRICS
        return _read_json_lines(path) if path.exists() else []

    def record_skipped(self, pairs: list[SkippedPair]) -> int:
        """List pairs that cannot be used in skipped.jsonl, each once.

        Returns:
            the number of pairs listed so far
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
        """Draw loss.png: each loss over the steps in its own panel, with a running mean if there are many steps."""
        figure = _figure()
        rows = self._logged_rows()
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
        with self._replace(PLOT) as file:
            figure.savefig(file, format="png", dpi=110)

    @contextlib.contextmanager
    def _replace(self, name: str) -> Iterator[IO[bytes]]:
        """Write a file of the run atomically; an error names the last good checkpoint."""
        try:
            with atomic_replace(self.path / name) as part, part.open("wb") as file:
                yield file
        # torch.save raises RuntimeError if writing to its file fails.
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot write {self.path / name}: {error}; {self.last_good()}") from error


def check_plotting() -> None:
    """
    Raises:
        SetupError: matplotlib is not installed. Without this check a run would fail at its first checkpoint.
    """
    _figure()


def _figure() -> Any:
    import_optional("matplotlib.backends.backend_agg", "train", "the loss plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    return figure


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file, without a last line that was cut off."""
    rows = []
    for line in read_text(path).splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
