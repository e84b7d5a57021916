"""Each loss against its formula, written out slowly."""

from __future__ import annotations

import pytest
import torch

from image_text_embedding.training.objectives import losses


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same_gradients(fast: torch.Tensor, slow: torch.Tensor, *inputs: torch.Tensor) -> None:
    assert torch.allclose(fast, slow, atol=1e-12, rtol=1e-12)
    pairs = zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs))
    assert all(torch.allclose(a, b, atol=1e-12, rtol=1e-9) for a, b in pairs)


def slow_softmax(row: list[torch.Tensor]) -> list[torch.Tensor]:
    total = sum((x.exp() for x in row), torch.tensor(0.0, dtype=torch.float64))
    return [x.exp() / total for x in row]


class TestContrastive:
    """ALBEF equation 1 and its momentum-distilled form (equation 6); BLIP's many-positives targets."""

    @pytest.mark.parametrize("queue", [0, 3])
    @pytest.mark.parametrize("alpha", [0.0, 0.4])
    def test_loss(self, queue: int, alpha: float) -> None:
        n, k, d = 4, 4 + queue, 5
        image, text, temp = (
            x.requires_grad_() for x in (normal(n, d), normal(n, d, seed=1), torch.tensor(0.3).double())
        )
        image_keys, text_keys = normal(k, d, seed=2), normal(k, d, seed=3)
        if not queue:
            image_keys, text_keys = image, text
        same = torch.eye(n, k).bool()
        same[0, 2] = same[2, 0] = True  # two pictures of one caption
        same[1, k - 1] = True
        soft = (normal(n, k, seed=4), normal(n, k, seed=5)) if alpha else (None, None)

        logits = losses.itc_logits(image, text, image_keys, text_keys, temp)
        fast = losses.itc(*logits, *(losses.itc_targets(same, each, alpha).double() for each in soft))

        slow = torch.tensor(0.0, dtype=torch.float64)
        for ours, theirs, opinion in ((image, text_keys, soft[0]), (text, image_keys, soft[1])):
            for i in range(n):
                row = [sum(ours[i, c] * theirs[j, c] for c in range(d)) / temp for j in range(k)]
                chances = slow_softmax(row)
                matches = [j for j in range(k) if same[i, j]]
                for j in range(k):
                    target = (1 / len(matches) if j in matches else 0.0) * (1 - alpha)
                    if opinion is not None:
                        target = target + alpha * slow_softmax(list(opinion[i]))[j]
                    slow = slow - target * chances[j].log() / n / 2
        same_gradients(fast, slow, image, text, temp)

    def test_a_perfect_model_has_no_loss(self) -> None:
        sharp = 1000 * torch.eye(3)
        targets = losses.itc_targets(torch.eye(3).bool())
        assert float(losses.itc(sharp, sharp, targets, targets)) == 0


class TestMatching:
    def test_pairs(self) -> None:
        same = torch.eye(5).bool()
        same[0, 3] = same[3, 0] = True
        for seed in range(50):
            generator = torch.Generator().manual_seed(seed)
            pictures, texts, labels = losses.itm_pairs(normal(5, 5), normal(5, 5, seed=1), same, generator)
            assert pictures[:5].tolist() == texts[:5].tolist() == [0, 1, 2, 3, 4]
            assert texts[5:10].tolist() == pictures[10:].tolist() == [0, 1, 2, 3, 4]
            assert labels.tolist() == [1] * 5 + [0] * 10
            assert not same[pictures[5:], texts[5:]].any()

    def test_likely_mistakes_are_drawn_by_their_likelihood(self) -> None:
        i2t, t2i, n = normal(4, 4), normal(4, 4, seed=1), 4000
        generator = torch.Generator().manual_seed(0)
        drawn_text, drawn_picture = torch.zeros(4, 4), torch.zeros(4, 4)
        for _ in range(n):
            pictures, texts, _ = losses.itm_pairs(i2t, t2i, torch.eye(4).bool(), generator)
            drawn_picture[torch.arange(4), pictures[4:8]] += 1 / n
            drawn_text[torch.arange(4), texts[8:]] += 1 / n
        for drawn, logits in ((drawn_text, i2t), (drawn_picture, t2i)):
            for i in range(4):
                weights = [0.0 if i == j else float(slow_softmax(list(logits[i]))[j]) + 1e-4 for j in range(4)]
                for j in range(4):
                    assert abs(float(drawn[i, j]) - weights[j] / sum(weights)) < 0.035  # 4 standard deviations

    def test_a_batch_of_equal_pairs_has_no_negatives(self) -> None:
        _, _, labels = losses.itm_pairs(normal(3, 3), normal(3, 3), torch.ones(3, 3).bool())
        assert labels.tolist() == [1] * 9

    def test_loss(self) -> None:
        logits, labels = normal(6, 2).requires_grad_(), torch.tensor([1, 1, 0, 0, 0, 0])
        slow = sum(-slow_softmax(list(logits[i]))[int(labels[i])].log() for i in range(6)) / 6
        same_gradients(losses.itm(logits, labels), slow, logits)

    def test_own_negatives_do_not_make_matches_rarer(self) -> None:
        """3 matches, 6 drawn negatives and 2 own ones: the 8 negatives weigh as much as 6."""
        logits = normal(11, 2).requires_grad_()
        labels = torch.tensor([1] * 3 + [0] * 8)
        weights = [1.0] * 3 + [6 / 8] * 8
        slow = sum(-slow_softmax(list(logits[i]))[int(labels[i])].log() * weights[i] for i in range(11)) / sum(weights)
        same_gradients(losses.itm(logits, labels, 2), slow, logits)
        assert sum(weights) == 9


class TestLanguageModel:
    """BLIP's language modelling: next tokens with label smoothing, except in prompt and padding."""

    def setup_method(self) -> None:
        self.logits = normal(3, 5, 7).requires_grad_()
        self.ids = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
        self.mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]).bool()

    def token(self, row: int, position: int, smoothing: float) -> torch.Tensor:
        """The loss of the token at a position, from the logits before it."""
        logs = [chance.log() for chance in slow_softmax(list(self.logits[row, position - 1]))]
        return -(1 - smoothing) * logs[int(self.ids[row, position])] - smoothing * sum(logs) / 7

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_captions(self, smoothing: float) -> None:
        counted = self.mask.clone()
        counted[:, :2] = False  # the prompt
        tokens = [(r, p) for r in range(3) for p in range(1, 5) if counted[r, p]]
        slow = sum(self.token(r, p, smoothing) for r, p in tokens) / len(tokens)
        fast = losses.lm(self.logits, self.ids, counted, smoothing)
        same_gradients(fast, slow, self.logits)
        (gradient,) = torch.autograd.grad(losses.lm(self.logits, self.ids, counted, smoothing), self.logits)
        assert not gradient[:, 0].any() and not gradient[2, 2:].any()  # before the prompt's last token, and padding

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_answers(self, smoothing: float) -> None:
        weights = torch.tensor([0.7, 0.3, 1.0], dtype=torch.float64)  # two answers to one question, one to another
        slow = torch.tensor(0.0, dtype=torch.float64)
        for r in range(3):
            slow = slow + weights[r] * sum(self.token(r, p, smoothing) for p in range(1, 5) if self.mask[r, p]) / 2
        fast = losses.answers(self.logits, self.ids, self.mask, weights, 2, smoothing)
        same_gradients(fast, slow, self.logits)


class TestMaskedWords:
    def test_shares_of_masked_words(self) -> None:
        ids = torch.randint(5, 100, (400, 250), generator=torch.Generator().manual_seed(0))
        maskable = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.8
        changed, targets = losses.mask_words(ids, maskable, 4, 100, 0.15, torch.Generator().manual_seed(2))
        chosen = targets != losses.IGNORED_LABEL
        assert torch.equal(targets[chosen], ids[chosen]) and torch.equal(changed[~chosen], ids[~chosen])
        assert not (chosen & ~maskable).any()
        count = int(chosen.sum())
        assert abs(count / int(maskable.sum()) - 0.15) < 0.005
        hidden = changed[chosen] == 4
        unchanged = changed[chosen] == ids[chosen]
        assert abs(int(hidden.sum()) / count - 0.8) < 0.02
        assert abs(int(unchanged.sum()) / count - 0.1 * 1.01) < 0.01  # a random word may be the word itself
        assert len(changed[chosen][~hidden & ~unchanged].unique()) > 90

    @pytest.mark.parametrize("alpha", [0.0, 0.4])
    def test_loss(self, alpha: float) -> None:
        logits, soft, targets = normal(5, 7).requires_grad_(), normal(5, 7, seed=1), torch.tensor([0, 3, 6, 2, 2])
        slow = torch.tensor(0.0, dtype=torch.float64)
        for i in range(5):
            chances, opinion = slow_softmax(list(logits[i])), slow_softmax(list(soft[i]))
            slow = slow - (1 - alpha) * chances[int(targets[i])].log() / 5
            slow = slow - alpha * sum(opinion[j] * chances[j].log() for j in range(7)) / 5
        same_gradients(losses.mlm(logits, targets, soft if alpha else None, alpha), slow, logits)

    def test_no_masked_word_is_no_loss(self) -> None:
        assert float(losses.mlm(torch.empty(0, 7), torch.empty(0).long(), torch.empty(0, 7), 0.4)) == 0
