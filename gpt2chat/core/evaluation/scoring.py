"""Compute the token losses of many sequences, each different beginning once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, GPT2LMHeadModel

from gpt2chat.core.evaluation.memo import Memo, key_of
from gpt2chat.core.model.losses import streamed_logps

Losses = NDArray[np.float32]
"""-log p of each scored token of a sequence, in nats."""
Scored = tuple[Sequence[int], int]
"""Token ids, and the position of the first one to score, which is at least 1."""
Branch = tuple[Tensor, Tensor | None]
"""What the tokens that a sequence adds to a batch attend to: the places of all tokens of the
sequence, shape (tokens,), and a mask to add to the scores, shape (added tokens, tokens); None if
all are added."""
CPU_BATCH = 4_096
"""Tokens computed at a time on a CPU."""
GPU_BATCH = 32_768
BRANCHES = "branches"
"""The attention's name in transformers."""


def token_losses(
    model: GPT2LMHeadModel,
    sequences: Sequence[Scored],
    on_progress: Callable[[int, int], None],
    *,
    autocast: bool = False,
    memo: Memo | None = None,
    facts: tuple[object, ...] = (),
) -> list[Losses]:
    """Return -log p of each scored token given all tokens before it, in nats.

    What two sequences have in common at their beginning is computed once: the prompt of a pair,
    the first turns of the paths of a tree. The head runs only on scored tokens.

    Args:
        model: In evaluation mode, on its device.
        sequences: Each at most as long as the model's window.
        on_progress: Called with the number of tokens computed and the total.
        autocast: Compute logits in bf16; the losses are computed from them in float32.
        memo: Where the losses of each batch are kept, and read if they are already there.
        facts: What the losses depend on besides the sequences, such as a hash of the model.

    Returns:
        One array for each sequence, in their order, shape (tokens - first scored,).
    """
    # A sequence that occurs with several starts is scored from the earliest one.
    first: dict[tuple[int, ...], int] = {}
    for ids, start in sequences:
        key = tuple(ids)
        first[key] = min(start, first.get(key, start))
    computed: dict[tuple[int, ...], Losses] = {}
    keys: dict[tuple[int, ...], str] = {}
    if memo is not None:
        keys = {ids: key_of("losses", facts, ids, start) for ids, start in first.items()}
        contents = memo.read(keys.values())
        computed = {
            ids: np.frombuffer(contents[key], np.float32)
            for ids, key in keys.items()
            if key in contents
        }
    on_cpu = model.device.type == "cpu"
    groups = batches(first.keys() - computed.keys(), CPU_BATCH if on_cpu else GPU_BATCH)
    # Tokens are counted with the beginnings that sequences share, which is a stable measure: what
    # is computed depends on how the sequences fall into batches.
    total = sum(map(len, first))
    done = sum(map(len, computed))
    on_progress(done, total)
    attention: Any = model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    model.config._attn_implementation = BRANCHES  # pyright: ignore[reportPrivateUsage]
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            for batch in groups:
                losses = _batch_losses(model, batch, [first[ids] for ids in batch])
                computed.update(zip(batch, losses, strict=True))
                if memo is not None:
                    # At once, so that an interruption loses one batch at most.
                    memo.add((keys[ids], computed[ids].tobytes()) for ids in batch)
                done += sum(map(len, batch))
                on_progress(done, total)
    finally:
        model.config._attn_implementation = attention  # pyright: ignore[reportPrivateUsage]
    return [computed[tuple(ids)][start - first[tuple(ids)] :] for ids, start in sequences]


def batches(sequences: Iterable[tuple[int, ...]], budget: int) -> list[list[tuple[int, ...]]]:
    """Split different sequences into batches that compute at most `budget` tokens each.

    Sorted by their tokens, sequences with the same beginning are neighbours, and a batch computes
    that beginning once. A sequence longer than the budget is a batch of its own.
    """
    groups: list[list[tuple[int, ...]]] = []
    used = 0
    for ids in sorted(sequences):
        added = len(ids) - (common_length(groups[-1][-1], ids) if groups else 0)
        if groups and used + added <= budget:
            groups[-1].append(ids)
            used += added
        else:
            groups.append([ids])
            used = len(ids)
    return groups


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens that two sequences have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@torch.inference_mode()
def _batch_losses(
    model: GPT2LMHeadModel, batch: Sequence[tuple[int, ...]], starts: Sequence[int]
) -> list[Losses]:
    """Return the losses of each sequence of a batch from its own start on.

    The tokens that each sequence adds to those before it lie end to end. A place is an index into
    these tokens, and the path of a sequence has the place of each of its tokens.
    """
    ids: list[int] = []
    positions: list[int] = []
    parents: list[int] = []  # the place of the token before, where the next token is predicted
    paths: list[NDArray[np.int64]] = []
    branches: list[Branch] = []
    path, before = np.empty(0, np.int64), tuple[int, ...]()
    for sequence in batch:
        common = common_length(before, sequence)
        added = np.arange(len(ids), len(ids) + len(sequence) - common)
        path, before = np.concatenate([path[:common], added]), sequence
        ids += sequence[common:]
        positions += range(common, len(sequence))
        # A sequence's first token is never scored, so its parent may be any.
        parents += [int(path[common - 1]) if common else 0, *map(int, added[:-1])]
        paths.append(path)
        mask = None
        if common:
            # SDPA would convert a mask of truth values in each layer.
            mask = torch.full((len(added), len(path)), float("-inf"), device=model.device)
            mask = mask.triu(common + 1).to(model.dtype)
        branches.append((torch.from_numpy(path).to(model.device), mask))
    is_scored = np.zeros(len(ids), np.bool_)
    for sequence_path, start in zip(paths, starts, strict=True):
        is_scored[sequence_path[start:]] = True
    scored = np.flatnonzero(is_scored)
    input_ids = torch.tensor([ids], device=model.device)
    transformer: Any = model.transformer
    hidden: Tensor = transformer(
        input_ids=input_ids,
        position_ids=torch.tensor([positions], device=model.device),
        use_cache=False,
        branches=branches,
    ).last_hidden_state[0]
    weight: Any = model.lm_head.weight
    at = torch.from_numpy(scored).to(model.device)
    logps = streamed_logps(hidden[np.array(parents)[scored]], weight, input_ids[0, at])
    # NaN where nothing is scored: a wrong index would then not pass as a loss.
    losses = np.full(len(ids), np.nan, np.float32)
    losses[scored] = -logps.cpu().numpy()
    return [losses[path[start:]] for path, start in zip(paths, starts, strict=True)]


def branch_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    branches: Sequence[Branch],
    **_: Any,
) -> tuple[Tensor, None]:
    """Return causal attention of the tokens that each sequence adds to all tokens of its path.

    Args:
        query: Shape (1, heads, tokens, width), as are key and value.

    Returns:
        Shape (1, tokens, heads, width), and no weights.
    """
    attended: list[Tensor] = []
    start = 0
    for path, mask in branches:
        end = start + (len(path) if mask is None else len(mask))
        # Without a shared beginning a sequence attends to its own tokens alone. That is a slice,
        # which copies nothing, and needs no mask, so SDPA can take its causal kernel.
        own = slice(start, end)
        k, v = (part[:, :, own] if mask is None else part[:, :, path] for part in (key, value))
        mask = None if mask is None else mask.to(query.dtype)
        attended.append(
            F.scaled_dot_product_attention(
                query[:, :, own], k, v, attn_mask=mask, is_causal=mask is None, scale=scaling
            )
        )
        start = end
    return torch.cat(attended, dim=2).transpose(1, 2), None


# No mask function is registered under this name, as in core/model/attention.py.
AttentionInterface.register(BRANCHES, branch_attention)
