"""The losses as functions of tensors: ITC, ITM with hard negatives, LM, answers, MLM.

Papers: ALBEF §3.2 and §3.3 (momentum distillation), BLIP §3.2. Official code: `models/model_pretrain.py` of ALBEF,
`models/blip_pretrain.py`, `models/blip_retrieval.py` and `models/blip_vqa.py` of BLIP.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

IGNORED_LABEL = -100  # a target without a loss


def itc_logits(
    image: torch.Tensor, text: torch.Tensor, image_keys: torch.Tensor, text_keys: torch.Tensor, temp: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities over temperature.

    Args:
        image, text: unit vectors of the batch (N, D).
        image_keys, text_keys: unit vectors of the candidates (K, D): those of the batch first, then those of a queue.
        temp: scalar.

    Returns:
        image to text (N, K) and text to image (N, K).
    """
    return image @ text_keys.T / temp, text @ image_keys.T / temp


def itc_targets(same: torch.Tensor, soft_logits: torch.Tensor | None = None, alpha: float = 0.0) -> torch.Tensor:
    """Target distributions of ITC: uniform over all matches, mixed with a share alpha of the momentum model's softmax.

    Args:
        same: (N, K), True = a match. A picture with several captions matches them all, and vice versa
            (`idx` of `models/blip_retrieval.py`).
        soft_logits: the momentum model's own logits (N, K).

    Returns:
        (N, K), rows of sum 1
    """
    hard = same.float() / same.sum(1, keepdim=True)
    if soft_logits is None:
        return hard
    return alpha * soft_logits.softmax(1) + (1 - alpha) * hard.to(soft_logits.dtype)


def itc(i2t: torch.Tensor, t2i: torch.Tensor, i2t_targets: torch.Tensor, t2i_targets: torch.Tensor) -> torch.Tensor:
    """Image-text contrastive loss: cross-entropy with targets that are distributions, both ways, their mean."""
    return (F.cross_entropy(i2t, i2t_targets) + F.cross_entropy(t2i, t2i_targets)) / 2


def itc_queries(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """ITC of texts that belong to no picture in particular: cross-entropy with uniform targets, both ways, their mean.

    Unlike a caption, a query may fit no picture of the batch, and a picture no query: those have no target and no loss of
    their own, but still serve as candidates.

    Args:
        logits: similarities over temperature, pictures by queries (N, Q).
        matches: (N, Q), True = the query fits.
    """
    loss = logits.new_zeros(())
    for each, same in ((logits, matches), (logits.T, matches.T)):
        rows = same.any(1)
        if rows.any():
            loss = loss + F.cross_entropy(each[rows], itc_targets(same[rows])) / 2
    return loss


@torch.no_grad()
def itm_pairs(
    i2t: torch.Tensor, t2i: torch.Tensor, same: torch.Tensor, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """N matching pairs and 2N hard negatives: for every text a picture, for every picture a text, which do not match.

    Negatives are drawn from ITC's softmax, so that likely mistakes are frequent; the official code adds 1e-4, so that every
    negative can be drawn. A row that matches everything has no negative: it draws any candidate, with the label 1.

    Args:
        i2t, t2i: logits within the batch (N, N).
        same: (N, N), pictures by texts, True = a match.
        generator: of the same device; None = torch's default.

    Returns:
        pictures, texts, labels: (3N,) each: rows of the batch, and 1 = a match.
    """
    rows = torch.arange(len(same), device=same.device)

    def negatives(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
        weights = (logits.float().softmax(1) + 1e-4).masked_fill(matches, 0)
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, torch.ones_like(weights))
        return torch.multinomial(weights, 1, generator=generator)[:, 0]

    pictures = torch.cat([rows, negatives(t2i, same.T), rows])
    texts = torch.cat([rows, rows, negatives(i2t, same)])
    return pictures, texts, same[pictures, texts].long()


def itm(logits: torch.Tensor, labels: torch.Tensor, own_negatives: int = 0) -> torch.Tensor:
    """Image-text matching loss.

    Args:
        logits: (R, 2).
        labels: (R,), 1 = match.
        own_negatives: how many of the rows are an item's own wrong texts. All negatives together weigh as much as they would
            without these, so that a model does not learn that matches are rarer.
    """
    if not own_negatives:
        return F.cross_entropy(logits, labels)
    drawn = 2 * (len(labels) - own_negatives) / 3  # of `itm_pairs`
    weight = torch.tensor([drawn / (drawn + own_negatives), 1.0], dtype=logits.dtype, device=logits.device)
    return F.cross_entropy(logits, labels, weight)


def lm(
    logits: torch.Tensor, input_ids: torch.Tensor, counted: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Language-model loss: the mean over all counted tokens, each predicted from the tokens before it.

    Args:
        logits: (R, L, vocabulary); position i predicts the token after it.
        input_ids: (R, L)
        counted: (R, L), True = a token that is learnt: neither padding nor prompt.
    """
    losses = _token_losses(logits, input_ids, counted, label_smoothing)
    return losses.sum() / counted[:, 1:].sum().clamp(min=1)


def answers(
    logits: torch.Tensor,
    input_ids: torch.Tensor,
    counted: torch.Tensor,
    weights: torch.Tensor,
    questions: int,
    label_smoothing: float = 0.0,
    soft_logits: torch.Tensor | None = None,
    alpha: float = 0.0,
) -> torch.Tensor:
    """Loss of answering: the sum over an answer's tokens, times its weight, per question (official `models/blip_vqa.py`).

    In ALBEF, the targets are mixed with a share alpha of the momentum model's softmax (`BertLMHeadModel` of its
    `models/xbert.py`).

    Args:
        logits, input_ids, counted: as in `lm`, of A answers.
        weights: (A,): the share of the question's annotators who gave the answer.
        questions: number of questions.
        soft_logits: of the momentum model, as `logits`.
    """
    losses = _token_losses(logits, input_ids, counted, label_smoothing)
    if soft_logits is not None:
        soft_targets = soft_logits[:, :-1].softmax(-1).transpose(1, 2)
        soft = F.cross_entropy(logits[:, :-1].transpose(1, 2), soft_targets, reduction="none")
        losses = (1 - alpha) * losses + alpha * soft * counted[:, 1:]
    return (losses.sum(1) * weights).sum() / questions


def mask_words(
    input_ids: torch.Tensor,
    maskable: torch.Tensor,
    mask_id: int,
    vocab_size: int,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose words to predict: 80% of them become [MASK], 10% a random word, 10% stay (BERT; ALBEF's `mask`).

    Args:
        input_ids: (N, L)
        maskable: (N, L), True = a word, neither special nor padding.

    Returns:
        the changed ids and the targets, (N, L) each; a target is IGNORED_LABEL where no word is predicted.
    """

    def chance(p: float) -> torch.Tensor:
        return torch.rand(input_ids.shape, generator=generator, device=input_ids.device) < p

    chosen = chance(probability) & maskable
    hidden = chosen & chance(0.8)
    swapped = chosen & ~hidden & chance(0.5)
    others = torch.randint(vocab_size, input_ids.shape, generator=generator, device=input_ids.device)
    changed = torch.where(swapped, others, input_ids.masked_fill(hidden, mask_id))
    return changed, input_ids.masked_fill(~chosen, IGNORED_LABEL)


def mlm(
    logits: torch.Tensor, targets: torch.Tensor, soft_logits: torch.Tensor | None = None, alpha: float = 0.0
) -> torch.Tensor:
    """Masked-word loss, with targets mixed with a share alpha of the momentum model's softmax.

    Args:
        logits, soft_logits: (M, vocabulary), for the M words to predict; M may be 0.
        targets: (M,)
    """
    loss = F.cross_entropy(logits, targets, reduction="sum")
    if soft_logits is not None:
        loss = (1 - alpha) * loss + alpha * F.cross_entropy(logits, soft_logits.softmax(-1), reduction="sum")
    return loss / max(len(targets), 1)


def classification(
    logits: torch.Tensor, labels: torch.Tensor, soft_logits: torch.Tensor | None = None, alpha: float = 0.0
) -> torch.Tensor:
    """Loss of NLVR and VE, with targets mixed with a share alpha of the momentum model's softmax.

    Official `models/model_nlvr.py` and `models/model_ve.py` of ALBEF; BLIP's `models/blip_nlvr.py` has no momentum model.

    Args:
        logits, soft_logits: (N, classes).
        labels: (N,)
    """
    loss = F.cross_entropy(logits, labels)
    if soft_logits is not None:
        loss = (1 - alpha) * loss + alpha * F.cross_entropy(logits, soft_logits.softmax(-1))
    return loss


def _token_losses(
    logits: torch.Tensor, input_ids: torch.Tensor, counted: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """(R, L - 1); 0 where a token is not counted."""
    targets = input_ids.masked_fill(~counted, IGNORED_LABEL)[:, 1:]
    predictions = logits[:, :-1].transpose(1, 2)
    return F.cross_entropy(
        predictions, targets, reduction="none", ignore_index=IGNORED_LABEL, label_smoothing=label_smoothing
    )
