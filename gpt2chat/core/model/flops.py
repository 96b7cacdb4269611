"""Floating-point operations: what GPT-2 needs, and what a device reaches."""

import time
from collections.abc import Sequence
from typing import Any

import torch


def parameters(model: torch.nn.Module) -> int:
    """Return the number of weights; the head is the token embedding and counts once."""
    return sum(weight.numel() for weight in model.parameters())


def flops_per_token(config: Any, context: float) -> float:
    """Return the floating-point operations of one token's forward pass, its logits included.

        2 · (layers · (4 · width² + 2 · width · inner) + vocab · width)    matrices, head included
        + 4 · layers · width · context                                     QKᵀ and AV

    A multiplication and an addition are two. Embedding look-ups, norms, biases and activations
    are left out. GPT-2 124M with a vocabulary of 50,264 at a context of 1,024: 284,823,552.

    Args:
        config: A GPT2Config.
        context: Positions the token attends to, its own included.

    Source:
        Kaplan et al. (2020), arXiv:2001.08361, table 1, with the head counted.
    """
    return _body_flops(config, context) + _head_flops(config)


def _body_flops(config: Any, context: float) -> float:
    width, layers = config.n_embd, config.n_layer
    inner = config.n_inner or 4 * width
    return 2 * layers * (4 * width**2 + 2 * width * inner) + 4 * layers * width * context


def _head_flops(config: Any) -> int:
    return 2 * config.vocab_size * config.n_embd


def row_flops(config: Any, lengths: Sequence[int], trained: int) -> float:
    """Return what a training step on a packed row needs: three times its forward pass.

    A token attends to half of its sample on average. The head counts for trained tokens only,
    which is all that is computed; padding counts for nothing.

    Args:
        lengths: Tokens of each sample.
        trained: Tokens that logits are computed for.
    """
    body = sum(length * _body_flops(config, (length + 1) / 2) for length in lengths)
    return 3 * (body + trained * _head_flops(config))


def matmul_flops(device: torch.device, bf16: bool) -> float:
    """Return the floating-point operations a second of one large matrix product, the best of some.

    What a training step reaches is measured against it: a figure from a data sheet would need a
    list of devices, and no program reaches it.
    """
    size = 8192 if device.type == "cuda" else 2048
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    best = float("inf")
    for _ in range(4):
        _wait(device)
        began = time.perf_counter()
        torch.mm(factor, factor)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
