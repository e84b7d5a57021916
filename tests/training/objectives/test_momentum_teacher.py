"""The momentum model: its moving average, its queue, and the loss over both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.training_runs import (
    batch_of,
    student,
)

from image_text_embedding.training import TrainConfig
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.momentum_teacher import MomentumTeacher


class TestMomentumTeacher:
    def test_it_follows_slowly(self, words: Path) -> None:
        model = student("albef", ("itc", "mlm"), words)
        teacher = MomentumTeacher(model, 0.9, None)
        before = {name: p.clone() for name, p in teacher.named_parameters()}
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        teacher.update(model)
        assert {name.split(".")[0] for name in before} == {"vision", "vision_proj", "text", "text_proj", "mlm_head"}
        for name, parameter in teacher.named_parameters():
            expected = 0.9 * before[name] + 0.1 * model.get_parameter(name)
            assert torch.allclose(parameter, expected, atol=1e-6)

    def test_the_queue_holds_the_latest_pairs(self, words: Path) -> None:
        model = student("blip", ("itc",), words)
        teacher = MomentumTeacher(model, 0.9, 5)
        expected_queue: list[int] = []
        for start in range(0, 21, 3):
            batch = batch_of(model.config, ("itc",), words, 3)
            batch.image_keys = torch.arange(start, start + 3)
            new = teacher.keys(teacher.encode_pixels(batch.pixels), batch)
            keys_with_queue = teacher.with_queue(new)
            assert keys_with_queue.image_keys[:3].tolist() == batch.image_keys.tolist()
            assert sorted(keys_with_queue.image_keys[3:].tolist()) == sorted(expected_queue)
            assert (
                len(keys_with_queue.image)
                == len(keys_with_queue.text)
                == len(keys_with_queue.caption_keys)
                == 3 + len(expected_queue)
            )
            teacher.enqueue(new)
            expected_queue = [*expected_queue, *range(start, start + 3)][-5:]

    def test_the_queue_takes_the_end_of_a_larger_batch(self, words: Path) -> None:
        model = student("blip", ("itc",), words)
        teacher = MomentumTeacher(model, 0.9, 2)
        batch = batch_of(model.config, ("itc",), words, 3)
        new = teacher.keys(teacher.encode_pixels(batch.pixels), batch)
        for _ in range(2):
            teacher.enqueue(new)
        keys_with_queue = teacher.with_queue(new)
        for queued, values in zip(keys_with_queue.tensors(), new.tensors()):
            rows = {tuple(row.flatten().tolist()) for row in queued[3:]}
            assert rows == {tuple(row.flatten().tolist()) for row in values[1:]}

    def test_the_loss_is_the_formula_over_batch_and_queue(self, words: Path) -> None:
        """The ITC of `Student.losses` with a queue, against the functions of `losses` called one by one."""
        model = student("blip", ("itc",), words)
        teacher = MomentumTeacher(model, 0.5, 16)
        past, batch = (batch_of(model.config, ("itc",), words, n) for n in (8, 4))
        with torch.no_grad():
            model.losses(past, TrainConfig(), teacher, 0.4)
            for parameter in model.parameters():
                parameter.mul_(1.1)
            teacher.update(model)
            new, old = (teacher.keys(teacher.encode_pixels(each.pixels), each) for each in (batch, past))
            old = dataclasses.replace(old, image=teacher.image_queue[:8], text=teacher.text_queue[:8])
            loss = model.losses(batch, TrainConfig(), teacher, 0.4)["itc"]
            image, text = model.embed(batch)
            keys = [torch.cat(pair) for pair in zip(new.tensors(), old.tensors())]
            same = (batch.image_keys[:, None] == keys[2]) | (batch.caption_keys[:, None] == keys[3])
            assert same.sum(1).tolist() == [2, 2, 2, 2]  # itself, and the same picture in the queue
            soft = losses.itc_logits(new.image, new.text, keys[0], keys[1], model.temp)
            logits = losses.itc_logits(image, text, keys[0], keys[1], model.temp)
            expected = losses.itc(*logits, *(losses.itc_targets(same, each, 0.4) for each in soft))
        assert float(loss) == pytest.approx(float(expected), abs=1e-6)
