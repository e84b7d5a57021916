"""Heads that combine a picture with a text: matching, captioning, question answering, reasoning, entailment.

Each head is a module of its own that loads strictly by itself and shares tensors with a tower in memory.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.networks.bert import Decoder, TextStack
from image_text_embedding.models.networks.finite_values import require_finite


class MatchHead(nn.Module):
    """ITM: whether a text describes a picture (BLIP paper §3.2, ALBEF paper §3.2; official `models/blip_itm.py`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextStack(config.text, config.vision.width)
        self.itm_head = nn.Linear(config.text.width, 2)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, image_states: torch.Tensor
    ) -> torch.Tensor:
        """Texts (R, L), R / B per picture, and pictures (B, K, width) -> logits (R, 2); class 1 = match."""
        return self.itm_head(self.text.fuse(input_ids, attention_mask, image_states)[:, 0])


class CaptionHead(nn.Module):
    """A decoder that attends to the picture (BLIP paper §3.2; official `models/blip.py`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = build_decoder(config, config.vision.width)


class AnswerHead(nn.Module):
    """A text stack that fuses the question with the picture, and a decoder that attends to the result.

    Official `models/blip_vqa.py`, ALBEF's `models/model_vqa.py`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextStack(config.text, config.vision.width)
        self.decoder = build_decoder(config, config.text.width)


class ReasonHead(nn.Module):
    """NLVR2: whether a statement about two pictures is true.

    Official `models/blip_nlvr.py`, ALBEF's `models/model_nlvr.py`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextStack(config.text, config.vision.width)
        self.cls_head = build_classifier(config.text.width, 2)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, left: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        """Texts (R, L), R / B per pair, and pictures (B, K, width) each -> logits (R, 2); class 1 = true."""
        return self.cls_head(self.text.fuse(input_ids, attention_mask, (left, right))[:, 0])


# The outputs of an `EntailHead`, in order (ALBEF's `dataset/ve_dataset.py` and LAVIS agree).
ENTAILMENT_CLASSES = ("contradiction", "neutral", "entailment")


class EntailHead(nn.Module):
    """SNLI-VE: whether a picture entails a text, contradicts it, or neither (official `models/model_ve.py` of ALBEF)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextStack(config.text, config.vision.width)
        self.cls_head = build_classifier(config.text.width, len(ENTAILMENT_CLASSES))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, image_states: torch.Tensor
    ) -> torch.Tensor:
        """Texts (R, L), R / B per picture, and pictures (B, K, width) -> logits (R, 3) of ENTAILMENT_CLASSES."""
        return self.cls_head(self.text.fuse(input_ids, attention_mask, image_states)[:, 0])


HEADS: dict[str, type[nn.Module]] = {
    "match": MatchHead,
    "caption": CaptionHead,
    "answer": AnswerHead,
    "reason": ReasonHead,
    "entail": EntailHead,
}
MAX_LOGITS = 2**26  # per chunk of answers in ranking: a quarter of a gigabyte


def build_classifier(width: int, classes: int) -> nn.Sequential:
    """The official `cls_head`: the first token's state -> logits."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def build_decoder(config: ModelConfig, context_width: int) -> Decoder:
    """The decoder of a configuration that has one. Every layer attends to a context of the given width."""
    assert config.decoder is not None
    depth = config.decoder.depth
    return Decoder(dataclasses.replace(config.text, depth=depth, text_depth=depth, fusion_start=0), context_width)


def rank_answers(
    head: AnswerHead,
    config: ModelConfig,
    question_states: torch.Tensor,
    question_mask: torch.Tensor,
    answer_ids: torch.Tensor,
    answer_mask: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank candidate answers: preselect the k with the likeliest first token, then sort by the loss of the full answer.

    Official `rank_answer` of `models/blip_vqa.py` and ALBEF's `models/model_vqa.py`, with the quirks behind the published
    numbers: BLIP's loss is label-smoothed, as in training; ALBEF counts the first token's log-probability twice. Among
    answers with the same first token, the preselection takes the earlier ones.

    Args:
        question_states, question_mask: (Q, K, width) and (Q, K), 1 = a real token.
        answer_ids, answer_mask: (A, L): the decoder's first token, the answer, [SEP], padding; 1 = a real token.
        k: the number of answers to return, at most A.

    Returns:
        Indices into the answers (Q, k), best first, and their probabilities among these k.
    """
    decoder_config = config.decoder
    assert decoder_config is not None
    indices, probabilities = [], []
    for states, mask in zip(question_states.split(1), question_mask.split(1)):
        context = head.decoder.read(states)
        start_logits = head.decoder.logits(answer_ids[:1, :1], context, mask)[0, 0]  # (vocabulary,)
        first = start_logits.float().log_softmax(-1)[answer_ids[:, 1]]  # (A,)
        likely = first.argsort(descending=True, stable=True)[:k]  # (k,)
        ids, real = answer_ids[likely], answer_mask[likely].bool()
        target = ids[:, 1:].masked_fill(~real[:, 1:], -100)
        losses = []
        for part in torch.arange(len(ids), dtype=torch.int64, device=ids.device).split(
            max(1, MAX_LOGITS // (ids.shape[1] * config.text.vocab_size))
        ):
            logits = head.decoder.logits(ids[part], context, mask, real[part])  # (.., L, vocabulary)
            logits = logits[:, :-1].float()
            loss = F.cross_entropy(
                logits.transpose(1, 2), target[part], reduction="none", label_smoothing=decoder_config.label_smoothing
            )
            losses.append(loss.sum(1))
        score = -torch.cat(losses) + (first[likely] if decoder_config.first_token_twice else 0)
        require_finite(score, states.dtype)
        order = score.argsort(descending=True, stable=True)
        indices.append(likely[order])
        probabilities.append(score[order].softmax(-1))
    return torch.stack(indices), torch.stack(probabilities)
