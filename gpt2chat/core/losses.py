"""Losses as plain functions: tensors in, tensors out.

Letters: log P(y) of a reply is the mean log-probability of its tokens, in nats.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target, in nats, at most 0.

    Args:
        logits: Shape (tokens, vocab), any float type.
        targets: Token ids. Shape (tokens,).

    Returns:
        Shape (tokens,), float32 whatever the logits are (float64 for float64).
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return -F.cross_entropy(wide, targets, reduction="none")


def segment_means(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Return the mean of the values of each segment.

    Args:
        values: Shape (tokens,).
        segments: Which segment each value belongs to, 0 to count - 1. Shape (tokens,).
        count: Number of segments, each with a value at least.

    Returns:
        Shape (count,).
    """
    sums = values.new_zeros(count).index_add(0, segments, values)
    sizes = values.new_zeros(count).index_add(0, segments, torch.ones_like(values))
    return sums / sizes


def log_odds(logp: Tensor) -> Tensor:
    """Return log P/(1 - P) for log P, right in value and gradient up to P = 1 - 1e-9.

        log odds = log P - log(1 - P),    log(1 - P) = log(-expm1(log P))    for P > 1/2
                                                       log1p(-exp(log P))    elsewhere

    Each form is right on its own side only. Both get their input clamped to that side: a form
    that is infinite where it is not chosen would turn the gradient of the chosen one into NaN.

    Args:
        logp: Mean log-probability of each reply's tokens, in nats, below 0. Any shape, float32
            or wider. At exactly 0 (a reply known by heart) the odds are taken at -1e-9.

    Source:
        Mächler (2012), Accurately computing log(1 - exp(-|a|)).
    """
    logp = logp.clamp(max=-1e-9)
    half = -0.6931471805599453
    near_one = torch.log(-torch.expm1(logp.clamp(min=half)))
    near_zero = torch.log1p(-torch.exp(logp.clamp(max=half)))
    return logp - torch.where(logp > half, near_one, near_zero)


def odds_ratio_losses(chosen_logp: Tensor, rejected_logp: Tensor) -> Tensor:
    """Return, for each pair, how far the model is from preferring the chosen reply, in nats.

        L_OR = -log σ(log odds(chosen) - log odds(rejected)),    odds(y) = P(y) / (1 - P(y))

    Args:
        chosen_logp: log P of the chosen replies, below 0. Shape (pairs,), float32: bfloat16 keeps
            fewer than three digits.
        rejected_logp: The same for the rejected replies. Shape (pairs,).

    Returns:
        Shape (pairs,), above 0; log 2 ≈ 0.693 where the model prefers neither reply.

    Raises:
        ValueError: The two shapes differ, so the pairs cannot be matched.

    Source:
        Hong, Lee and Thorne (2024), ORPO, arXiv:2403.07691, equations 4 and 7.
    """
    if chosen_logp.shape != rejected_logp.shape:
        raise ValueError(f"{chosen_logp.shape} chosen and {rejected_logp.shape} rejected replies")
    return -F.logsigmoid(log_odds(chosen_logp) - log_odds(rejected_logp))
