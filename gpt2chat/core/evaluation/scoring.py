"""Token losses of many sequences, each different sequence computed once."""

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
"""Token ids, and the first of them whose loss is wanted; at least 1."""


def token_losses(
    model: GPT2LMHeadModel,
    sequences: Sequence[Scored],
    on_progress: Callable[[int, int], None],
    *,
    autocast: bool = False,
) -> list[Losses]:
    """Return -log p of each wanted token given all tokens before it, in nats.

    Sequences of like length are computed together, padded at the right, where no token that
    counts can see the padding. The head runs only where a loss is wanted.

    Args:
        model: In evaluation mode, on its device; its attention is causal SDPA.
        sequences: None longer than the model's window.
        on_progress: Called with the tokens computed and all that there are to compute.
        autocast: Compute in bf16; losses are taken in float32 of its logits.

    Returns:
        One array for each sequence, in their order, shape (tokens - first wanted,).
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
    return [computed[key][start - first[key] :] for key, start in _keyed(sequences)]


def _keyed(sequences: Sequence[Scored]) -> list[tuple[tuple[int, ...], int]]:
    return [(tuple(ids), start) for ids, start in sequences]


def batches(sequences: Sequence[tuple[int, ...]], budget: int) -> list[list[tuple[int, ...]]]:
    """Return runs of neighbours of at most `budget` tokens, padding included, or of one.

    Args:
        sequences: The longest first.
    """
    found: list[list[tuple[int, ...]]] = []
    for ids in sequences:
        if found and len(found[-1][0]) * (len(found[-1]) + 1) <= budget:
            found[-1].append(ids)
        else:
            found.append([ids])
    return found


@torch.inference_mode()
def _batch_losses(
    model: GPT2LMHeadModel, batch: Sequence[Sequence[int]], starts: Sequence[int]
) -> list[Losses]:
    width = max(map(len, batch))
    ids = torch.full((len(batch), width), SPECIAL_IDS[PAD])
    wanted = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (sequence, start) in enumerate(zip(batch, starts, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        wanted[row, start : len(sequence)] = True
    ids, wanted = ids.to(model.device), wanted.to(model.device)
    transformer: Any = model.transformer
    # No mask and no cache: transformers then attends by SDPA's own causal kernel.
    hidden: Tensor = transformer(input_ids=ids, use_cache=False).last_hidden_state
    losses = _head_losses(model, hidden[:, :-1][wanted[:, 1:]], ids[wanted])
    sizes = [len(sequence) - start for sequence, start in zip(batch, starts, strict=True)]
    return [part.numpy() for part in losses.cpu().split(sizes)]


def _head_losses(model: GPT2LMHeadModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the losses of the targets, a few logits at a time: all at once would be gigabytes.

    Args:
        hidden: Shape (tokens, width).
        targets: Shape (tokens,).
    """
    rows = 1_024 if hidden.device.type == "cpu" else 8_192
    weight: Any = model.lm_head.weight
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([-head_logps(some, weight, ids) for some, ids in parts])
