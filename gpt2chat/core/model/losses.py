"""Compute log-probabilities and losses: plain functions of tensors.

log P(y) of a reply y is the mean log-probability of its tokens, in nats.
"""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt2chat.core.model.compiling import kernels_for

CPU_CHUNK = 32
"""Rows of logits converted to float32 at a time: 6 MB, which stay in a core's cache."""
GPU_CHUNK = 4096
"""The same on a GPU, where few large kernels matter more: 0.8 GB."""

CPU_BLOCK = 512
"""Rows and columns of a block of logits: 1 MB in float32, half of a core's second-level cache."""
GPU_BLOCK = 8192
"""The same on a GPU, where few large kernels matter more: 0.3 GB."""


class _HeadLogps(torch.autograd.Function):
    """Head and log-softmax in one, so that the logits are never stored in float32.

    The logits stay in the dtype of the product from forward to backward, where their gradient
    overwrites them chunk by chunk. So backward can run only once. Each of PyTorch's operations on a
    chunk goes through a GPU's memory; `kernels`, the module of Triton kernels, does so once each
    way.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        kernels: ModuleType | None,
    ) -> Tensor:
        logits = hidden @ weight.t()
        ctx.kernels = kernels
        if kernels is not None:
            logps, lse = kernels.target_logps(logits, targets)
            ctx.save_for_backward(hidden, weight, targets, logits, lse)
            return logps
        wide = torch.promote_types(logits.dtype, torch.float32)
        # The reduction runs in float32: in bf16, the sum of 50,264 terms has two digits.
        parts = [rows.to(wide).logsumexp(-1) for rows in logits.split(chunk)]
        lse = torch.cat(parts) if parts else logits.new_empty(0, dtype=wide)
        ctx.save_for_backward(hidden, weight, targets, logits, lse)
        ctx.chunk = chunk
        return logits.gather(1, targets[:, None])[:, 0].to(wide) - lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, targets, logits, lse = ctx.saved_tensors
        if ctx.kernels is not None:
            logits = ctx.kernels.logits_gradient_(logits, targets, lse, gradient)
            return logits @ weight, logits.t() @ hidden, None, None, None
        # d log p(target) / d logits = onehot(target) - softmax(logits)
        for start in range(0, len(hidden), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            share = gradient[rows, None]
            softmax = logits[rows].to(lse.dtype).sub_(lse[rows, None]).exp_()
            logits[rows] = softmax.mul_(-share).scatter_add_(1, targets[rows, None], share)
        return logits @ weight, logits.t() @ hidden, None, None, None


def head_logps(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target under the head, in nats, at most 0.

    The same as `token_logps(hidden @ weight.T, targets)`. On 2 CPU cores training the starter
    model is 1.3 times as fast with it (docs/measurements.md).

    Args:
        hidden: Final hidden states. Shape (tokens, width).
        weight: The weight of the head. Shape (vocab, width).
        targets: Token ids. Shape (tokens,).

    Returns:
        Shape (tokens,), float32 whatever the dtype of the product (float64 for float64).
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    kernels = None if hidden.dtype == torch.float64 else kernels_for(hidden.device)
    logps: Any = _HeadLogps.apply(
        hidden, weight, targets, CPU_CHUNK if device == "cpu" else GPU_CHUNK, kernels
    )
    return logps


def streamed_logps(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return what `head_logps` returns, without a gradient, in blocks that fit a core's cache.

    Each block is the logits of some rows for a part of the vocabulary, which are added to a
    running log-sum-exp and then overwritten. With blocks of 1 MB the softmax costs next to nothing
    beside the product; whole rows of logits took 1.6 times as long (docs/log.md).

    Args:
        hidden: Final hidden states. Shape (tokens, width).
        weight: The weight of the head. Shape (vocab, width).
        targets: Token ids. Shape (tokens,).

    Returns:
        Shape (tokens,), float32 whatever the dtype of the product (float64 for float64).

    Source:
        Milakov and Gimelshein (2018), Online normalizer calculation for softmax, arXiv:1805.02867.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    block = CPU_BLOCK if device == "cpu" else GPU_BLOCK
    logps: list[Tensor] = []
    for rows, targets_of_rows in zip(hidden.split(block), targets.split(block), strict=True):
        highest = rows.new_full((len(rows),), float("-inf"), dtype=wide)
        total = torch.zeros_like(highest)
        for columns in weight.split(block):
            logits = (rows @ columns.t()).to(wide)
            higher = torch.maximum(highest, logits.amax(1))
            exponentials = logits.sub_(higher[:, None]).exp_()
            total = total * torch.exp(highest - higher) + exponentials.sum(1)
            highest = higher
        of_targets = (rows.to(wide) * weight[targets_of_rows].to(wide)).sum(1)
        logps.append(of_targets - highest - total.log())
    return torch.cat(logps) if logps else hidden.new_empty(0, dtype=wide)


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


def segment_means(
    values: Tensor, weights: Tensor, segments: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of the values of each segment, and each segment's weight.

    No shape depends on the values, so nothing waits for a GPU and one compiled graph is enough.

    Args:
        values: Shape (tokens,).
        weights: Shape (tokens,).
        segments: Which segment each value belongs to, 0 to count - 1. Shape (tokens,).
        count: Number of segments.

    Returns:
        Two of shape (count,); a segment without weight has mean 0.
    """
    sums = values.new_zeros(count).index_add(0, segments, values * weights)
    sizes = values.new_zeros(count).index_add(0, segments, weights.to(values.dtype))
    # Without the clamp, an empty segment would make the gradient of all others NaN.
    return sums / sizes.clamp(min=1), sizes


def log_odds(logp: Tensor) -> Tensor:
    """Return log P/(1 - P) for log P, accurate in value and gradient up to P = 1 - 1e-9.

        log odds = log P - log(1 - P),    log(1 - P) = log(-expm1(log P))    for P > 1/2
                                                       log1p(-exp(log P))    otherwise

    Each form is accurate only on its own side of P = 1/2, and gets its input clamped to that side.
    Otherwise the form that is not selected could be infinite, and make the gradient NaN.

    Args:
        logp: Mean log-probability of each reply's tokens, in nats, below 0. Any shape, float32
            or wider. At exactly 0 (a reply known by heart) the odds are taken at -1e-9.

    Source:
        Mächler (2012), Accurately computing log(1 - exp(-|a|)).
    """
    logp = logp.clamp(max=-1e-9)
    # log 1/2, where the two forms meet
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
