"""Token losses in batches equal those of one sample at a time in float64."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2chat.core.evaluation import scoring
from gpt2chat.core.evaluation.memo import Memo
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


def test_sequences_with_the_same_beginning_have_the_losses_of_each_alone_in_float64():
    # Branches of branches, a sequence that is the beginning of another, and one of its own.
    shared, model = list(range(40, 60)), tiny_model()
    sequences: list[Scored] = [
        (shared, 1),
        ([*shared, 7, 8, 9], 20),
        ([*shared, 7, 8, 3, 4, 5], 22),
        ([*shared, 7, 2], 21),
        ([*shared[:5], 1, 2], 3),
        ([9, 8, 7], 1),
    ]
    for sequence, losses in zip(sequences, score(model, sequences), strict=True):
        assert losses == pytest.approx(slow(model, sequence), rel=1e-5)


def test_losses_that_were_computed_before_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, memo, sequences = tiny_model(), Memo(tmp_path / "memo"), real_sequences(3)
    first = token_losses(model, sequences, ignore, memo=memo, facts=("weights",))
    monkeypatch.setattr(scoring, "_batch_losses", None)
    again = token_losses(model, sequences, ignore, memo=memo, facts=("weights",))
    assert np.concatenate(first).tolist() == np.concatenate(again).tolist()
    with pytest.raises(TypeError):
        token_losses(model, sequences, ignore, memo=memo, facts=("other weights",))


def test_an_interrupted_scoring_keeps_each_finished_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scoring, "CPU_BATCH", 300)
    model, memo, sequences = tiny_model(), Memo(tmp_path / "memo"), real_sequences(6)
    reports: list[int] = []

    def interrupt(done: int, total: int) -> None:
        reports.append(done)
        if len(reports) == 3:  # at the start and after the first batch it goes on
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_losses(model, sequences, interrupt, memo=memo)
    token_losses(model, sequences, lambda done, total: reports.append(done), memo=memo)
    assert reports[3] == reports[2] > reports[1] > reports[0] == 0


def test_a_sequence_may_be_scored_from_several_positions():
    ids = list(range(40, 60))
    late, whole = score(tiny_model(), [(ids, 12), (ids, 1)])
    assert (len(late), len(whole)) == (8, 19)
    np.testing.assert_array_equal(late, whole[11:])


def test_a_batch_computes_at_most_the_budget_of_tokens_and_shared_ones_once():
    one, other = tuple(range(90)), (*range(40), 7, 7)
    assert batches([one, other], 132) == [[other, one]] == batches([other, one], 92)
    assert batches([one, other], 91) == [[other], [one]]
    assert batches([(1,), (2,), (3,)], 2) == [[(1,), (2,)], [(3,)]]


def test_bf16_is_near_float32():
    model, sequences = tiny_model(), real_sequences(4)
    for rough, exact in zip(
        score(model, sequences, autocast=True), score(model, sequences), strict=True
    ):
        assert rough.mean() == pytest.approx(exact.mean(), rel=1e-3)
