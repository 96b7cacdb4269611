"""ORPO's loss: values by hand, gradients in float64, and TRL's own trainer on one batch."""

import math

import pytest
import torch
from torch import Tensor

from gpt2chat.core.model.losses import (
    CPU_CHUNK,
    head_logps,
    log_odds,
    odds_ratio_losses,
    segment_means,
    token_logps,
)


def logp(*probabilities: float) -> Tensor:
    return torch.tensor([math.log(probability) for probability in probabilities])


def test_token_logps_are_the_log_softmax_at_the_targets():
    logits, targets = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 6, 3, 3, 1])
    expected = torch.log_softmax(logits, dim=-1)[torch.arange(5), targets]
    torch.testing.assert_close(token_logps(logits, targets), expected)


def test_token_logps_of_bfloat16_logits_are_float32():
    assert token_logps(torch.randn(2, 7).bfloat16(), torch.tensor([1, 2])).dtype == torch.float32


def head(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states of more rows than a chunk has, a head and targets."""
    torch.manual_seed(0)
    hidden = torch.randn(2 * CPU_CHUNK + 3, 5, dtype=dtype, requires_grad=True)
    weight = torch.randn(7, 5, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, 7, (len(hidden),))


def test_head_logps_equal_those_of_the_logits():
    hidden, weight, targets = head()
    expected = token_logps(hidden @ weight.t(), targets)
    torch.testing.assert_close(head_logps(hidden, weight, targets), expected)


def test_the_gradient_of_head_logps_is_that_of_the_plain_form():
    hidden, weight, targets = head()
    share = torch.randn(len(hidden), dtype=torch.float64)
    plain = torch.autograd.grad(token_logps(hidden @ weight.t(), targets) @ share, (hidden, weight))
    ours = torch.autograd.grad(head_logps(hidden, weight, targets) @ share, (hidden, weight))
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


def test_head_logps_under_autocast_are_float32_and_close():
    hidden, weight, targets = head(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logps = head_logps(hidden, weight, targets)
    logps.sum().backward()
    assert logps.dtype == torch.float32
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32
    expected = token_logps(hidden @ weight.t(), targets)
    torch.testing.assert_close(logps, expected, rtol=0.05, atol=0.05)


def test_a_row_without_trained_tokens_has_no_log_probabilities():
    hidden, weight, targets = head()
    assert head_logps(hidden[:0], weight, targets[:0]).shape == (0,)


def test_segment_means_are_each_segments_own():
    values, segments = torch.tensor([1.0, 3.0, 10.0, 7.0]), torch.tensor([0, 0, 1, 0])
    means, sizes = segment_means(values, torch.tensor([1.0, 1.0, 1.0, 0.0]), segments, 3)
    assert means.tolist() == [2.0, 10.0, 0.0]
    assert sizes.tolist() == [2.0, 1.0, 0.0]


def test_odds_ratio_loss_is_log_2_when_the_model_prefers_neither_reply():
    assert odds_ratio_losses(logp(0.3), logp(0.3)).item() == pytest.approx(math.log(2))


def test_odds_ratio_loss_matches_the_value_worked_by_hand():
    # Odds 1 against odds 1/3: a ratio of 3, and -log σ(log 3) = log(4/3).
    assert odds_ratio_losses(logp(0.5), logp(0.25)).item() == pytest.approx(math.log(4 / 3))


def test_odds_ratio_loss_falls_as_the_chosen_reply_gets_likelier():
    losses = odds_ratio_losses(logp(0.1, 0.5, 0.9), logp(0.4, 0.4, 0.4)).tolist()
    assert losses == sorted(losses, reverse=True)


def test_unmatched_replies_are_refused():
    with pytest.raises(ValueError, match="chosen and"):
        odds_ratio_losses(logp(0.5, 0.5), logp(0.5))


@pytest.mark.parametrize("value", [-1e-9, -1e-8, -1e-6, -1e-3, -0.6931, -0.7, -5.0, -20.0, -80.0])
def test_log_odds_and_its_gradient_agree_with_float64(value: float):
    single = torch.tensor(value, requires_grad=True)
    odds = log_odds(single)
    odds.backward()
    exact = float(single.item())
    expected = exact - math.log(-math.expm1(exact))
    assert odds.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert single.grad is not None
    assert single.grad.item() == pytest.approx(-1 / math.expm1(exact), rel=1e-5)


@pytest.mark.parametrize("value", [-1e-8, -1e-4, -0.5, -2.0, -30.0])
def test_the_gradient_in_float64_is_that_of_finite_differences(value: float):
    chosen = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-1.5], dtype=torch.float64)
    odds_ratio_losses(chosen, rejected).backward()
    step = abs(value) * 1e-4
    above, below = (odds_ratio_losses(chosen.detach() + d, rejected).item() for d in (step, -step))
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx((above - below) / (2 * step), rel=1e-4)


def test_a_reply_known_by_heart_leaves_the_loss_finite():
    chosen = torch.zeros(1, requires_grad=True)
    loss = odds_ratio_losses(chosen, logp(0.5))
    loss.backward()
    assert torch.isfinite(loss).all()
    assert chosen.grad is not None
    assert torch.isfinite(chosen.grad).all()
