"""Compute the token losses of many sequences, each different sequence once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GPT2LMHeadModel

from gpt2chat.core.model.losses import head_logps
from gpt2chat.core.text.template import PAD
from gpt2chat.core.text.tokens import SPECIAL_IDS

Losses = NDArray[np.float32]
"""-log p of each scored token of a sequence, in nats."""
Scored = tuple[Sequence[int], int]
"""Token ids, and the position of the first one to score, which is at least 1."""
CPU_BATCH = 4_096
"""Tokens computed at a time on a CPU, padding included."""
GPU_BATCH = 32_768
CPU_ROWS = 128
"""Rows of logits computed at a time on a CPU, 26 MB in float32. With 1,024 scoring takes a tenth
more CPU time, for the same bits; with 64 the last bits differ (benchmarks/scoring.py)."""
GPU_ROWS = 8_192


def token_losses(
    model: GPT2LMHeadModel,
    sequences: Sequence[Scored],
    on_progress: Callable[[int, int], None],
    *,
    autocast: bool = False,
) -> list[Losses]:
    """Return -log p of each scored token given all tokens before it, in nats.

    Sequences of similar length are computed together, padded at the right, where no scored token
    can see the padding. The head runs only on scored tokens.

    Args:
        model: In evaluation mode, on its device; its attention is causal SDPA.
        sequences: Each at most as long as the model's window.
        on_progress: Called with the number of tokens computed and the total.
        autocast: Compute logits in bf16; the losses are computed from them in float32.

    Returns:
        One array for each sequence, in their order, shape (tokens - first scored,).
    """
    # A sequence that occurs with several starts is scored from the earliest one.
    first: dict[tuple[int, ...], int] = {}
    for ids, start in sequences:
        key = tuple(ids)
        first[key] = min(start, first.get(key, start))
    # Neighbours of similar length need little padding.
    unique = sorted(first, key=len, reverse=True)
    total, done = sum(map(len, unique)), 0
    computed: dict[tuple[int, ...], Losses] = {}
    on_progress(done, total)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        for batch in batches(unique, CPU_BATCH if model.device.type == "cpu" else GPU_BATCH):
            losses = _batch_losses(model, batch, [first[ids] for ids in batch])
            computed.update(zip(batch, losses, strict=True))
            done += sum(map(len, batch))
            on_progress(done, total)
    return [computed[tuple(ids)][start - first[tuple(ids)] :] for ids, start in sequences]


def batches(sequences: Sequence[tuple[int, ...]], budget: int) -> list[list[tuple[int, ...]]]:
    """Split sequences into batches of at most `budget` tokens, padding included.

    A sequence longer than the budget is a batch of its own.

    Args:
        sequences: Sorted by length, the longest first.
    """
    groups: list[list[tuple[int, ...]]] = []
    for ids in sequences:
        # The first sequence of a batch is its longest, so it sets the padded width.
        if groups and len(groups[-1][0]) * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(ids)
        else:
            groups.append([ids])
    return groups


@torch.inference_mode()
def _batch_losses(
    model: GPT2LMHeadModel, batch: Sequence[Sequence[int]], starts: Sequence[int]
) -> list[Losses]:
    """Return the losses of each sequence of a batch from its own start on."""
    # Padding at the right needs no mask: attention is causal, so no scored token sees it.
    width = max(map(len, batch))
    ids = torch.full((len(batch), width), SPECIAL_IDS[PAD])
    scored = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (sequence, start) in enumerate(zip(batch, starts, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        scored[row, start : len(sequence)] = True
    ids, scored = ids.to(model.device), scored.to(model.device)
    transformer: Any = model.transformer
    # Without a mask and a cache, transformers uses SDPA's own causal kernel.
    outputs: Tensor = transformer(input_ids=ids, use_cache=False).last_hidden_state
    # The state at position t predicts the token at t + 1. Shapes (scored tokens, width) and
    # (scored tokens,), in row order.
    hidden, targets = outputs[:, :-1][scored[:, 1:]], ids[scored]
    weight: Any = model.lm_head.weight
    # All logits at once would be gigabytes: 50,264 float32 numbers for each token.
    rows = CPU_ROWS if hidden.device.type == "cpu" else GPU_ROWS
    pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
    losses = torch.cat([-head_logps(states, weight, tokens) for states, tokens in pieces])
    sizes = [len(sequence) - start for sequence, start in zip(batch, starts, strict=True)]
    return [part.numpy() for part in losses.cpu().split(sizes)]
