"""The draw of the next token against transformers' own processors; bans and seeds."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ReplyError
from gpt2chat.core.generation.sampling import NEVER, Sampler, candidates, ending_ngram, penalize
from gpt2chat.core.text.tokens import ENDOFTEXT_ID, EOT_ID, SPECIAL_IDS, VOCAB

GREEDY = Sampling(temperature=0, repetition_penalty=1)


def likes(*tokens: int) -> torch.Tensor:
    """Scores that fall by one from token to token, all others far below; shape (1, vocab)."""
    scores = torch.full((1, VOCAB), -90.0)
    scores[0, list(tokens)] = -40.0 - torch.arange(len(tokens), dtype=torch.float32)
    return scores


def draw(scores: torch.Tensor, sampling: Sampling, times: int = 100) -> list[int]:
    """Draw from the same scores over and over, each time as if the reply began."""
    sampler = Sampler(sampling)
    tokens = [sampler(scores.clone())[0].token for _ in range(1)]
    for _ in range(times - 1):
        sampler.histories[0].clear()
        tokens.append(sampler(scores.clone())[0].token)
    return tokens


def plain(**settings: Any) -> Sampling:
    """Sampling with a seed, and without what depends on the reply so far."""
    return replace(Sampling(repetition_penalty=1, seed=0), **settings)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1, 0, 1, 0),
        (1, 0, 1, 0.1),
        (0.3, 0, 0.9, 0),
        (1.5, 0, 0.5, 0),
        (0.7, 36, 0.96, 0),
        (0.9, 50, 1, 0.1),
        (2, 5, 0.9, 0.3),
    ],
)
def test_chances_are_those_of_transformers(
    temperature: float, top_k: int, top_p: float, min_p: float
):
    scores = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(1)) * 3
    theirs = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
    theirs += [TopKLogitsWarper(top_k)] if top_k else []
    theirs += [TopPLogitsWarper(float(top_p))] if top_p < 1 else []
    theirs += [MinPLogitsWarper(min_p)] if min_p else []
    banned = scores.clone()
    banned[:, NEVER] = -torch.inf
    expected: Any = theirs(torch.zeros(2, 0, dtype=torch.long), banned).softmax(-1)  # pyright: ignore[reportArgumentType]
    sampling = plain(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    chances, ids = candidates(scores, torch.zeros(2, VOCAB, dtype=torch.bool), sampling)
    ours = torch.zeros(2, VOCAB).scatter(1, ids, chances / chances.sum(-1, keepdim=True))
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)


def test_the_penalty_is_that_of_transformers_on_centred_scores():
    scores = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    scores -= scores.mean()
    seen = torch.zeros(1, 50, dtype=torch.bool)
    seen[0, [5, 7]] = True
    theirs: Any = RepetitionPenaltyLogitsProcessor(1.3)
    assert torch.equal(penalize(scores, seen, 1.3), theirs(torch.tensor([[5, 7, 7]]), scores))


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_preselecting_the_likeliest_tokens_changes_no_chance(penalty: float):
    scores = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 4 - 90
    seen = torch.zeros(1, VOCAB, dtype=torch.bool)
    seen[0, scores[0].topk(200).indices[::2]] = True
    whole = penalize(scores - scores.mean(), seen, penalty)
    whole[:, NEVER] = -torch.inf
    expected = whole.topk(20)
    sampling = plain(temperature=1, top_k=20, top_p=1, repetition_penalty=penalty)
    chances, ids = candidates(scores, seen, sampling)
    assert ids.tolist() == expected.indices.tolist()
    torch.testing.assert_close(chances, expected.values.softmax(-1), atol=1e-5, rtol=1e-3)


def test_adding_a_number_to_all_scores_changes_no_chance():
    scores = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(1, VOCAB, dtype=torch.bool)
    seen[0, 5] = True
    expected, ids = candidates(scores, seen, Sampling())
    chances, moved = candidates(scores - 100, seen, Sampling())
    assert torch.equal(ids, moved)
    torch.testing.assert_close(chances, expected, atol=1e-4, rtol=1e-3)


def test_top_k_keeps_the_k_likeliest():
    assert set(draw(likes(5, 6, 7, 8), plain(temperature=9, top_k=2, top_p=1))) == {5, 6}


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    # Chances 0.64, 0.24, 0.09, 0.03: the first two reach 0.8, the first alone 0.5.
    assert set(draw(likes(5, 6, 7, 8), plain(temperature=1, top_p=0.8))) == {5, 6}
    assert set(draw(likes(5, 6, 7, 8), plain(temperature=1, top_p=0.5))) == {5}


def test_min_p_keeps_tokens_with_a_share_of_the_likeliest_ones_chance():
    # By the first: 1, 0.37, 0.14, 0.05.
    assert set(draw(likes(5, 6, 7, 8), plain(temperature=1, top_p=1, min_p=0.1))) == {5, 6, 7}


def test_tokens_are_drawn_with_their_chances():
    draws = draw(likes(5, 6), plain(temperature=1, top_k=2, top_p=1), times=500)
    assert draws.count(5) / 500 == pytest.approx(1 / (1 + 1 / 2.71828), abs=0.06)


@pytest.mark.parametrize("temperature", [0, 1e-45, 1e-7, 1e-5])
def test_the_coldest_temperatures_take_the_likeliest_token(temperature: float):
    assert set(draw(likes(9, 8), plain(temperature=temperature, top_k=0), times=20)) == {9}


def test_a_control_token_is_never_drawn_but_the_end_of_turn_is():
    scores = likes(*SPECIAL_IDS.values(), ENDOFTEXT_ID, 3)
    hot = plain(temperature=100, top_k=10**6, top_p=1)
    assert not set(draw(scores, hot, times=30)) & set(NEVER)
    assert draw(scores, GREEDY, times=1) == [EOT_ID]


@pytest.mark.parametrize("n", [2, 3])
def test_tokens_that_would_repeat_an_ngram_are_those_of_transformers(n: int):
    reply = [1, 2, 3, 1, 2, 4, 1, 2]
    theirs: Any = NoRepeatNGramLogitsProcessor(n)
    scores = theirs(torch.tensor([reply]), torch.zeros(1, 10))
    expected = scores[0].isinf().nonzero()[:, 0].tolist()
    assert sorted(set(ending_ngram(reply, n))) == expected
    assert ending_ngram([1], n) == []


@pytest.mark.parametrize("penalty", [1, 1.0001])
def test_no_ngram_is_drawn_twice(penalty: float):
    sampler = Sampler(plain(temperature=0, no_repeat_ngram=2, repetition_penalty=penalty))
    tokens = [sampler(likes(5, 6, 7))[0].token for _ in range(12)]
    pairs = list(zip(tokens, tokens[1:], strict=False))
    assert len(set(pairs)) == len(pairs)
    assert tokens[:4] == [5, 5, 6, 5]


def test_log_probabilities_are_those_of_the_model_before_sampling():
    scores = likes(5, 6, 7)
    sampling = plain(temperature=0.1, repetition_penalty=2, no_repeat_ngram=2)
    sampler = Sampler(sampling, top_logprobs=2)
    expected = scores[0].log_softmax(-1)
    for _ in range(3):
        (choice,) = sampler(scores.clone())
        assert choice.logprob == pytest.approx(float(expected[choice.token]))
        assert [token for token, _ in choice.top] == [5, 6]
        assert [logp for _, logp in choice.top] == pytest.approx(expected[[5, 6]].tolist())
    assert Sampler(plain())(scores)[0].logprob is None


@pytest.mark.parametrize("top_p", [0.9, 1])
def test_a_seed_gives_the_same_tokens_in_a_batch_as_alone(top_p: float):
    # The first and the last reach 0.9 with few tokens, the second with many.
    spread = torch.tensor([[9.0], [1.0], [9.0]])
    scores = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0)) * spread
    sampling = Sampling(temperature=1, top_k=0, top_p=top_p, seed=4)
    together, split = Sampler(sampling, 3), Sampler(sampling, 3)
    alone = [Sampler(sampling) for _ in range(3)]
    for _ in range(3):
        rows = [scores[row : row + 1].clone() for row in range(3)]
        tokens = [sampler(row)[0].token for sampler, row in zip(alone, rows, strict=True)]
        assert [choice.token for choice in together(scores.clone(), range(3))] == tokens
        assert [split(row, [at])[0].token for at, row in enumerate(rows)] == tokens


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=0)])
def test_scores_that_are_not_finite_end_the_reply(value: float, sampling: Sampling):
    scores = likes(3, 4).repeat(2, 1)
    scores[1, 7] = value
    with pytest.raises(ReplyError, match="not finite"):
        Sampler(sampling, 2)(scores, (0, 1))
