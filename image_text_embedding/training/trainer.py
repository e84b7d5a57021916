"""The training loop: one process, one device; it trains, logs, writes checkpoints and leaves a model.

A resumed run continues as if it had never stopped: the checkpoint holds weights, optimiser, schedule, scaler, generators,
momentum model, queue and the position in the data, and the random draws for a pair depend only on the seed and its position.
(On a GPU, any two runs differ in the last bits, because sums there have no fixed order.)
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from image_text_embedding.foundation.errors import ComputeError, ConfigError, InputError
from image_text_embedding.foundation.terminal_text import print_line
from image_text_embedding.inputs.item_lists import progress_bar, shows_progress
from image_text_embedding.models.checkpoints.seen_pieces import SEEN_PIECES, pack_seen_pieces
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.devices import default_device, require_device
from image_text_embedding.training.data.batch_loading import BatchOrder, batch_loader, require_batch
from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.data.pair_dataset import PairDataset, SkippedPair
from image_text_embedding.training.objectives.matches import Fits
from image_text_embedding.training.objectives.student_weights import untrained_heads
from image_text_embedding.training.run_folder import BEST_MODEL, MODEL, SKIPPED, RunFolder, check_plotting
from image_text_embedding.training.run_plan import RunPlan, plan_new_run, plan_resumed_run
from image_text_embedding.training.schedules import distillation_weight, postponed_objectives
from image_text_embedding.training.settings import TrainConfig
from image_text_embedding.training.training_state import TrainingState
from image_text_embedding.training.validation import validate

REPORT_SECONDS = 10.0  # between two printed lines


def train(
    model: ModelConfig | str | os.PathLike[str] | None,
    source: Any,
    out: str | os.PathLike[str],
    settings: TrainConfig | Mapping[str, Any] | None = None,
    *,
    vocabulary: str | os.PathLike[str] | None = None,
    validation: Any = None,
    fits: Fits | None = None,
    resume: bool = False,
    device: str | torch.device | int | None = None,
    show_progress_bar: bool | None = None,
) -> Path:
    """Train a model on pictures with captions, or with questions and answers.

    Args:
        model: a `ModelConfig` is trained from scratch; a name, a hub id or a file, as `load` takes it, is trained further.
            The heads that the objectives do not train stay in the finished model as they were, though the vision tower that
            they read changes; objectives that make another kind of model of it (nlvr, ve, vqa of a captioner) leave them out.
        source: the pairs: a file or folder for `read_pairs`, an indexable source, an iterable of (picture, caption), or a
            function from an index to one, which draws pairs on the fly. (See `PairSource`.)
        out: the folder of the run (its files are listed in `training/run_folder.py`).
        settings: a TrainConfig, or a mapping of some of its keys. The other keys have its defaults, with a lower learning
            rate if a model is trained further.
        vocabulary: a `vocab.txt`, a `tokenizer.json`, a folder or a hub id, instead of the model's own.
        validation: pairs that are never trained on. Their losses are computed at every checkpoint and select the best one.
            Without them, the best checkpoint has the lowest training loss since the checkpoint before.
        fits: whether a caption fits a picture, from the caption's claims and the picture's facts: it gives captions that are
            true of several pictures all of them. None = the method `fits` of the source, if it has one. (See `PairSource`,
            also for wrong texts and for groups of pictures.)
        resume: continue from the last checkpoint in `out`. Model, source and settings may then be None; those that are
            given must be the same as when the run started, except `steps`, which makes the run longer or shorter: the
            learning rate then falls over the new length, from the step that was reached.
        device: None = CUDA if available, else the CPU.
        show_progress_bar: None = on a terminal and in a notebook; elsewhere the losses are printed on stderr, at most every
            ten seconds.

    Returns:
        the file of the finished model in `out`

    Raises:
        ConfigError: impossible settings or configuration; a folder in use; a resumed run with different settings.
        InputError: the pairs cannot be read, or more than `max_skipped` of them cannot be used.
        ComputeError: a loss or a gradient is not finite; the message names the step and the last good checkpoint.
        CheckpointError, DownloadError: weights are not available; a checkpoint cannot be read or written.
        KeyboardInterrupt: Ctrl-C. The current step is finished and a checkpoint is written first.
        SetupError: matplotlib is missing.
    """
    check_plotting()
    with RunFolder(out, resume) as folder:
        if resume:
            plan = plan_resumed_run(folder, model, source, settings, validation, fits)
        else:
            plan = plan_new_run(folder, model, source, settings, vocabulary, validation, fits)
        spec = default_device("torch") if device is None else require_device(device)
        run = TrainingRun(plan, folder, torch.device(str(spec)))
        return run.train(show_progress_bar)


class TrainingRun:
    """Executes a plan, from the last checkpoint of its folder if there is one."""

    def __init__(self, plan: RunPlan, folder: RunFolder, device: torch.device) -> None:
        self.plan, self.folder, self.settings = plan, folder, plan.settings
        self.state = TrainingState(plan, folder.load_checkpoint(), device)
        if self.state.step > plan.settings.steps:
            raise ConfigError(
                f"{folder.path}: the run is at step {self.state.step}: it cannot end at {plan.settings.steps}"
            )
        if plan.start is not None and (heads := untrained_heads(plan.start, plan.config, self.state.student)):
            folder.save_untrained(heads)
        self._last_log = (self.state.step, time.perf_counter())  # step and time

    def train(self, show_progress_bar: bool | None) -> Path:
        """Run all remaining steps. The finished model's file."""
        settings, folder, state = self.settings, self.folder, self.state
        folder.record_steps(settings.steps)
        folder.start_logging(state.step)
        if state.step:
            self._write_model()
        batches = self.batches()
        report = _Report(show_progress_bar, settings)
        with (
            _DeferredInterrupt() as interrupt,
            progress_bar(settings.steps, "step", show_progress_bar, state.step, delay=0) as bar,
        ):
            while state.step < settings.steps:
                try:
                    row = self.advance(batches)
                except torch.cuda.OutOfMemoryError as error:
                    raise ComputeError(
                        f"the GPU has too little memory: {str(error)[:200]}; {folder.last_good()}. Set "
                        "gradient_checkpointing, or use a smaller batch_size with accumulate"
                    ) from error
                # While objectives are left out, the sum is lower, but the model is not better.
                if row["losses"].keys() == set(self.plan.tasks):
                    state.loss_sum += row["loss"]
                    state.loss_count += 1
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                bar.update()
                is_last = state.step == settings.steps
                if is_last or state.step % settings.log_every == 0:
                    report.losses(self._log(row))
                is_due = is_last or state.step % settings.checkpoint_every == 0
                if is_due or interrupt.requested:
                    self._checkpoint(tested=is_due)
                if interrupt.requested and not is_last:
                    raise KeyboardInterrupt(f"stopped at step {state.step}; {folder.last_good()}")
        return folder.path / (BEST_MODEL if self.plan.validation is not None else MODEL)

    # One step

    def advance(self, batches: Iterator[TrainingBatch]) -> dict[str, Any]:
        """Do one optimiser step.

        Returns:
            its row of the metrics: `loss`, `losses`, `lr` and `grad_norm` (None if fp16 overflowed)

        Raises:
            ComputeError: a loss or a gradient is not finite.
        """
        settings, state, student = self.settings, self.state, self.state.student
        alpha = distillation_weight(settings, len(self.plan.source), state.step, self.plan.config.family)
        left_out = postponed_objectives(settings, state.step)
        sums: dict[str, float] = {}
        if state.teacher is not None:
            state.teacher.update(student)
        for _ in range(settings.accumulate):
            batch = next(batches)
            state.note_pieces(batch)
            with state.autocast():
                losses = student.losses(batch, settings, state.teacher, alpha, left_out, self.plan.fits)
            stacked = torch.stack(list(losses.values()))
            # The only line of a step that waits for a GPU.
            for name, loss in zip(losses, stacked.tolist()):
                sums[name] = sums.get(name, 0.0) + loss / settings.accumulate
            if not math.isfinite(sum(sums.values())):
                raise self._not_finite("the loss", json.dumps(sums))
            state.scaler.scale(stacked.sum() / settings.accumulate).backward()
        state.scaler.unscale_(state.optimiser)
        norm = float(clip_grad_norm_(student.parameters(), settings.clip or math.inf))
        # With fp16 the scaler itself leaves out a step whose gradient overflows.
        if not math.isfinite(norm) and not state.scaler.is_enabled():
            raise self._not_finite("the gradient", json.dumps(sums))
        rate = state.schedule.get_last_lr()[0]
        scale = state.scaler.get_scale()
        state.scaler.step(state.optimiser)
        state.scaler.update()
        # A lower scale means that the step was left out.
        if state.scaler.get_scale() >= scale:
            state.schedule.step()
        state.optimiser.zero_grad(set_to_none=True)
        student.clamp_temperature()
        state.step += 1
        return {
            "loss": sum(sums.values()),
            "losses": sums,
            "lr": rate,
            "grad_norm": norm if math.isfinite(norm) else None,
        }

    def _not_finite(self, what: str, losses: str) -> ComputeError:
        return ComputeError(
            f"{what} is not finite at step {self.state.step + 1} ({losses}); {self.folder.last_good()}. A resumed run would "
            f"repeat this step: start a new run with a lower lr or with precision fp32; it may continue from "
            f"{self.folder.path / MODEL}"
        )

    # Data

    def batches(self) -> Iterator[TrainingBatch]:
        """The remaining batches of the run, on its device."""
        settings, plan, state = self.settings, self.plan, self.state
        step_pairs = settings.batch_size * settings.accumulate
        order = BatchOrder(
            len(plan.source), settings.batch_size, settings.seed, state.step * step_pairs, settings.steps * step_pairs
        )
        pairs = PairDataset(
            plan.source,
            plan.config,
            plan.tasks,
            plan.tokenizer,
            settings,
            labelled=plan.fits is not None,
            max_tokens=plan.max_tokens,
        )
        for batch, skipped in batch_loader(pairs, order, state.device):
            self._count_skipped(skipped)
            yield require_batch(batch, skipped).to(state.device)

    def _count_skipped(self, skipped: list[SkippedPair]) -> None:
        """
        Raises:
            InputError: too many pairs cannot be used.
        """
        if not skipped:
            return
        count, total = self.folder.record_skipped(skipped), len(self.plan.source)
        if count > (self.settings.max_skipped or 0.0) * total:
            raise InputError(
                f"{count} of {total} pairs cannot be used, more than max_skipped={self.settings.max_skipped} allows (see "
                f"{self.folder.path / SKIPPED}); the last: {skipped[-1].error}; {self.folder.last_good()}"
            )

    # What a run leaves

    def _log(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add a row to the metrics, completed. Returns the complete row."""
        settings, state, (last_step, last_time), now = self.settings, self.state, self._last_log, time.perf_counter()
        step_pairs = settings.batch_size * settings.accumulate
        self._last_log = (state.step, now)
        extra = {"temp": state.student.temp.item()} if "itc" in self.plan.tasks else {}
        logged = {
            "step": state.step,
            "epoch": round(state.step * step_pairs / len(self.plan.source), 4),
            **row,
            **extra,
            "pairs_per_s": round((state.step - last_step) * step_pairs / max(now - last_time, 1e-9), 2),
        }
        self.folder.log(logged)
        return logged

    def validate(self) -> dict[str, float]:
        """The figures on the validation pairs: see `validation.validate`."""
        return validate(self.plan, self.state)

    def _checkpoint(self, tested: bool) -> None:
        """Write a checkpoint and the model, and mark them if they are the best so far.

        Args:
            tested: False for a checkpoint after Ctrl-C that is not due: it is written at once, without validation, and must
                not influence which one is the best.
        """
        state = self.state
        is_best = False
        if tested:
            score = state.loss_sum / state.loss_count if state.loss_count else math.inf
            state.loss_sum, state.loss_count = 0.0, 0
            if self.plan.validation is not None:
                figures = self.validate()
                self.folder.log({"step": state.step, "validation": figures})
                score = figures["loss"]
            is_best = score < state.best_score or math.isinf(state.best_score)
            state.best_score = min(state.best_score, score)
        state.is_best = is_best
        self.folder.save_checkpoint(state.state_dict())
        self._write_model()
        self.folder.plot()

    def _write_model(self) -> None:
        """Write the model of the checkpoint. A resumed run repeats this, as it may have been stopped before or within it."""
        self.folder.save_model(*self._finished_model())
        if self.state.is_best:
            self.folder.mark_as_best()

    def _finished_model(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The tensors of the model, not shared (shared layers are stored twice), and the metadata that `load` reads."""
        dtype = {"fp32": torch.float32, "fp16": torch.float16}[self.settings.stored]
        tensors = {
            name: value.detach().to("cpu", dtype, copy=True) for name, value in self.state.student.state_dict().items()
        }
        start = self.folder.read_description()["start"]
        source = start["model"] if start else "trained from scratch"
        # Weights are passed on to others: no more of a local path than its name.
        origin = {"source": os.path.basename(source) if os.path.isabs(source) else source, "step": self.state.step}
        origin["version"] = metadata.version("image-text-embedding")
        tensors |= {name: value.to(dtype) for name, value in self.folder.untrained().items()}
        about: dict[str, Any] = {"config": dataclasses.asdict(self.plan.config), "origin": origin}
        if self.state.seen is not None:
            about[SEEN_PIECES] = pack_seen_pieces(self.state.seen.cpu().numpy())
        return tensors, about


class _Report:
    """What a run prints on stderr where no progress bar is drawn: in a log file, in a service."""

    def __init__(self, show_progress_bar: bool | None, settings: TrainConfig) -> None:
        self._settings = settings
        self._prints = show_progress_bar is None and not shows_progress(None)
        self._last = -math.inf  # seconds

    def losses(self, row: Mapping[str, Any]) -> None:
        """The losses of a step, at most every REPORT_SECONDS, and of the last one."""
        now = time.monotonic()
        if not self._prints or (now - self._last < REPORT_SECONDS and row["step"] < self._settings.steps):
            return
        self._last = now
        parts = ", ".join(f"{name} {loss:.4g}" for name, loss in row["losses"].items())
        print_line(
            f"step {row['step']:,} of {self._settings.steps:,}: loss {row['loss']:.4g}"
            f"{f' ({parts})' if len(row['losses']) > 1 else ''}, lr {row['lr']:.2g}, {row['pairs_per_s']:.1f} pairs/s",
            error=True,
        )


class _DeferredInterrupt:
    """While it is open, the first Ctrl-C only sets `requested`, and the second stops at once.

    Only the main thread receives signals; in another thread it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> _DeferredInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        print_line("", error=True)  # ends the line of the progress bar
        print_line("finishing the step, then writing a checkpoint; Ctrl-C again stops at once", error=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
