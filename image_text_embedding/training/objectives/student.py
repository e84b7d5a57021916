"""The model in training: the towers and heads that inference uses, under the same parameter names, with their losses.

The state dict of a Student is a checkpoint that `load` opens without conversion.
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
from torch.utils.checkpoint import checkpoint as recompute

from image_text_embedding.inputs.pixels import normalize_pixels
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.checkpoints.parameter_names import MLM_HEAD_NAMES, PARAMETER_NAMES
from image_text_embedding.models.checkpoints.weight_loading import is_untied, load_weights
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.models.networks.bert import LanguageHead, Layer, TextStack
from image_text_embedding.models.networks.heads import ENTAILMENT_CLASSES, build_classifier, build_decoder
from image_text_embedding.models.networks.towers import ImageTower
from image_text_embedding.models.part_cache import ignored_parameters
from image_text_embedding.training.data.batches import ContrastiveKeys, TrainingBatch
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.classifying import classifier_start, classifying_loss
from image_text_embedding.training.objectives.sinusoids import sinusoid_positions
from image_text_embedding.training.settings import CLASSIFYING, TrainConfig

INITIAL_TEMPERATURE = 0.07

TEMPERATURE_RANGE = (0.001, 0.5)


@dataclass(frozen=True)
class VocabularyIds:
    """The special ids and the size of the vocabulary, which masking needs."""

    cls_id: int
    sep_id: int
    mask_id: int
    size: int


def unit_vectors(projection: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """States (N, L, width) -> unit vectors (N, D) of their first tokens, in fp32 even under autocast."""
    with torch.autocast(states.device.type, enabled=False):
        return F.normalize(projection(states[:, 0].float()), dim=-1)


class Teacher(Protocol):
    """What the losses need of a momentum model. `MomentumTeacher` implements it; its docstrings describe the methods."""

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor: ...

    def keys(self, states: torch.Tensor, batch: TrainingBatch) -> ContrastiveKeys: ...

    def with_queue(self, new: ContrastiveKeys) -> ContrastiveKeys: ...

    def enqueue(self, new: ContrastiveKeys) -> None: ...


class Student(ImageTower):
    """The towers and heads that the chosen objectives train, and their losses."""

    def __init__(self, config: ModelConfig, tasks: tuple[str, ...], vocabulary: VocabularyIds) -> None:
        """
        Args:
            config: of the finished model, from `finished_config`.
            tasks: keys of OBJECTIVES.
        """
        super().__init__(config)
        self.config, self.tasks, self.vocabulary = config, tasks, vocabulary
        vision, text = config.vision, config.text
        if tasks != ("lm",):
            has_fusion = bool({"itm", "vqa", "mlm", *CLASSIFYING} & set(tasks))
            self.text = TextStack(text, vision.width if has_fusion else None)
        if "itc" in tasks:
            assert config.embed_dim is not None
            self.text_proj = nn.Linear(text.width, config.embed_dim)
            self.temp = nn.Parameter(torch.tensor(INITIAL_TEMPERATURE))
        if "itm" in tasks:
            self.itm_head = nn.Linear(text.width, 2)
        if {"lm", "vqa"} & set(tasks):
            self.decoder = build_decoder(config, vision.width if "lm" in tasks else text.width)
        if "mlm" in tasks:
            self.mlm_head = LanguageHead(text)
        if set(CLASSIFYING) & set(tasks):
            self.cls_head = build_classifier(text.width, 2 if "nlvr" in tasks else len(ENTAILMENT_CLASSES))

    def initialise(self, settings: TrainConfig) -> None:
        """Draw weights for training from scratch: std 0.02 as in BERT and ViT at width 768, larger for narrower layers.

        With 0.02 at every width, the outputs of a narrow layer are small sums, and a small model starts out nearly blind.
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
        """Add `sinusoid_positions` to the position embeddings, so that rows and columns are easier to tell apart."""
        positions = cast(nn.Parameter, self.vision.pos_embed)
        positions.data += sinusoid_positions(positions.shape[1] - 1, positions.shape[2], strength)

    def share_layers(self) -> None:
        """Share all but self-attention between text encoder and decoder (BLIP §3.2, `tie_encoder_decoder_weights`)."""
        self.decoder.embeddings = self.text.embeddings
        layers = zip(cast("list[Layer]", self.decoder.layers), cast("list[Layer]", self.text.layers))
        for decoder_layer, text_layer in layers:
            decoder_layer.fc1, decoder_layer.fc2, decoder_layer.norm = text_layer.fc1, text_layer.fc2, text_layer.norm
            if text_layer.cross is not None:
                decoder_layer.cross = text_layer.cross

    def can_share_layers(self) -> bool:
        """Whether text encoder and captioning decoder have the same shape, as in BLIP's pretraining.

        A decoder that also answers attends to questions as well as to pictures: it shares nothing, as in BLIP's VQA model.
        """
        has_both = self.config.family == "blip" and "lm" in self.tasks and hasattr(self, "text")
        return has_both and "vqa" not in self.tasks and len(self.decoder.layers) == len(self.text.layers)

    def has_equal_layers(self) -> bool:
        """Whether the weights that can be shared are equal, as in the official pretrained files."""
        if not self.can_share_layers():
            return False
        decoder, text = self.decoder.state_dict(), self.text.state_dict()
        shareable = [key for key in decoder if key in text and ".attention." not in key]
        return all(torch.equal(decoder[key], text[key]) for key in shareable)

    def enable_gradient_checkpointing(self) -> None:
        """Compute every layer again in the backward pass, instead of storing its activations."""
        self.vision.set_grad_checkpointing(True)
        for module in self.modules():
            if isinstance(module, Layer):
                module.forward = partial(recompute, module.forward, use_reentrant=False)  # type: ignore[method-assign]

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        if "itc" in self.tasks:
            self.temp.clamp_(*TEMPERATURE_RANGE)

    def embed(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of pictures and captions, (N, D) each: what ITC compares."""
        assert batch.captions is not None
        text_states = self.text(batch.captions.ids, batch.captions.mask)
        image_states = self.encode_pixels(batch.pixels)
        return unit_vectors(self.vision_proj, image_states), unit_vectors(self.text_proj, text_states)

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, S, S, 3), RGB -> states (N, 1 + patches, width)."""
        return self.states(normalize_pixels(pixels, self.config.vision.mean, self.config.vision.std))

    def losses(
        self,
        batch: TrainingBatch,
        settings: TrainConfig,
        teacher: Teacher | None = None,
        alpha: float = 0.0,
        left_out: frozenset[str] = frozenset(),
    ) -> dict[str, torch.Tensor]:
        """The loss of each objective. As in the papers, their sum is minimised, without weights.

        Args:
            teacher: the momentum model, already updated for this step; the batch is added to its queue.
            alpha: weight of the teacher's predictions in the targets of ITC and MLM.
            left_out: objectives that start in a later step.

        Returns:
            a scalar for each remaining objective, in the order of OBJECTIVES
        """
        states = self.encode_pixels(batch.pixels)
        teacher_states = None if teacher is None else teacher.encode_pixels(batch.pixels)
        found: dict[str, torch.Tensor] = {}
        tasks = set(self.tasks) - left_out
        if "itc" in tasks:
            assert batch.captions is not None
            text_states = self.text(batch.captions.ids, batch.captions.mask)
            image, text = unit_vectors(self.vision_proj, states), unit_vectors(self.text_proj, text_states)
            new_keys = None if teacher is None or teacher_states is None else teacher.keys(teacher_states, batch)
            with torch.autocast(states.device.type, enabled=False):
                found["itc"], i2t, t2i, same = self._contrastive_loss(image, text, batch, teacher, new_keys, alpha)
            if "itm" in tasks:
                found["itm"] = self._matching_loss(states, text_states, batch, i2t, t2i, same)
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
            found["vqa"] = self._answering_loss(states, batch, smoothing, teacher, teacher_states, alpha)
        if "mlm" in tasks:
            probability = settings.mlm_probability
            found["mlm"] = self._masked_word_loss(states, batch, probability, teacher, teacher_states, alpha)
        for task in set(CLASSIFYING) & tasks:
            assert batch.captions is not None
            ids = self._with_enc_token(batch.captions.ids)
            found[task] = classifying_loss(self, ids, batch, states, teacher, teacher_states, alpha)
        return found

    def _contrastive_loss(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        batch: TrainingBatch,
        teacher: Teacher | None,
        new_keys: ContrastiveKeys | None,
        alpha: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss of ITC.

        Args:
            image, text: the student's unit vectors of the batch, (N, D) each.
            new_keys: the teacher's unit vectors of the batch.

        Returns:
            the loss; image-to-text logits, text-to-image logits and matches within the batch, (N, N) each
        """
        n = len(image)
        keys = ContrastiveKeys(image, text, batch.image_keys, batch.caption_keys)
        soft_logits: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        if teacher is not None and new_keys is not None:
            keys = teacher.with_queue(new_keys)
            if alpha:
                soft_logits = losses.itc_logits(
                    new_keys.image, new_keys.text, keys.image, keys.text, self.temp.detach()
                )
            teacher.enqueue(new_keys)
        same = batch.image_keys[:, None] == keys.image_keys
        same = same | (batch.caption_keys[:, None] == keys.caption_keys)
        i2t, t2i = losses.itc_logits(image, text, keys.image, keys.text, self.temp)
        targets = (losses.itc_targets(same, logits, alpha) for logits in soft_logits)
        loss = losses.itc(i2t, t2i, *targets)
        return loss, i2t[:, :n].detach(), t2i[:, :n].detach(), same[:, :n]

    def _matching_loss(
        self,
        states: torch.Tensor,
        text_states: torch.Tensor,
        batch: TrainingBatch,
        i2t: torch.Tensor,
        t2i: torch.Tensor,
        same: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of ITM over 3N pairs.

        The part of the text encoder below the fusion layers (BLIP: the embeddings alone) runs once per text, and the keys
        and values of the cross-attention are computed once per picture.

        Args:
            states: of the pictures, (N, 1 + patches, width).
            text_states: of the captions without pictures, (N, L, width).
            i2t, t2i, same: as `_contrastive_loss` returns them.
        """
        assert batch.captions is not None
        pictures, texts, labels = losses.itm_pairs(i2t, t2i, same)
        if self.config.text.fusion_start:
            unfused = text_states
        else:
            unfused = self.text.embeddings(self._with_enc_token(batch.captions.ids))
        x, mask = unfused[texts], batch.captions.mask[texts][:, None, None].bool()
        for layer in cast("list[Layer]", self.text.layers)[self.config.text.fusion_start :]:
            keys, values = layer.read(states)
            x = layer(x, mask, (keys[pictures], values[pictures]))
        return losses.itm(self.itm_head(x[:, 0]).float(), labels)

    def _answering_loss(
        self,
        states: torch.Tensor,
        batch: TrainingBatch,
        smoothing: float,
        teacher: Teacher | None = None,
        teacher_states: torch.Tensor | None = None,
        alpha: float = 0.0,
    ) -> torch.Tensor:
        """The loss of VQA: each answer is predicted from its question's states, fused with the picture."""
        questions, answer_of = batch.questions, batch.answer_of
        assert questions is not None and batch.answers is not None and batch.answer_weights is not None
        question_ids = self._with_enc_token(questions.ids)
        ids, mask = batch.answers.ids, batch.answers.mask

        def token_logits(model: Any, image_states: torch.Tensor) -> torch.Tensor:
            question_states = model.text.fuse(question_ids, questions.mask, image_states)
            context = model.decoder.read(question_states[answer_of])
            return model.decoder.logits(ids, context, questions.mask[answer_of], mask).float()

        soft_logits = None
        if hasattr(teacher, "decoder") and teacher_states is not None and alpha:
            with torch.no_grad():
                soft_logits = token_logits(teacher, teacher_states)
        logits, weights = token_logits(self, states), batch.answer_weights
        return losses.answers(logits, ids, mask.bool(), weights, len(questions.ids), smoothing, soft_logits, alpha)

    def _masked_word_loss(
        self,
        states: torch.Tensor,
        batch: TrainingBatch,
        probability: float,
        teacher: Teacher | None,
        teacher_states: torch.Tensor | None,
        alpha: float,
    ) -> torch.Tensor:
        """The loss of MLM: masked words are predicted from the rest of the caption and the picture."""
        assert batch.captions is not None
        ids, mask = batch.captions.ids, batch.captions.mask
        maskable = mask.bool() & (ids != self.vocabulary.cls_id) & (ids != self.vocabulary.sep_id)
        masked_ids, targets = losses.mask_words(
            ids, maskable, self.vocabulary.mask_id, self.vocabulary.size, probability
        )
        asked = targets != losses.IGNORED_LABEL

        def word_logits(model: Any, image_states: torch.Tensor) -> torch.Tensor:
            fused = model.text.fuse(masked_ids, mask, image_states)[asked]
            return model.mlm_head(fused, model.text.embeddings.word.weight).float()

        soft_logits = None
        if teacher is not None and teacher_states is not None and alpha:
            with torch.no_grad():
                soft_logits = word_logits(teacher, teacher_states)
        return losses.mlm(word_logits(self, states), targets[asked], soft_logits, alpha)

    def _with_enc_token(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids for fusion with a picture: [ENC] replaces [CLS] in families that have it."""
        enc_id = self.config.text.enc_id
        if enc_id is None:
            return ids
        return torch.cat([torch.full_like(ids[:, :1], enc_id), ids[:, 1:]], dim=1)


def new_student(
    config: ModelConfig, tasks: tuple[str, ...], vocabulary: VocabularyIds, settings: TrainConfig
) -> Student:
    """A student with random weights, which depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        student = Student(config, tasks, vocabulary)
        student.initialise(settings)
    if student.can_share_layers():
        student.share_layers()
    return student


def pretrained_student(
    resolved: ResolvedModel, config: ModelConfig, tasks: tuple[str, ...], vocabulary: VocabularyIds, seed: int = 0
) -> Student:
    """A student with the weights of a checkpoint. Encoder and decoder share their layers if these are equal there.

    Args:
        seed: of what NLVR and VE need and the checkpoint lacks: the classifier, and BLIP's merging layers.

    Raises:
        CheckpointError: the weights cannot be read safely, or lack a part that an objective trains.
    """
    with torch.device("meta"):
        student = Student(config, tasks, vocabulary)
    names = (*PARAMETER_NAMES[config.family], *MLM_HEAD_NAMES)
    checkpoint = read_checkpoint(resolved.weights)
    # Hugging Face's conversions lack the temperature.
    missing = {} if "temp" in list(checkpoint.tensors) else {"temp": torch.tensor(INITIAL_TEMPERATURE)}
    tensors: Mapping[str, torch.Tensor] = ChainMap(missing, cast("dict[str, torch.Tensor]", checkpoint.tensors))
    if set(CLASSIFYING) & set(tasks):
        tensors = classifier_start(student, checkpoint, config, seed)
    checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    if hasattr(student, "decoder") and is_untied(checkpoint, names):
        student.decoder.untie()
    load_weights(student, checkpoint, names, ignored_parameters("student", config), torch.device("cpu"), torch.float32)
    student.requires_grad_(True)
    if student.has_equal_layers():
        student.share_layers()
    return student


def parameter_groups(student: Student, weight_decay: float | None) -> list[dict[str, Any]]:
    """Parameters for the optimiser: matrices with weight decay; biases, LayerNorms and the temperature without."""
    parameters = list(student.parameters())
    groups: Iterable[tuple[list[nn.Parameter], float]] = (
        ([p for p in parameters if p.ndim >= 2], weight_decay or 0.0),
        ([p for p in parameters if p.ndim < 2], 0.0),
    )
    return [{"params": chosen, "weight_decay": decay} for chosen, decay in groups if chosen]
