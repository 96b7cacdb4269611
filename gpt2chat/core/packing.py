"""Padding-free rows: whole samples laid end to end, none of which sees another.

A packed row has shape (1, tokens). Positions restart at each sample, and attention stays inside
it: `cu_seq_lens_q` holds where each sample begins, and the end of the last, as in
PyTorch's varlen attention. Importing this module registers the attention with transformers.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, GPT2LMHeadModel
from transformers.masking_utils import AttentionMaskInterface

from gpt2chat.core.losses import head_logps
from gpt2chat.core.tokens import IGNORED, Encoded

PACKED = "packed"
"""The attention's name in transformers."""

OPEN_ROWS = 32
"""Rows that are filled at the same time. More fill better, and mix long samples less evenly."""


def pack(sizes: Sequence[int], capacity: int, most: int | None, seed: int) -> list[list[int]]:
    """Return which items stand in which row, in a drawn order.

    Each item goes to the first open row that has room; where none has, the fullest is closed.

    Args:
        sizes: Tokens of each item.
        capacity: Most tokens in a row.
        most: Most items in a row.

    Raises:
        ValueError: An item is larger than a row.
    """
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    closed: list[list[int]] = []
    rows: list[list[int]] = []
    used: list[int] = []
    for item in order:
        size = sizes[item]
        if size > capacity:
            raise ValueError(f"an item of {size} tokens in rows of {capacity}")
        room = (
            index
            for index, tokens in enumerate(used)
            if tokens + size <= capacity and (most is None or len(rows[index]) < most)
        )
        index = next(room, None)
        if index is None:
            if len(rows) == OPEN_ROWS:
                full = max(range(OPEN_ROWS), key=used.__getitem__)
                closed.append(rows.pop(full))
                used.pop(full)
            rows.append([])
            used.append(0)
            index = len(rows) - 1
        rows[index].append(item)
        used[index] += size
    return closed + rows


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Tensors of one packed row. N tokens, K of them followed by a trained one, S samples."""

    input_ids: Tensor
    """Shape (1, N)."""
    position_ids: Tensor
    """From 0 in each sample. Shape (1, N)."""
    cu_seq_lens_q: Tensor
    """First token of each sample, then N; int32. Shape (S + 1,)."""
    max_length_q: int
    """Tokens of the longest sample."""
    kept: Tensor
    """Where the next token is trained: only there logits are computed. Shape (K,)."""
    targets: Tensor
    """The trained tokens. Shape (K,)."""
    segments: Tensor
    """Which sample each trained token belongs to. Shape (K,)."""


def pack_row(samples: Sequence[Encoded]) -> PackedRow:
    """Lay encoded samples end to end.

    A sample's first token is never trained, so no token is predicted from another sample.
    """
    ids = torch.tensor([token for sample in samples for token in sample.ids])
    labels = torch.tensor([label for sample in samples for label in sample.labels])
    lengths = torch.tensor([len(sample) for sample in samples])
    starts = F.pad(lengths.cumsum(0), (1, 0))
    positions = torch.arange(len(ids)) - starts[:-1].repeat_interleave(lengths)
    samples_of = torch.arange(len(samples)).repeat_interleave(lengths)
    kept = (labels[1:] != IGNORED).nonzero().flatten()
    return PackedRow(
        input_ids=ids[None],
        position_ids=positions[None],
        cu_seq_lens_q=starts.to(torch.int32),
        max_length_q=int(lengths.max()),
        kept=kept,
        targets=labels[kept + 1],
        segments=samples_of[kept + 1],
    )


class PackedGPT2(GPT2LMHeadModel):
    """GPT-2 whose forward takes a packed row and returns what a loss needs of it.

    The head belongs into the forward: there DDP and FSDP see its gradient.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        cu_seq_lens_q: Tensor,
        max_length_q: int,
        kept: Tensor,
        targets: Tensor,
    ) -> Tensor:
        """Return the log-probabilities of a row's trained tokens, in nats. Shape (K,), float32.

        Args: as in PackedRow.
        """
        hidden: Tensor = self.transformer(
            input_ids,
            position_ids=position_ids,
            use_cache=False,
            cu_seq_lens_q=cu_seq_lens_q,
            max_length_q=max_length_q,
        ).last_hidden_state
        return head_logps(hidden[0, kept], self.lm_head.weight, targets)


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
    """Return causal attention inside each sample of a packed row.

    On a GPU it is PyTorch's varlen attention, on a CPU causal SDPA sample by sample: measured
    twice as fast there as one block mask over the row. Neither has dropout on the attention
    weights, so training sets `attn_pdrop` to 0.

    Args:
        query: Shape (1, heads, tokens, width), as are key and value.
        cu_seq_lens_q: First token of each sample, then the number of tokens. Shape (samples + 1,).
        max_length_q: Tokens of the longest sample.

    Returns:
        Shape (1, tokens, heads, width), and no weights.
    """
    if query.is_cuda:
        return _varlen(query, key, value, scaling, cu_seq_lens_q, max_length_q), None
    lengths: Any = cu_seq_lens_q.diff().tolist()
    parts = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        for q, k, v in zip(
            query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, starts: Tensor, longest: int
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Kernels exist for 16 bits only; without autocast the row is attended to in bfloat16.
    q, k, v = (part.transpose(1, 2)[0].to(torch.bfloat16) for part in (query, key, value))
    attended = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0)
    )
    assert isinstance(attended, Tensor)  # a tuple only where log-sum-exps are asked for
    return attended[None].to(query.dtype)


def _no_mask(*_: Any, **__: Any) -> None:
    """The row needs no mask: `packed_attention` keeps to the samples."""


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
