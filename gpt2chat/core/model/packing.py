"""Padding-free rows: whole samples laid end to end, none of which sees another.

A packed row has shape (1, tokens). Positions restart at each sample, and attention stays inside
it (attention.py): `cu_seq_lens_q` holds where each sample begins, and the end of the last.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2chat.core.text.template import PAD
from gpt2chat.core.text.tokens import SPECIAL_IDS

Ints = NDArray[np.integer[Any]]

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
class RowShape:
    """Sizes that every row of a run is padded to, so that one compiled graph serves all of them."""

    tokens: int
    samples: int
    """Slots for samples, those that hold padding included; even, to hold pairs."""
    kept: int
    """Slots for trained tokens."""
    longest: int
    """Most tokens of a sample, and of a piece of padding."""


@dataclass(frozen=True)
class PackedRow:
    """Tensors of one packed row. N tokens, K of them followed by a trained one, S samples.

    With a RowShape, N, K and S are its sizes: the samples are followed by pieces of padding, and
    what of K is left over has weight 0.
    """

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
    weights: Tensor
    """1 for a trained token, 0 for padding; float32. Shape (K,)."""


def lay_out(
    ids: Ints, lengths: Ints, prompt_lengths: Ints, shape: RowShape | None = None
) -> PackedRow:
    """Return the packed row of samples that lie end to end in `ids`.

    A sample's first token is never trained, so no token is predicted from another sample.

    Args:
        ids: All tokens. Shape (tokens,).
        lengths: Tokens of each sample. Shape (samples,).
        prompt_lengths: Tokens of each sample before the first trained one. Shape (samples,).
        shape: Sizes to pad to.
    """
    trained = _positions(lengths) >= np.maximum(prompt_lengths, 1).repeat(lengths)
    at = np.flatnonzero(trained)
    segments = np.arange(len(lengths)).repeat(lengths)[at]
    weights = np.ones(len(at), np.float32)
    kept, targets, longest = at - 1, ids[at], int(lengths.max(initial=1))
    if shape is None and len(ids) == 0:
        # A row without samples, which a process gets if there are fewer rows than processes.
        shape = RowShape(tokens=1, samples=2, kept=0, longest=1)
    if shape is not None:
        spare = shape.kept - len(kept)
        kept, targets, segments, weights = (
            np.pad(part, (0, spare)) for part in (kept, targets, segments, weights)
        )
        padding = shape.tokens - len(ids)
        ids = np.pad(ids, (0, padding), constant_values=SPECIAL_IDS[PAD])
        # Padding becomes samples of its own, none over `longest`, which bounds varlen attention.
        pieces, rest = divmod(padding, shape.longest)
        slots = np.zeros(shape.samples - len(lengths), np.int64)
        slots[:pieces] = shape.longest
        slots[pieces : pieces + 1] = rest
        lengths, longest = np.concatenate([lengths, slots]), shape.longest
    starts = np.concatenate([[0], lengths.cumsum()])
    return PackedRow(
        input_ids=torch.from_numpy(ids.astype(np.int64))[None],
        position_ids=torch.from_numpy(_positions(lengths))[None],
        cu_seq_lens_q=torch.from_numpy(starts.astype(np.int32)),
        max_length_q=longest,
        kept=torch.from_numpy(kept),
        targets=torch.from_numpy(targets.astype(np.int64)),
        segments=torch.from_numpy(segments),
        weights=torch.from_numpy(weights),
    )


def _positions(lengths: Ints) -> Ints:
    """Return 0, 1, 2 … for each length."""
    ends = lengths.cumsum()
    return np.arange(int(lengths.sum())) - (ends - lengths).repeat(lengths)
