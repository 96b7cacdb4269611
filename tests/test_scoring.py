"""Token losses in batches equal those of one sample at a time in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2chat.core.evaluation.scoring import Losses, Scored, batches, token_losses
from gpt2chat.core.text.conversations import parse_messages
from gpt2chat.core.text.tokens import VOCAB, encode_conversation
from tests.helpers import sample_rows, tiny_model


def real_sequences(count: int) -> list[Scored]:
    rows = sample_rows("oasst1.train.chat.jsonl.gz", count)
    encoded = [encode_conversation(parse_messages(row["messages"][:2])) for row in rows]
    return [(ids.ids[:300], min(ids.prompt_length, 299)) for ids in encoded]


def ignore(done: int, total: int) -> None:
    """Show no progress."""


def score(
    model: GPT2LMHeadModel, sequences: list[Scored], *, autocast: bool = False
) -> list[Losses]:
    return token_losses(model, sequences, ignore, autocast=autocast)


def slow(model: GPT2LMHeadModel, sequence: Scored) -> list[float]:
    """Losses by the definition: one sample, all logits, float64."""
    ids, start = sequence
    with torch.inference_mode():
        logits = copy.deepcopy(model).double()(torch.tensor([ids])).logits[0]
    logps = logits.log_softmax(-1)
    return [-logps[at - 1, ids[at]].item() for at in range(start, len(ids))]


def test_losses_equal_those_of_each_sample_alone_in_float64():
    model, sequences = tiny_model(), real_sequences(6)
    for sequence, losses in zip(sequences, score(model, sequences), strict=True):
        assert losses == pytest.approx(slow(model, sequence), rel=1e-5)


def test_the_other_sequences_of_a_batch_change_nothing():
    model, sequences = tiny_model(), real_sequences(6)
    alone = [score(model, [sequence])[0] for sequence in sequences]
    for one, together in zip(alone, score(model, sequences), strict=True):
        assert together == pytest.approx(one, rel=1e-5)


def test_a_model_of_zeros_gives_every_token_the_same_loss():
    model = tiny_model()
    for weight in model.parameters():
        weight.data.zero_()
    for losses in score(model, real_sequences(4)):
        assert losses == pytest.approx(math.log(VOCAB))


def test_a_repeated_sequence_is_computed_once():
    seen: list[tuple[int, int]] = []
    ids = list(range(40, 60))

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))

    token_losses(tiny_model(), [(ids, 5), (ids, 1), (ids, 5)], on_progress)
    assert seen == [(0, 20), (20, 20)]


def test_a_sequence_may_be_scored_from_several_positions():
    ids = list(range(40, 60))
    late, whole = score(tiny_model(), [(ids, 12), (ids, 1)])
    assert (len(late), len(whole)) == (8, 19)
    np.testing.assert_array_equal(late, whole[11:])


def test_a_batch_has_at_most_the_budget_of_tokens_padding_included():
    sequences = [tuple(range(length)) for length in (90, 40, 40, 40, 5, 5)]
    groups = batches(sequences, 80)
    assert [[len(ids) for ids in batch] for batch in groups] == [[90], [40, 40], [40, 5], [5]]


def test_bf16_is_near_float32():
    model, sequences = tiny_model(), real_sequences(4)
    for rough, exact in zip(
        score(model, sequences, autocast=True), score(model, sequences), strict=True
    ):
        assert rough.mean() == pytest.approx(exact.mean(), rel=1e-3)
