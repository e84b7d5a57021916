"""The model in training: the towers and heads that inference uses, under the same parameter names, with their losses.

The state dict of a Student is a checkpoint that `load` opens without conversion.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute

from image_text_embedding.inputs.pixels import normalize_pixels
from image_text_embedding.models.config import INITIAL_TEMPERATURE, TEMPERATURE_RANGE, ModelConfig
from image_text_embedding.models.networks.bert import LanguageHead, Layer, TextStack
from image_text_embedding.models.networks.heads import ENTAILMENT_CLASSES, build_classifier, build_decoder
from image_text_embedding.models.networks.towers import ImageTower
from image_text_embedding.models.networks.vision_transformer import Block
from image_text_embedding.training.data.batches import ContrastiveKeys, TokenRows, TrainingBatch
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.classifying import classifying_loss
from image_text_embedding.training.objectives.matches import Fits, fitting_queries, matching_pairs
from image_text_embedding.training.objectives.sinusoids import sinusoid_positions
from image_text_embedding.training.settings import CLASSIFYING, TrainConfig


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


def parts_by_length(lengths: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
    """Rows (R,) in four parts, each with its longest length: texts of similar length together need little padding."""
    return [(part, int(lengths[part[-1]])) for part in lengths.argsort(stable=True).chunk(4)]


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
        positions = self.vision.pos_embed
        if settings.sinusoids is None:
            nn.init.trunc_normal_(positions, std=0.02)
        else:
            nn.init.zeros_(positions)
            self.add_sinusoids(settings.sinusoids)
        nn.init.normal_(self.vision.cls_token, std=0.02)

    def add_sinusoids(self, strength: float) -> None:
        """Add `sinusoid_positions` to the position embeddings, so that rows and columns are easier to tell apart."""
        positions = self.vision.pos_embed
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
        for module in self.modules():
            if isinstance(module, (Layer, Block)):
                module.forward = partial(recompute, module.forward, use_reentrant=False)  # type: ignore[method-assign]

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        if "itc" in self.tasks:
            self.temp.clamp_(*TEMPERATURE_RANGE)

    def embed(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of captions and of the picture of each, (C, D) each: what ITC compares."""
        assert batch.captions is not None
        text_states = self.text(batch.captions.ids, batch.captions.mask)
        image = unit_vectors(self.vision_proj, self.encode_pixels(batch.pixels))
        return image.repeat_interleave(batch.captions_per_picture, 0), unit_vectors(self.text_proj, text_states)

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
        fits: Fits | None = None,
    ) -> dict[str, torch.Tensor]:
        """The loss of each objective. As in the papers, their sum is minimised, without weights.

        Args:
            teacher: the momentum model, already updated for this step; the batch is added to its queue.
            alpha: weight of the teacher's predictions in the targets of ITC and MLM.
            left_out: objectives that start in a later step.
            fits: the predicate that reads the labels of the batch; None = only equal keys match.

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
            of_pictures, image = image, image.repeat_interleave(batch.captions_per_picture, 0)
            new_keys = None if teacher is None or teacher_states is None else teacher.keys(teacher_states, batch)
            with torch.autocast(states.device.type, enabled=False):
                found["itc"], i2t, t2i, same = self._contrastive_loss(
                    image, text, batch, teacher, new_keys, alpha, fits
                )
            if batch.queries is not None and fits is not None:
                query_vectors = self._query_vectors(batch.queries)
                with torch.autocast(states.device.type, enabled=False):
                    matches = fitting_queries(batch, fits)
                    found["itc"] = found["itc"] + losses.itc_queries(of_pictures @ query_vectors.T / self.temp, matches)
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

    def _query_vectors(self, rows: TokenRows) -> torch.Tensor:
        """Unit vectors of texts (Q, D)."""
        parts = parts_by_length(rows.mask.sum(1))
        states = [self.text(rows.ids[part, :longest], rows.mask[part, :longest])[:, :1] for part, longest in parts]
        return unit_vectors(self.text_proj, torch.cat(states)[torch.cat([part for part, _ in parts]).argsort()])

    def _contrastive_loss(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        batch: TrainingBatch,
        teacher: Teacher | None,
        new_keys: ContrastiveKeys | None,
        alpha: float,
        fits: Fits | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss of ITC.

        Args:
            image, text: the student's unit vectors of the batch, (N, D) each.
            new_keys: the teacher's unit vectors of the batch.

        Returns:
            the loss; within the batch image-to-text logits, text-to-image logits, matches (pictures by texts): (N, N) each
        """
        n = len(image)
        keys = ContrastiveKeys(image, text, batch.image_keys, batch.caption_keys, batch.labels)
        soft_logits: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        if teacher is not None and new_keys is not None:
            keys = teacher.with_queue(new_keys)
            if alpha:
                soft_logits = losses.itc_logits(
                    new_keys.image, new_keys.text, keys.image, keys.text, self.temp.detach()
                )
            teacher.enqueue(new_keys)
        same = matching_pairs(batch, keys, fits)
        i2t, t2i = losses.itc_logits(image, text, keys.image, keys.text, self.temp)
        targets = (losses.itc_targets(each, logits, alpha) for each, logits in zip(same, soft_logits))
        loss = losses.itc(i2t, t2i, *targets)
        return loss, i2t[:, :n].detach(), t2i[:, :n].detach(), same[0][:, :n]

    def _matching_loss(
        self,
        states: torch.Tensor,
        text_states: torch.Tensor,
        batch: TrainingBatch,
        i2t: torch.Tensor,
        t2i: torch.Tensor,
        same: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of ITM over 3N pairs, and over the batch's own negatives.

        The part of the text encoder below the fusion layers (BLIP: the embeddings alone) runs once per text, and the keys
        and values of the cross-attention are computed once per picture.

        Args:
            states: of the pictures, (N, 1 + patches, width).
            text_states: of the captions without pictures, (N, L, width).
            i2t, t2i, same: as `_contrastive_loss` returns them.
        """
        assert batch.captions is not None
        pictures, texts, labels = losses.itm_pairs(i2t, t2i, same)
        rows, pictures = batch.captions, pictures // batch.captions_per_picture
        if batch.negatives is not None and batch.negative_of is not None:
            texts = torch.cat([texts, len(rows.ids) + torch.arange(len(batch.negative_of), device=texts.device)])
            pictures = torch.cat([pictures, batch.negative_of])
            labels = torch.cat([labels, torch.zeros_like(batch.negative_of)])
            if self.config.text.fusion_start:
                text_states = torch.cat([text_states, self.text(batch.negatives.ids, batch.negatives.mask)])
            rows = TokenRows(torch.cat([rows.ids, batch.negatives.ids]), torch.cat([rows.mask, batch.negatives.mask]))
        # ALBEF's fusion continues from the states of the text alone.
        unfused = text_states if self.config.text.fusion_start else self.text.embeddings(self._with_enc_token(rows.ids))
        layers = cast("list[Layer]", self.text.layers)[self.config.text.fusion_start :]
        pictures_read = [layer.read(states) for layer in layers]  # keys and values of each picture
        own = 0 if batch.negative_of is None else len(batch.negative_of)
        # Without own texts there is one part, so that the results of such runs stay the same to the last bit.
        whole = torch.arange(len(texts), device=texts.device), rows.ids.shape[1]
        parts = parts_by_length(rows.mask.sum(1)[texts]) if own else [whole]
        found = []
        for part, longest in parts:
            x, mask = unfused[texts[part], :longest], rows.mask[texts[part], None, None, :longest].bool()
            for layer, (keys, values) in zip(layers, pictures_read):
                x = layer(x, mask, (keys[pictures[part]], values[pictures[part]]))
            found.append(self.itm_head(x[:, 0]).float())
        logits = torch.cat(found)[torch.cat([part for part, _ in parts]).argsort()]
        return losses.itm(logits, labels, own) if own else losses.itm(logits, labels)

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
            of_caption = image_states.repeat_interleave(batch.captions_per_picture, 0)
            fused = model.text.fuse(masked_ids, mask, of_caption)[asked]
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
