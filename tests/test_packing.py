"""Packed sequences: every sample whole, none seen by another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2chat.core.model.losses import token_logps
from gpt2chat.core.model.packing import PackedSequence, lay_out, pack
from gpt2chat.core.text.tokens import Encoded
from tests.helpers import tiny_model

SAMPLES = [
    Encoded([5, 6, 7, 8, 9], 2),
    Encoded([11, 12, 13], 1),
    Encoded(list(range(100, 140)), 30),
]


def pack_samples(samples: list[Encoded]) -> PackedSequence:
    ids = np.concatenate([sample.ids for sample in samples])
    lengths = np.array([len(sample) for sample in samples])
    return lay_out(ids, lengths, np.array([sample.prompt_length for sample in samples]))


def packed_logits(samples: list[Encoded]) -> torch.Tensor:
    sequence = pack_samples(samples)
    model = tiny_model(packed=True).double()
    with torch.no_grad():
        hidden = model.transformer(
            sequence.input_ids,
            position_ids=sequence.position_ids,
            cu_seq_lens_q=sequence.cu_seq_lens_q,
            max_length_q=sequence.max_length_q,
            use_cache=False,
        ).last_hidden_state[0]
        return model.lm_head(hidden)


def test_packed_logits_equal_those_of_each_sample_alone():
    logits, alone = packed_logits(SAMPLES), tiny_model().double()
    with torch.no_grad():
        expected = [alone(input_ids=torch.tensor([sample.ids])).logits[0] for sample in SAMPLES]
    torch.testing.assert_close(logits, torch.cat(expected), rtol=0, atol=1e-12)


def test_the_model_returns_the_log_probabilities_of_the_trained_tokens():
    sequence = pack_samples(SAMPLES)
    logps = tiny_model(packed=True).double()(
        sequence.input_ids,
        sequence.position_ids,
        sequence.cu_seq_lens_q,
        sequence.max_length_q,
        sequence.logit_positions,
        sequence.targets,
    )
    expected = token_logps(packed_logits(SAMPLES)[sequence.logit_positions], sequence.targets)
    torch.testing.assert_close(logps, expected, rtol=0, atol=1e-12)


def test_changing_one_sample_leaves_the_logits_of_the_others_as_they_were():
    changed = [Encoded([40, 41, 42, 43, 44], 2), *SAMPLES[1:]]
    assert torch.equal(packed_logits(SAMPLES)[5:], packed_logits(changed)[5:])


def test_a_row_trains_exactly_the_replies():
    sequence = pack_samples(SAMPLES)
    assert sequence.targets.tolist() == [7, 8, 9, 12, 13, *range(130, 140)]
    assert sequence.input_ids[0, sequence.logit_positions].tolist() == [
        6,
        7,
        8,
        11,
        12,
        *range(129, 139),
    ]
    assert sequence.segments.tolist() == [0] * 3 + [1] * 2 + [2] * 10


def test_positions_restart_at_each_sample():
    sequence = pack_samples(SAMPLES)
    assert sequence.position_ids[0].tolist() == [*range(5), *range(3), *range(40)]
    assert sequence.cu_seq_lens_q.tolist() == [0, 5, 8, 48]
    assert sequence.max_length_q == 40


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 50), max_size=200),
    capacity=st.integers(50, 300),
    most=st.none() | st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_packing_keeps_every_item_once_and_the_limits(
    sizes: list[int], capacity: int, most: int | None, seed: int
):
    sequences = pack(sizes, capacity, most, seed)
    assert sorted(item for sequence in sequences for item in sequence) == list(range(len(sizes)))
    assert all(sum(sizes[item] for item in sequence) <= capacity for sequence in sequences)
    assert all(len(sequence) <= (most or len(sequence)) for sequence in sequences)
    assert sequences == pack(sizes, capacity, most, seed)


def test_rows_of_real_lengths_are_nearly_full():
    sizes = [30 + (index * 7919) % 700 for index in range(1000)]
    sequences = pack(sizes, 4096, None, 0)
    assert sum(sizes) / (4096 * len(sequences)) > 0.95


def test_an_item_larger_than_a_row_is_refused():
    with pytest.raises(ValueError, match="60 tokens in sequences of 50"):
        pack([10, 60], 50, None, 0)
