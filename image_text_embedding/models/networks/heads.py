"""What reads states of a picture and a text together: matching, captioning, question answering.

Each head is a module under the official parameters' names, so that it is loaded, strictly, by itself; what it has in
common with a tower in memory it shares.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.networks.bert import Decoder, TextStack


class MatchHead(nn.Module):
    """ITM: does the text say what the picture shows (BLIP paper §3.2, ALBEF paper §3.2; official `models/blip_itm.py`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextStack(config.text, config.vision.width)
        self.itm_head = nn.Linear(config.text.width, 2)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, image_states: torch.Tensor
    ) -> torch.Tensor:
        """Texts (R, L), every R / B of which look at one of the pictures (B, K, width) -> logits (R, 2); 1 = match."""
        return self.itm_head(self.text.fuse(input_ids, attention_mask, image_states)[:, 0])


class CaptionHead(nn.Module):
    """A decoder that looks at the picture (BLIP paper §3.2; official `models/blip.py`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = build_decoder(config, config.vision.width)


class AnswerHead(nn.Module):
    """The question, read while looking at the picture, and a decoder that looks at the question.

    Official `models/blip_vqa.py`, ALBEF's `models/model_vqa.py`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextStack(config.text, config.vision.width)
        self.decoder = build_decoder(config, config.text.width)


MAX_LOGITS = 2**26  # at once, in ranking: a quarter of a gigabyte


HEADS: dict[str, type[nn.Module]] = {"match": MatchHead, "caption": CaptionHead, "answer": AnswerHead}


def build_decoder(config: ModelConfig, context_width: int) -> Decoder:
    """The causal stack of a configuration that has one: every layer looks at a context of that width."""
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
    """Given answers by how well they answer: the k that begin best, by what the decoder makes of the whole of them.

    Official `rank_answer` of `models/blip_vqa.py` and ALBEF's `models/model_vqa.py`, with the quirks that gave the
    published numbers: BLIP's loss is label-smoothed, as in training; ALBEF counts the first token's log-probability
    twice. Answers that begin alike are taken in their given order where k cuts between them.

    Args:
        question_states, question_mask: (Q, K, width) and (Q, K).
        answer_ids, answer_mask: (A, L): the decoder's first token, the answer, [SEP], padding.
        k: at most A.

    Returns:
        Indices into the answers (Q, k), best first, and their probabilities among these k.
    """
    rule = config.decoder
    assert rule is not None
    found, probabilities = [], []
    for states, mask in zip(question_states.split(1), question_mask.split(1)):
        context = head.decoder.read(states)
        begin = head.decoder.logits(answer_ids[:1, :1], context, mask)[0, 0].float().log_softmax(-1)
        first = begin[answer_ids[:, 1]]  # (A,)
        likely = first.argsort(descending=True, stable=True)[:k]
        ids, real = answer_ids[likely], answer_mask[likely].bool()
        target = ids[:, 1:].masked_fill(~real[:, 1:], -100)
        losses = []
        for part in torch.arange(len(ids)).split(max(1, MAX_LOGITS // (ids.shape[1] * config.text.vocab_size))):
            logits = head.decoder.logits(ids[part], context, mask, real[part])[
                :, :-1
            ].float()  # (.., L - 1, vocabulary)
            loss = F.cross_entropy(
                logits.transpose(1, 2), target[part], reduction="none", label_smoothing=rule.label_smoothing
            )
            losses.append(loss.sum(1))
        score = -torch.cat(losses) + (first[likely] if rule.first_token_twice else 0)
        order = score.argsort(descending=True, stable=True)
        found.append(likely[order])
        probabilities.append(score[order].softmax(-1))
    return torch.stack(found), torch.stack(probabilities)
