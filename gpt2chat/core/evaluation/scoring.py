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
Scored = tuple[Sequence[int], int]
"""Token ids, and the position of the first one to score; at least 1."""
CPU_ROWS = 128
"""Rows of logits computed at a time, 26 MB. With 1,024 scoring takes a tenth more CPU time, for the
same bits; with 64 the last bits differ (benchmarks/scoring.py)."""
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
        sequences: None longer than the model's window.
        on_progress: Called with the tokens computed and all that there are to compute.
        autocast: Compute in bf16; losses are taken in float32 of its logits.

    Returns:
        One array for each sequence, in their order, shape (tokens - first scored,).
    """
    first: dict[tuple[int, ...], int] = {}
    for ids, start in sequences:
        key = tuple(ids)
        first[key] = min(start, first.get(key, start))
    unique = sorted(first, key=len, reverse=True)
    total, done = sum(map(len, unique)), 0
    computed: dict[tuple[int, ...], Losses] = {}
    on_progress(done, total)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        for batch in batches(unique, 4_096 if model.device.type == "cpu" else 32_768):
            losses = _batch_losses(model, batch, [first[ids] for ids in batch])
            computed.update(zip(batch, losses, strict=True))
            done += sum(map(len, batch))
            on_progress(done, total)
    return [computed[tuple(ids)][start - first[tuple(ids)] :] for ids, start in sequences]


def batches(sequences: Sequence[tuple[int, ...]], budget: int) -> list[list[tuple[int, ...]]]:
    """Return runs of neighbours of at most `budget` tokens, padding included, or of one.

    Args:
        sequences: The longest first.
    """
    runs: list[list[tuple[int, ...]]] = []
    for ids in sequences:
        if runs and len(runs[-1][0]) * (len(runs[-1]) + 1) <= budget:
            runs[-1].append(ids)
        else:
            runs.append([ids])
    return runs


@torch.inference_mode()
def _batch_losses(
    model: GPT2LMHeadModel, batch: Sequence[Sequence[int]], starts: Sequence[int]
) -> list[Losses]:
    width = max(map(len, batch))
    ids = torch.full((len(batch), width), SPECIAL_IDS[PAD])
    scored = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (sequence, start) in enumerate(zip(batch, starts, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        scored[row, start : len(sequence)] = True
    ids, scored = ids.to(model.device), scored.to(model.device)
    transformer: Any = model.transformer
    # No mask and no cache: transformers then attends by SDPA's own causal kernel.
    outputs: Tensor = transformer(input_ids=ids, use_cache=False).last_hidden_state
    hidden, targets = outputs[:, :-1][scored[:, 1:]], ids[scored]
    weight: Any = model.lm_head.weight
    # All logits at once would be gigabytes.
    rows = CPU_ROWS if hidden.device.type == "cpu" else GPU_ROWS
    pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
    losses = torch.cat([-head_logps(states, weight, tokens) for states, tokens in pieces])
    sizes = [len(sequence) - start for sequence, start in zip(batch, starts, strict=True)]
    return [part.numpy() for part in losses.cpu().split(sizes)]
