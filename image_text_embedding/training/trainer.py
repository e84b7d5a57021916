"""The loop: batches in, steps, checkpoints, and a model out. One process, one device.

A run that is resumed goes on as if it had never stopped: weights, optimiser, schedule, scaler, generators, momentum model,
queue and place in the data are in the checkpoint, and what is drawn for a pair depends on the seed and its place alone.
(On a GPU, two runs differ in the last bits whether one was stopped or not: its sums have no fixed order.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from image_text_embedding.foundation.errors import ComputeError, ConfigError, InputError
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.devices import default_device, require_device
from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.data.pair_dataset import MAX_SKIPPED_IN_A_ROW, BatchOrder, PairDataset, SkippedPair
from image_text_embedding.training.objectives.momentum_teacher import MomentumTeacher
from image_text_embedding.training.objectives.student import (
    Student,
    VocabularyIds,
    new_student,
    parameter_groups,
    student_of,
)
from image_text_embedding.training.run_folder import BEST_MODEL, MODEL, SKIPPED, RunFolder, check_plotting
from image_text_embedding.training.run_plan import RunPlan, plan_new_run, plan_resumed_run
from image_text_embedding.training.settings import TrainConfig

READ_TIMEOUT = 600.0  # seconds that a reading process may take for one batch


def train(
    model: ModelConfig | str | os.PathLike[str] | None,
    source: Any,
    out: str | os.PathLike[str],
    settings: TrainConfig | Mapping[str, Any] | None = None,
    *,
    vocabulary: str | os.PathLike[str] | None = None,
    validation: Any = None,
    resume: bool = False,
    device: str | torch.device | int | None = None,
    show_progress_bar: bool | None = None,
) -> Path:
    """Train a model on pictures with captions, or questions and answers.

    Args:
        model: a `ModelConfig` is trained from scratch; a name, a hub id or a file, as `load` takes it, is trained further.
        source: pairs: a place for `read_pairs`, an indexable source, an iterable of (picture, caption), or a function from
            an index to one, which draws on the fly. (See `PairSource`.)
        out: the folder of the run, with everything that it leaves (`training/folder.py` lists it).
        settings: a TrainConfig, or a mapping of some of its keys; the others have its defaults, and a lower rate where a
            model is trained further.
        vocabulary: a `vocab.txt`, a `tokenizer.json`, a folder or a hub id, instead of the model's own.
        validation: pairs that are never trained on; the losses on them are computed at every checkpoint, and the best
            checkpoint is the best on them. Without them it is the best on the pairs trained on since the last one.
        resume: go on from the last checkpoint in `out`. Model, source and settings may then be None; what is given must be
            what the run was begun with.
        device: None = CUDA where there is one, else the CPU.
        show_progress_bar: None = on a terminal.

    Returns:
        The finished model's file in `out`.

    Raises:
        ConfigError: settings or a configuration that cannot be; a folder in use; a resumed run that disagrees.
        InputError: the pairs cannot be read, or more than `max_skipped` of them cannot be used.
        ComputeError: a loss or a gradient is not finite; the message names the step and the last good checkpoint.
        CheckpointError, DownloadError: the weights cannot be had; a checkpoint cannot be read or written.
        KeyboardInterrupt: Ctrl-C, after the step in work was finished and a checkpoint was written.
        SetupError: matplotlib is missing.
    """
    check_plotting()
    with RunFolder(out, resume) as folder:
        if resume:
            plan = plan_resumed_run(folder, model, source, settings, validation)
        else:
            plan = plan_new_run(folder, model, source, settings, vocabulary, validation)
        return TrainingRun(plan, folder, default_device("torch") if device is None else require_device(device)).go(
            show_progress_bar
        )


class TrainingRun:
    """A plan at work."""

    def __init__(self, plan: RunPlan, folder: RunFolder, device: torch.device) -> None:
        settings, tokenizer = plan.settings, plan.tokenizer
        self.plan, self.folder, self.device, self.settings = plan, folder, device, settings
        self.dtype = autocast_dtype(settings.precision, device)
        self.step, self.best, self.better = 0, math.inf, False
        self.seen: list[float] = [0.0, 0]  # sum and number of the losses since the last checkpoint
        self.rate: tuple[int, float] = (0, time.perf_counter())  # step and time of the last line logged

        words = VocabularyIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.vocab_size)
        state = folder.read()
        if state is None and plan.start is not None:
            student = student_of(plan.start, plan.config, plan.tasks, words)
            if settings.sinusoids is not None:
                student.add_sinusoids(settings.sinusoids)
        else:
            student = new_student(plan.config, plan.tasks, words, settings)
        if state is not None and student.can_share() and not state["shared"]:
            student = Student(plan.config, plan.tasks, words)
        if state is not None and "decoder.lm_head.weight" in state["student"]:
            student.decoder.untie()
        self.student = student.to(device).train()
        self.teacher = None
        if settings.has_momentum and {"itc", "mlm"} & set(plan.tasks):
            self.teacher = MomentumTeacher(self.student, settings.momentum, settings.queue_size).to(device)
        if settings.gradient_checkpointing:
            self.student.compute_twice()
        self.optimiser = AdamW(parameter_groups(self.student, settings.weight_decay), lr=settings.lr)
        self.schedule = LambdaLR(self.optimiser, lambda step: self._rate(step))
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        if state is None:
            torch.default_generator.manual_seed(settings.seed)
            if device.type == "cuda":
                torch.cuda.manual_seed_all(settings.seed)
        else:
            self._restore(state)

    def go(self, show_progress_bar: bool | None) -> Path:
        settings, folder = self.settings, self.folder
        folder.rewind(self.step)
        if self.step:
            self._keep()
        quiet = None if show_progress_bar is None else not show_progress_bar
        batches = self._batches()
        with (
            _Interruption() as interruption,
            tqdm(total=settings.steps, initial=self.step, unit="step", disable=quiet) as bar,
        ):
            while self.step < settings.steps:
                try:
                    row = self._advance(batches)
                except torch.cuda.OutOfMemoryError as error:
                    raise ComputeError(
                        f"the GPU has too little memory: {str(error)[:200]}; {folder.last_good()}. Set "
                        "gradient_checkpointing, or a smaller batch_size with accumulate"
                    ) from error
                if row["losses"].keys() == set(self.plan.tasks):  # a sum of fewer losses is no better
                    self.seen = [self.seen[0] + row["loss"], self.seen[1] + 1]
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                bar.update()
                last = self.step == settings.steps
                if last or self.step % settings.log_every == 0:
                    self._log(row)
                due = last or self.step % settings.checkpoint_every == 0
                if due or interruption.asked:
                    self._checkpoint(tested=due)
                if interruption.asked and not last:
                    raise KeyboardInterrupt(f"stopped at step {self.step}; {folder.last_good()}")
        return folder.path / (BEST_MODEL if self.plan.validation is not None else MODEL)

    # One step

    def _advance(self, batches: Iterator[tuple[TrainingBatch | None, list[SkippedPair]]]) -> dict[str, Any]:
        """One optimiser step. What is returned goes into the metrics."""
        settings, student = self.settings, self.student
        alpha = self._alpha()
        left_out = frozenset(task for task, step in settings.later if self.step < step)
        sums: dict[str, float] = {}
        if self.teacher is not None:
            self.teacher.update(student)
        for _ in range(settings.accumulate):
            batch, skipped = next(batches)
            self._count(skipped)
            with self._precision():
                losses = student.losses(_whole(batch, skipped).to(self.device), settings, self.teacher, alpha, left_out)
            each = torch.stack(list(losses.values()))
            for name, loss in zip(losses, each.tolist()):  # the one place where a GPU is waited for
                sums[name] = sums.get(name, 0.0) + loss / settings.accumulate
            if not math.isfinite(sum(sums.values())):
                raise self._lost("the loss", json.dumps(sums))
            self.scaler.scale(each.sum() / settings.accumulate).backward()
        self.scaler.unscale_(self.optimiser)
        norm = float(clip_grad_norm_(student.parameters(), settings.clip or math.inf))
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler leaves such a step out by itself
            raise self._lost("the gradient", json.dumps(sums))
        rate = self.schedule.get_last_lr()[0]
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # else the step was left out
            self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)
        student.clamp_temperature()
        self.step += 1
        return {
            "loss": sum(sums.values()),
            "losses": sums,
            "lr": rate,
            "grad_norm": norm if math.isfinite(norm) else None,
        }

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """Mixed precision, where there is any.

        On a CPU the fused attention's backward pass takes five times as long in bf16 as in fp32 (torch 2.15, Zen 4), and
        longer than plain products.
        """
        with contextlib.ExitStack() as stack:
            if self.dtype is not torch.float32:
                stack.enter_context(torch.autocast(self.device.type, dtype=self.dtype))
                if self.device.type == "cpu":
                    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def _rate(self, step: int) -> float:
        """Share of the highest rate: up in a line, down along a cosine."""
        settings = self.settings
        warm = round((settings.warmup or 0.0) * settings.steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        least = (settings.min_lr or 0.0) / settings.lr
        done = (step - warm) / max(1, settings.steps - warm)
        return least + (1 - least) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    def _alpha(self) -> float:
        """The momentum model is not believed before it has seen something."""
        settings = self.settings
        rise = settings.alpha_warmup_steps
        if rise is None:
            epoch = len(self.plan.source) / (settings.batch_size * settings.accumulate)
            rise = max(1, math.ceil(min(2 * epoch, settings.steps / 10)))
        return (settings.alpha or 0.0) * min(1.0, self.step / rise)

    def _lost(self, what: str, losses: str) -> ComputeError:
        return ComputeError(
            f"{what} is not finite at step {self.step + 1} ({losses}); {self.folder.last_good()}. Resuming would come here "
            f"again: begin a new run with a lower lr, or with precision fp32; its model may be {self.folder.path / MODEL}"
        )

    # Data

    def _batches(self) -> Iterator[tuple[TrainingBatch | None, list[SkippedPair]]]:
        settings, plan = self.settings, self.plan
        a_step = settings.batch_size * settings.accumulate
        order = BatchOrder(
            len(plan.source), settings.batch_size, settings.seed, self.step * a_step, settings.steps * a_step
        )
        pairs = PairDataset(plan.source, plan.config, plan.tasks, plan.tokenizer, settings)
        return iter(self._loader(pairs, order))

    def _loader(self, pairs: PairDataset, order: Any) -> DataLoader[Any]:
        workers = self.settings.workers or 0
        return DataLoader(
            pairs,
            batch_sampler=order,
            collate_fn=pairs.collate,
            num_workers=workers,
            timeout=READ_TIMEOUT if workers else 0,
            worker_init_fn=_ignore_interruption,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that it draws nothing from the run's
        )

    def _count(self, skipped: list[SkippedPair]) -> None:
        """
        Raises:
            InputError: too many pairs cannot be used.
        """
        if not skipped:
            return
        count, total = self.folder.skip(skipped), len(self.plan.source)
        if count > (self.settings.max_skipped or 0.0) * total:
            raise InputError(
                f"{count} of {total} pairs cannot be used, more than max_skipped={self.settings.max_skipped} of them "
                f"(they are named in {self.folder.path / SKIPPED}); the last: {skipped[-1].error}; "
                f"{self.folder.last_good()}"
            )

    # What a run leaves

    def _log(self, row: dict[str, Any]) -> None:
        settings, (step, then), now = self.settings, self.rate, time.perf_counter()
        pairs = (self.step - step) * settings.batch_size * settings.accumulate
        self.rate = (self.step, now)
        extra = {"temp": self.student.temp.item()} if "itc" in self.plan.tasks else {}
        place = self.step * settings.batch_size * settings.accumulate
        self.folder.log(
            {
                "step": self.step,
                "epoch": round(place / len(self.plan.source), 4),
                **row,
                **extra,
                "pairs_per_s": round(pairs / max(now - then, 1e-9), 2),
            }
        )

    def _checkpoint(self, tested: bool) -> None:
        """Save; keep it where it is the best so far.

        Args:
            tested: False after Ctrl-C between two checkpoints: it must change nothing, and is in a hurry.
        """
        better = False
        if tested:
            score, self.seen = self.seen[0] / self.seen[1] if self.seen[1] else math.inf, [0.0, 0]
            if self.plan.validation is not None:
                found = self.validate()
                self.folder.log({"step": self.step, "validation": found})
                score = found["loss"]
            better = score < self.best or math.isinf(self.best)
            self.best = min(self.best, score)
        self.better = better
        self.folder.save(self._state())
        self._keep()
        self.folder.plot()

    def _keep(self) -> None:
        """The model of the checkpoint, and its note as the best. A resumed run does it again: the stop may have come here."""
        self.folder.save_model(*self._model())
        if self.better:
            self.folder.keep_as_best()

    def validate(self) -> dict[str, float]:
        """Mean losses on the validation pairs, whole and unmirrored, and how often ITC puts a pair's other half first.

        The draws are the same every time, and leave the run's own generators as they were.
        """
        settings, plan, student = self.settings, self.plan, self.student
        pairs = PairDataset(plan.validation, plan.config, plan.tasks, plan.tokenizer, settings, augment=False)
        places = [(i, i) for i in range(len(plan.validation))]
        size = settings.batch_size
        groups = [places[i : i + size] for i in range(0, len(places), size)]
        if len(groups) > 1 and len(groups[-1]) < size:
            groups[-1] = places[-size:]  # ITC is easier in a smaller batch
        sums: dict[str, float] = {}
        unused = 0
        vectors: list[tuple[torch.Tensor, ...]] = []
        devices = [self.device] if self.device.type == "cuda" else []
        student.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.default_generator.manual_seed(settings.seed)
            if devices:
                torch.cuda.manual_seed(settings.seed)
            for batch, skipped in self._loader(pairs, groups):
                unused += len(skipped)
                batch = _whole(batch, skipped).to(self.device)
                with self._precision():
                    for name, loss in student.losses(batch, settings).items():
                        sums[name] = sums.get(name, 0.0) + float(loss) / len(groups)
                    if "itc" in plan.tasks:
                        vectors.append((*student.embed(batch), batch.image_keys, batch.caption_keys))
        student.train()
        found = {"loss": sum(sums.values()), **sums, "skipped": unused}
        if vectors:
            image, text, image_keys, caption_keys = (torch.cat(column) for column in zip(*vectors))
            same = (image_keys[:, None] == image_keys) | (caption_keys[:, None] == caption_keys)
            for name, cosines in (("i2t_r1", image @ text.T), ("t2i_r1", text @ image.T)):
                found[name] = float(same.gather(1, cosines.argmax(1, keepdim=True)).float().mean())
        return found

    def _model(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The finished model: tensors of their own (shared layers lie twice in the file), and metadata for `load`."""
        dtype = {"fp32": torch.float32, "fp16": torch.float16}[self.settings.stored]
        tensors = {
            name: value.detach().to("cpu", dtype, copy=True) for name, value in self.student.state_dict().items()
        }
        start = self.folder.described()["start"]
        source = start["model"] if start else "trained from scratch"
        # Weights are given to others: of a file no more than its name.
        origin = {"source": os.path.basename(source) if os.path.isabs(source) else source, "step": self.step}
        origin["version"] = metadata.version("image-text-embedding")
        return tensors, {"config": dataclasses.asdict(self.plan.config), "origin": origin}

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "shared": self.student.can_share() and self.student.decoder.embeddings is self.student.text.embeddings,
            "student": self.student.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "best": self.best,
            "better": self.better,
            "seen": self.seen,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["cpu_generator"])
        if state["cuda_generator"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)
        self.step, self.best, self.seen = state["step"], state["best"], state["seen"]
        self.better = state["better"]
        self.rate = (self.step, time.perf_counter())


class _Interruption:
    """While it is open, the first Ctrl-C only asks, and the second stops at once. (Only the main thread gets signals.)"""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> _Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        print("\nfinishing the step, then writing a checkpoint; Ctrl-C again stops at once", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _whole(batch: TrainingBatch | None, skipped: list[SkippedPair]) -> TrainingBatch:
    """
    Raises:
        InputError: there is no batch, because nothing could be used.
    """
    if batch is None:
        raise InputError(f"up to {MAX_SKIPPED_IN_A_ROW} pairs in a row cannot be used; the last: {skipped[-1].error}")
    return batch


def _ignore_interruption(_: int) -> None:
    """Ctrl-C reaches every process of the terminal; the reading ones must live until the last step is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def autocast_dtype(precision: str | None, device: torch.device) -> torch.dtype:
    if precision is None:
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 trains on a GPU; on a CPU use fp32 (or bf16 where it has units for it)")
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
