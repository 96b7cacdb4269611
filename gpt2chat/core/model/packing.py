"""Pack whole samples end to end into sequences without padding; no sample sees another.

A sequence has shape (1, tokens). Positions restart at each sample, and attention stays inside it
(attention.py): `cu_seq_lens_q` holds where each sample begins, and where the last one ends.
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

OPEN_SEQUENCES = 32
"""Number of sequences that are filled at the same time. More would be fuller, but would spread the
long samples less evenly."""


def pack(sizes: Sequence[int], capacity: int, most: int | None, seed: int) -> list[list[int]]:
    """Return the items of each sequence, in a random order drawn from the seed.

    Each item goes to the first open sequence with room. If none has room, the fullest is closed.

    Args:
        sizes: Tokens of each item.
        capacity: Most tokens in a sequence.
        most: Most items in a sequence.

    Raises:
        ValueError: An item is larger than a sequence.
    """
    # Shuffled first, so that a sequence mixes sources and lengths. Packing by size would fill the
    # sequences better, and make each a batch of one kind.
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    closed: list[list[int]] = []
    sequences: list[list[int]] = []
    used: list[int] = []
    for item in order:
        size = sizes[item]
        if size > capacity:
            raise ValueError(f"an item of {size} tokens in sequences of {capacity}")
        room = (
            index
            for index, tokens in enumerate(used)
            if tokens + size <= capacity and (most is None or len(sequences[index]) < most)
        )
        index = next(room, None)
        if index is None:
            if len(sequences) == OPEN_SEQUENCES:
                # The fullest is the one with the least room for the items to come.
                full = max(range(OPEN_SEQUENCES), key=used.__getitem__)
                closed.append(sequences.pop(full))
                used.pop(full)
            sequences.append([])
            used.append(0)
            index = len(sequences) - 1
        sequences[index].append(item)
        used[index] += size
    return closed + sequences


@dataclass(frozen=True, slots=True)
class SequenceShape:
    """Sizes that all sequences of a run are padded to, so that one compiled graph serves them."""

    tokens: int
    samples: int
    """Slots for samples and for pieces of padding; an even number, to fit pairs."""
    trained_tokens: int
    """Slots for trained tokens."""
    longest: int
    """Most tokens of a sample, and of a piece of padding."""


@dataclass(frozen=True)
class PackedSequence:
    """Tensors of one packed sequence. N tokens, K of them followed by a trained one, S samples.

    With a SequenceShape, N, K and S are its sizes: pieces of padding follow the samples, and unused
    slots of K have weight 0.
    """

    input_ids: Tensor
    """Shape (1, N)."""
    position_ids: Tensor
    """From 0 in each sample. Shape (1, N)."""
    cu_seq_lens_q: Tensor
    """First token of each sample, then N; int32. Shape (S + 1,)."""
    max_length_q: int
    """Tokens of the longest sample."""
    logit_positions: Tensor
    """Positions whose next token is trained: only there are logits computed. Shape (K,)."""
    targets: Tensor
    """The trained tokens. Shape (K,)."""
    segments: Tensor
    """Which sample each trained token belongs to. Shape (K,)."""
    weights: Tensor
    """1 for a trained token, 0 for padding; float32. Shape (K,)."""


def lay_out(
    ids: Ints, lengths: Ints, prompt_lengths: Ints, shape: SequenceShape | None = None
) -> PackedSequence:
    """Return the packed sequence of samples that lie end to end in `ids`.

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
    logit_positions, targets, longest = at - 1, ids[at], int(lengths.max(initial=1))
    if shape is None and len(ids) == 0:
        # No samples: a process gets such a sequence if there are fewer of them than processes.
        shape = SequenceShape(tokens=1, samples=2, trained_tokens=0, longest=1)
    if shape is not None:
        spare = shape.trained_tokens - len(logit_positions)
        logit_positions, targets, segments, weights = (
            np.pad(part, (0, spare)) for part in (logit_positions, targets, segments, weights)
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
    return PackedSequence(
        input_ids=torch.from_numpy(ids.astype(np.int64))[None],
        position_ids=torch.from_numpy(_positions(lengths))[None],
        # Varlen attention takes int32, and all look-ups int64.
        cu_seq_lens_q=torch.from_numpy(starts.astype(np.int32)),
        max_length_q=longest,
        logit_positions=torch.from_numpy(logit_positions),
        targets=torch.from_numpy(targets.astype(np.int64)),
        segments=torch.from_numpy(segments),
        weights=torch.from_numpy(weights),
    )


def _positions(lengths: Ints) -> Ints:
    """Return 0, 1, 2 … for each length."""
    ends = lengths.cumsum()
    return np.arange(int(lengths.sum())) - (ends - lengths).repeat(lengths)
