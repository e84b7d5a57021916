"""What is trained: the parts that inference uses, under the same names, and their losses.

A Student's state dict is a checkpoint that `load` opens: nothing is converted.
"""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as compute_twice

from image_text_embedding.inputs.pixels import normalize_pixels
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.checkpoints.parameter_names import MLM_HEAD_NAMES, PARAMETER_NAMES
from image_text_embedding.models.checkpoints.weight_loading import is_untied, load_weights
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.models.networks.bert import LanguageHead, Layer, TextStack
from image_text_embedding.models.networks.heads import build_decoder
from image_text_embedding.models.networks.towers import ImageTower
from image_text_embedding.models.part_cache import ignored_parameters
from image_text_embedding.training.data.batches import ContrastiveKeys, TrainingBatch
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.settings import TrainConfig

TEMPERATURE = 0.07  # where it starts; it is learnt within (0.001, 0.5)


@dataclass(frozen=True)
class VocabularyIds:
    """What the objectives must know of the vocabulary."""

    cls_id: int
    sep_id: int
    mask_id: int
    size: int


def unit_vectors(projection: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """States (N, L, width) -> unit vectors (N, D) of their first tokens, in full precision whatever the towers use."""
    with torch.autocast(states.device.type, enabled=False):
        return F.normalize(projection(states[:, 0].float()), dim=-1)


class Teacher(Protocol):
    """What the student asks of a momentum model: see `MomentumTeacher`, which has these methods."""

    def look(self, pixels: torch.Tensor) -> torch.Tensor: ...

    def keys(self, states: torch.Tensor, batch: TrainingBatch) -> ContrastiveKeys: ...

    def with_queue(self, new: ContrastiveKeys) -> ContrastiveKeys: ...

    def enqueue(self, new: ContrastiveKeys) -> None: ...


def sinusoids(patches: int, width: int, strength: float) -> torch.Tensor:
    """Position embeddings (1, 1 + patches, width) that say row and column; 0 for the class token.

    Sines and cosines of that amplitude as in "Attention Is All You Need" (§3.5), half of the width for either.
    """
    side, quarter = int(patches**0.5), width // 4
    rates = 100 ** (-torch.arange(quarter) / quarter)
    angles = torch.arange(side)[:, None] * rates  # (side, quarter)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = waves[:, None].expand(-1, side, -1), waves.expand(side, -1, -1)
    found = torch.zeros(1, 1 + patches, width)
    found[0, 1:, : 4 * quarter] = strength * torch.cat([rows, columns], dim=2).flatten(0, 1)
    return found


class Student(ImageTower):
    """The towers and heads that some objectives train, and their losses."""

    def __init__(self, config: ModelConfig, tasks: tuple[str, ...], words: VocabularyIds) -> None:
        """
        Args:
            config: of the finished model (`finished`).
            tasks: of OBJECTIVES.
        """
        super().__init__(config)
        self.config, self.tasks, self.words = config, tasks, words
        vision, text = config.vision, config.text
        if tasks != ("lm",):
            fuses = bool({"itm", "vqa", "mlm"} & set(tasks))
            self.text = TextStack(text, vision.width if fuses else None)
        if "itc" in tasks:
            assert config.embed_dim is not None
            self.text_proj = nn.Linear(text.width, config.embed_dim)
            self.temp = nn.Parameter(torch.tensor(TEMPERATURE))
        if "itm" in tasks:
            self.itm_head = nn.Linear(text.width, 2)
        if {"lm", "vqa"} & set(tasks):
            self.decoder = build_decoder(config, vision.width if "lm" in tasks else text.width)
        if "mlm" in tasks:
            self.mlm_head = LanguageHead(text)

    def initialise(self, settings: TrainConfig) -> None:
        """Weights for training from scratch: normal with BERT's and ViT's 0.02 at width 768, wider where layers are narrower.

        A sum over fewer inputs would be smaller otherwise, and a small model would begin nearly blind.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02 * (768 / module.in_features) ** 0.5)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        positions = cast(nn.Parameter, self.vision.pos_embed)
        if settings.sinusoids is None:
            nn.init.trunc_normal_(positions, std=0.02)
        else:
            nn.init.zeros_(positions)
            self.add_sinusoids(settings.sinusoids)
        nn.init.normal_(cast(torch.Tensor, self.vision.cls_token), std=0.02)

    def add_sinusoids(self, strength: float) -> None:
        """Make row and column plainer to see than the position embeddings do by themselves."""
        positions = cast(nn.Parameter, self.vision.pos_embed)
        positions.data += sinusoids(positions.shape[1] - 1, positions.shape[2], strength)

    def share_layers(self) -> None:
        """BLIP's encoder and decoder share all but self-attention (paper §3.2; `tie_encoder_decoder_weights`)."""
        self.decoder.embeddings = self.text.embeddings
        for mine, its in zip(cast("list[Layer]", self.decoder.layers), cast("list[Layer]", self.text.layers)):
            mine.fc1, mine.fc2, mine.norm = its.fc1, its.fc2, its.norm
            mine.cross = mine.cross if its.cross is None else its.cross

    def can_share(self) -> bool:
        """Whether there are an encoder and a captioning decoder of one form, as in BLIP's pretraining.

        One that answers too attends to questions as well as to pictures: it shares nothing, as in BLIP's VQA model.
        """
        both = self.config.family == "blip" and "lm" in self.tasks and hasattr(self, "text")
        return both and "vqa" not in self.tasks and len(self.decoder.layers) == len(self.text.layers)

    def shares_values(self) -> bool:
        """Whether what could be shared is equal already, as in the official pretrained files."""
        if not self.can_share():
            return False
        mine, its = self.decoder.state_dict(), self.text.state_dict()
        return all(
            torch.equal(value, its[key]) for key, value in mine.items() if key in its and ".attention." not in key
        )

    def compute_twice(self) -> None:
        """Gradient checkpointing, for every layer of every stack."""
        self.vision.set_grad_checkpointing(True)
        for module in self.modules():
            if isinstance(module, Layer):
                module.forward = partial(compute_twice, module.forward, use_reentrant=False)  # type: ignore[method-assign]

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        if "itc" in self.tasks:
            self.temp.clamp_(0.001, 0.5)

    def embed(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of pictures and captions, (N, D) each: what ITC compares."""
        assert batch.captions is not None
        alone = self.text(batch.captions.ids, batch.captions.mask)
        return unit_vectors(self.vision_proj, self.look(batch.pixels)), unit_vectors(self.text_proj, alone)

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, S, S, 3) -> states (N, 1 + patches, width)"""
        return self.states(normalize_pixels(pixels, self.config.vision.mean, self.config.vision.std))

    def losses(
        self,
        batch: TrainingBatch,
        settings: TrainConfig,
        teacher: Teacher | None = None,
        alpha: float = 0.0,
        left_out: frozenset[str] = frozenset(),
    ) -> dict[str, torch.Tensor]:
        """The loss of each objective; they are summed unweighted, as in the papers.

        Args:
            left_out: objectives whose time has not come.
            teacher: the momentum model, already moved; its queue takes this batch in.
            alpha: weight of its opinion.
        """
        states = self.look(batch.pixels)
        taught = None if teacher is None else teacher.look(batch.pixels)
        found: dict[str, torch.Tensor] = {}
        tasks = set(self.tasks) - left_out
        if "itc" in tasks:
            assert batch.captions is not None
            alone = self.text(batch.captions.ids, batch.captions.mask)
            image, text = unit_vectors(self.vision_proj, states), unit_vectors(self.text_proj, alone)
            new = None if teacher is None or taught is None else teacher.keys(taught, batch)
            with torch.autocast(states.device.type, enabled=False):
                found["itc"], i2t, t2i, same = self._contrast(image, text, batch, teacher, new, alpha)
            if "itm" in tasks:
                found["itm"] = self._match(states, alone, batch, i2t, t2i, same)
        smoothing = settings.label_smoothing
        if smoothing is None:
            smoothing = 0.1 if self.config.family == "blip" else 0.0
        if "lm" in tasks:
            assert batch.prompted is not None
            ids, mask = batch.prompted.ids, batch.prompted.mask
            counted = mask.bool()
            counted[:, : batch.prompt_length] = False
            logits = self.decoder.logits(ids, self.decoder.read(states), attention_mask=mask)
            found["lm"] = losses.lm(logits.float(), ids, counted, smoothing)
        if "vqa" in tasks:
            found["vqa"] = self._answer(states, batch, smoothing)
        if "mlm" in tasks:
            found["mlm"] = self._fill_in(states, batch, settings.mlm_probability, teacher, taught, alpha)
        return found

    def _contrast(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        batch: TrainingBatch,
        teacher: Teacher | None,
        new: ContrastiveKeys | None,
        alpha: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """ITC's loss; logits and matches within the batch, (N, N) each.

        Args:
            new: what the teacher makes of the batch.
        """
        n = len(image)
        keys = ContrastiveKeys(image, text, batch.image_keys, batch.caption_keys)
        soft: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        if teacher is not None and new is not None:
            keys = teacher.with_queue(new)
            if alpha:
                soft = losses.itc_logits(new.image, new.text, keys.image, keys.text, self.temp.detach())
            teacher.enqueue(new)
        same = batch.image_keys[:, None] == keys.image_keys
        same = same | (batch.caption_keys[:, None] == keys.caption_keys)
        i2t, t2i = losses.itc_logits(image, text, keys.image, keys.text, self.temp)
        targets = (losses.itc_targets(same, logits, alpha) for logits in soft)
        loss = losses.itc(i2t, t2i, *targets)
        return loss, i2t[:, :n].detach(), t2i[:, :n].detach(), same[:, :n]

    def _match(
        self,
        states: torch.Tensor,
        alone: torch.Tensor,
        batch: TrainingBatch,
        i2t: torch.Tensor,
        t2i: torch.Tensor,
        same: torch.Tensor,
    ) -> torch.Tensor:
        """ITM's loss. Each text is embedded once (ALBEF: read once), each picture's keys and values are computed once."""
        assert batch.captions is not None
        pictures, texts, labels = losses.itm_pairs(i2t, t2i, same)
        begun = alone if self.config.text.fusion_start else self.text.embeddings(self._first(batch.captions.ids))
        x, mask = begun[texts], batch.captions.mask[texts][:, None, None].bool()
        for layer in cast("list[Layer]", self.text.layers)[self.config.text.fusion_start :]:
            keys, values = layer.read(states)
            x = layer(x, mask, (keys[pictures], values[pictures]))
        return losses.itm(self.itm_head(x[:, 0]).float(), labels)

    def _answer(self, states: torch.Tensor, batch: TrainingBatch, smoothing: float) -> torch.Tensor:
        assert batch.questions is not None and batch.answers is not None
        assert batch.answer_of is not None and batch.answer_weights is not None
        asked = batch.questions
        read = self.text.fuse(self._first(asked.ids), asked.mask, states)
        context = self.decoder.read(read[batch.answer_of])
        ids, mask = batch.answers.ids, batch.answers.mask
        logits = self.decoder.logits(ids, context, asked.mask[batch.answer_of], mask).float()
        return losses.answers(logits, ids, mask.bool(), batch.answer_weights, len(asked.ids), smoothing)

    def _fill_in(
        self,
        states: torch.Tensor,
        batch: TrainingBatch,
        probability: float,
        teacher: Teacher | None,
        taught: torch.Tensor | None,
        alpha: float,
    ) -> torch.Tensor:
        assert batch.captions is not None
        ids, mask = batch.captions.ids, batch.captions.mask
        maskable = mask.bool() & (ids != self.words.cls_id) & (ids != self.words.sep_id)
        changed, targets = losses.mask_words(ids, maskable, self.words.mask_id, self.words.size, probability)
        asked = targets != losses.IGNORED_LABEL

        def guess(model: Any, pictures: torch.Tensor) -> torch.Tensor:
            read = model.text.fuse(changed, mask, pictures)[asked]
            return model.mlm_head(read, model.text.embeddings.word.weight).float()

        soft = None
        if teacher is not None and taught is not None and alpha:
            with torch.no_grad():
                soft = guess(teacher, taught)
        return losses.mlm(guess(self, states), targets[asked], soft, alpha)

    def _first(self, ids: torch.Tensor) -> torch.Tensor:
        """A text that is fused with a picture begins with [ENC] where the family has it."""
        enc_id = self.config.text.enc_id
        if enc_id is None:
            return ids
        return torch.cat([torch.full_like(ids[:, :1], enc_id), ids[:, 1:]], dim=1)


def new_student(config: ModelConfig, tasks: tuple[str, ...], words: VocabularyIds, settings: TrainConfig) -> Student:
    """A student with fresh weights, which depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        student = Student(config, tasks, words)
        student.initialise(settings)
    if student.can_share():
        student.share_layers()
    return student


def student_of(resolved: ResolvedModel, config: ModelConfig, tasks: tuple[str, ...], words: VocabularyIds) -> Student:
    """A student with a checkpoint's weights; encoder and decoder stay shared where they are equal there.

    Raises:
        CheckpointError: the weights cannot be read safely, or lack what an objective trains.
    """
    with torch.device("meta"):
        student = Student(config, tasks, words)
    names = (*PARAMETER_NAMES[config.family], *MLM_HEAD_NAMES)
    checkpoint = read_checkpoint(resolved.weights)
    # Hugging Face's files have lost the temperature.
    missing = {} if "temp" in list(checkpoint.tensors) else {"temp": torch.tensor(TEMPERATURE)}
    tensors: Mapping[str, torch.Tensor] = ChainMap(missing, cast("dict[str, torch.Tensor]", checkpoint.tensors))
    checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    if hasattr(student, "decoder") and is_untied(checkpoint, names):
        student.decoder.untie()
    load_weights(student, checkpoint, names, ignored_parameters("student", config), torch.device("cpu"), torch.float32)
    student.requires_grad_(True)
    if student.shares_values():
        student.share_layers()
    return student


def parameter_groups(student: Student, weight_decay: float | None) -> list[dict[str, Any]]:
    """Matrices decay; biases, LayerNorms and the temperature do not."""
    parameters = list(student.parameters())
    split: Iterable[tuple[list[nn.Parameter], float]] = (
        ([p for p in parameters if p.ndim >= 2], weight_decay or 0.0),
        ([p for p in parameters if p.ndim < 2], 0.0),
    )
    return [{"params": chosen, "weight_decay": decay} for chosen, decay in split if chosen]
