"""Causal attention inside each sample of a packed sequence, on any device.

Importing this module registers it with transformers, under the name PACKED.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

PACKED = "packed"
"""The attention's name in transformers."""
VARLEN_TYPES = (torch.bfloat16, torch.float16)
"""Types that varlen attention has kernels for, on GPUs from Ampere on. Those are also the first to
compute in bf16, so autocast gives these types to no older GPU."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return causal attention inside each sample of a packed sequence.

    On a GPU in 16 bits this is PyTorch's varlen attention, which has no kernel for float32. In
    float32 and on a CPU it is causal SDPA sample by sample, measured twice as fast on a CPU as one
    block mask over the sequence. Neither has dropout on the attention weights, so training sets
    `attn_pdrop` to 0.

    Args:
        query: Shape (1, heads, tokens, width), as are key and value.
        cu_seq_lens_q: First token of each sample, then the number of tokens. Shape (samples + 1,).
        max_length_q: Tokens of the longest sample.

    Returns:
        Shape (1, tokens, heads, width), and no weights.
    """
    if query.is_cuda and query.dtype in VARLEN_TYPES:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (part.transpose(1, 2)[0] for part in (query, key, value))
        starts, longest = cu_seq_lens_q, max_length_q
        # A window of -1 before and 0 after a token is causal attention.
        varlen = varlen_attn(
            q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0)
        )
        assert isinstance(varlen, Tensor)  # a tuple only with log-sum-exps, which nobody asked for
        return varlen[None], None
    if torch.compiler.is_compiling():
        attended = packed_sdpa(query, key, value, cu_seq_lens_q, scaling)
    else:
        attended = _sample_by_sample(query, key, value, cu_seq_lens_q, scaling)
    return attended.transpose(1, 2), None


def _sample_by_sample(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scaling: float | None
) -> Tensor:
    lengths: Any = starts.diff().tolist()
    # A padded sequence may have slots without tokens, which are left out.
    parts = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        for q, k, v in zip(
            query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
        )
        if q.shape[2]
    ]
    return torch.cat(parts, dim=2)


@torch.library.custom_op("gpt2chat::packed_sdpa", mutates_args=())
def packed_sdpa(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scaling: float | None
) -> Tensor:
    """Attend sample by sample as one operation of a compiled graph.

    Without it the graph would break at `tolist`, or be compiled again for each sequence's lengths.
    """
    # The function below promises these strides to the compiled graph.
    return _sample_by_sample(query, key, value, starts, scaling).contiguous()


@packed_sdpa.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scaling: float | None) -> Tensor:
    return torch.empty(query.shape, dtype=query.dtype, device=query.device)


@torch.library.custom_op("gpt2chat::packed_sdpa_backward", mutates_args=())
def _packed_sdpa_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    scaling: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value. Autograd does not run inside an operation, so
    they are derived by hand, for each sample:

    P = softmax(s · QKᵀ),  dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P ⊙ (dP - rowsum(dP ⊙ P)),
    dQ = s · dS K,  dK = s · dSᵀ Q
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    wide = torch.promote_types(query.dtype, torch.float32)
    lengths: Any = starts.diff().tolist()
    samples = zip(*(part.split(lengths, 2) for part in (gradient, query, key, value)), strict=True)
    gradients: list[tuple[Tensor, Tensor, Tensor]] = []
    for g, q, k, v in samples:
        future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = (scale * q @ k.transpose(-1, -2)).masked_fill(future, float("-inf"))
        weights = torch.softmax(scores, -1, dtype=wide)
        from_values = (g @ v.transpose(-1, -2)).to(wide)
        shares = weights * (from_values - (from_values * weights).sum(-1, keepdim=True))
        shares, weights = shares.to(q.dtype), weights.to(q.dtype)
        dq, dk = scale * shares @ k, scale * shares.transpose(-1, -2) @ q
        gradients.append((dq, dk, weights.transpose(-1, -2) @ g))
    dq, dk, dv = (torch.cat(parts, dim=2) for parts in zip(*gradients, strict=True))
    return dq, dk, dv


@_packed_sdpa_backward.register_fake
def _(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    scaling: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (
        torch.empty(part.shape, dtype=part.dtype, device=part.device)
        for part in (query, key, value)
    )
    return dq, dk, dv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scaling = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return (*_packed_sdpa_backward(gradient, *ctx.saved_tensors, ctx.scaling), None, None)


packed_sdpa.register_autograd(_backward, setup_context=_keep)


# No mask function is registered under this name. If one were, transformers would first look for
# packed samples in the position ids, which waits for the device.
AttentionInterface.register(PACKED, packed_attention)
