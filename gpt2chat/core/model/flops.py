"""Count the floating-point operations that GPT-2 needs, and measure what a device reaches."""

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch


def parameters(model: torch.nn.Module) -> int:
    """Return the number of weights. The head is the token embedding, so it counts once."""
    return sum(weight.numel() for weight in model.parameters())


def flops_per_token(config: Any, context: float) -> float:
    """Return the floating-point operations of one token's forward pass, including its logits.

        2 · (layers · (4 · width² + 2 · width · inner) + vocab · width)    matrices, head included
        + 4 · layers · width · context                                     QKᵀ and AV

    A multiplication and an addition count as two. Embedding look-ups, norms, biases and activations
    are left out. GPT-2 124M with a vocabulary of 50,264 at a context of 1,024: 284,823,552.

    Args:
        config: A GPT2Config.
        context: Number of positions that the token attends to, including its own.

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
    """Return the floating-point operations of a training step on a packed sequence.

    They are three times those of the forward pass, because the backward pass computes two products
    for each of its products: the gradients of input and weight. A token attends to half of its
    sample on average. The head counts for trained tokens only, as only their logits are computed.
    Padding counts as nothing.

    Args:
        lengths: Number of tokens of each sample.
        trained: Number of tokens whose logits are computed.
    """
    body = sum(length * _body_flops(config, (length + 1) / 2) for length in lengths)
    return 3 * (body + trained * _head_flops(config))


@cache
def matmul_flops(device: torch.device, bf16: bool) -> float:
    """Return the floating-point operations per second of a large matrix product, the best of four.

    Utilisation is measured against it. A figure from a data sheet would need a list of devices,
    and no program reaches it. A process measures a device once: it takes half a second on a CPU,
    which is much next to a short run.
    """
    # Large enough to reach the device's speed, and small enough to take milliseconds.
    size = 8192 if device.type == "cuda" else 2048  # rows and columns
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    # The best, since another program can only make one slower.
    best = float("inf")
    for _ in range(4):
        _wait(device)
        began = time.perf_counter()
        torch.mm(factor, factor)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    """Wait until a GPU has computed what was started; a CPU never runs ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
