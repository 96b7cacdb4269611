"""Generation: transformers' own results, the cache from turn to turn, stops, whole characters."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel, RepetitionPenaltyLogitsProcessor

from gpt2chat.core.config import Sampling
from gpt2chat.core.generate import NEVER, Generator, ReplyStream, choose, penalize
from gpt2chat.core.model import load_model
from gpt2chat.core.tokens import (
    ENDOFTEXT_ID,
    EOT_ID,
    SPECIAL_IDS,
    VOCAB,
    encode_conversation,
    encode_text,
)
from tests.conftest import talk, tiny_model

CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=12)
ROME = list(encode_text("The history of Rome begins"))


@pytest.fixture(scope="module")
def starter() -> GPT2LMHeadModel:
    return load_model("starter")


@pytest.fixture
def generator(starter: GPT2LMHeadModel) -> Generator:
    return Generator(starter, CPU)


@pytest.fixture
def lengths(starter: GPT2LMHeadModel) -> Iterator[list[int]]:
    """How many tokens each forward pass of the starter was given."""
    seen: list[int] = []
    embeddings: Any = starter.transformer.wte

    def count(_: Any, given: tuple[torch.Tensor]) -> None:
        seen.append(given[0].numel())

    hook = embeddings.register_forward_pre_hook(count)
    yield seen
    hook.remove()


def likes(*tokens: int) -> torch.Tensor:
    """Scores that fall by one from token to token, all others far below."""
    scores = torch.full((VOCAB,), -90.0)
    scores[list(tokens)] = -40.0 - torch.arange(len(tokens), dtype=torch.float32)
    return scores


def drawn(scores: torch.Tensor, sampling: Sampling, times: int = 100) -> set[int]:
    random = torch.Generator().manual_seed(0)
    return {choose(scores, [], sampling, random) for _ in range(times)}


def test_greedy_replies_are_those_of_transformers(generator: Generator):
    batch = torch.tensor([ROME])
    expected: Any = generator.model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        do_sample=False,
        max_new_tokens=12,
        suppress_tokens=NEVER,
    )
    assert list(generator.generate(ROME, GREEDY).ids) == expected[0, len(ROME) :].tolist()


def test_the_penalty_is_that_of_transformers_on_centred_scores():
    scores = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    theirs: Any = RepetitionPenaltyLogitsProcessor(1.3)
    expected = theirs(torch.tensor([[5, 7, 7]]), scores - scores.mean())
    assert torch.equal(penalize(scores[0], [5, 7, 7], 1.3), expected[0])


def test_the_penalty_does_not_depend_on_where_the_scores_lie():
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))
    expected = penalize(scores, [5], 1.1)
    torch.testing.assert_close(penalize(scores - 100, [5], 1.1), expected, atol=1e-4, rtol=0)


def test_the_penalty_leaves_the_words_of_the_prompt_alone(generator: Generator):
    strong = Sampling(temperature=0, repetition_penalty=10, max_new_tokens=1)
    plain = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=1)
    assert generator.generate(ROME, strong).ids == generator.generate(ROME, plain).ids


def test_top_k_keeps_the_k_likeliest():
    assert drawn(likes(5, 6, 7, 8), Sampling(temperature=9, top_k=2, top_p=1)) == {5, 6}


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    # Chances 0.64, 0.24, 0.09, 0.03: the first two reach 0.8, the first alone 0.5.
    assert drawn(likes(5, 6, 7, 8), Sampling(temperature=1, top_p=0.8)) == {5, 6}
    assert drawn(likes(5, 6, 7, 8), Sampling(temperature=1, top_p=0.5)) == {5}


def test_tokens_are_drawn_by_their_chances():
    random, sampling = torch.Generator().manual_seed(0), Sampling(temperature=1, top_k=2, top_p=1)
    draws = [choose(likes(5, 6), [], sampling, random) for _ in range(500)]
    assert draws.count(5) / 500 == pytest.approx(1 / (1 + 1 / 2.71828), abs=0.06)


@pytest.mark.parametrize("temperature", [0, 1e-45, 1e-7, 1e-5])
def test_the_coldest_temperatures_take_the_likeliest_token(temperature: float):
    assert drawn(likes(9, 8), Sampling(temperature=temperature, top_k=0), times=20) == {9}


def test_a_control_token_is_never_drawn_but_the_end_of_turn_is():
    scores = likes(*SPECIAL_IDS.values(), ENDOFTEXT_ID, 3)
    hot = Sampling(temperature=100, top_k=10**6, top_p=1)
    assert not drawn(scores, hot, times=30) & set(NEVER)
    assert drawn(scores, GREEDY, times=1) == {EOT_ID}


def test_the_same_seed_gives_the_same_reply(generator: Generator):
    first, again, other = (
        generator.generate(ROME, Sampling(max_new_tokens=6, seed=seed)).ids for seed in (1, 1, 2)
    )
    assert first == again != other


def test_turns_after_the_first_give_what_they_give_from_scratch(
    generator: Generator, starter: GPT2LMHeadModel
):
    chat = ["Who was Rome's first king?", "Romulus.", "And then?", "Numa.", "And then?"]
    for end in (3, 5, 3):
        prompt = encode_conversation(talk(*chat[:end])).ids
        fresh = Generator(starter, CPU).generate(prompt, GREEDY)
        assert generator.generate(prompt, GREEDY).ids == fresh.ids


def test_the_unchanged_beginning_of_a_prompt_is_not_computed_again(
    generator: Generator, lengths: list[int]
):
    one = Sampling(max_new_tokens=1)
    generator.generate([*ROME, 1, 2, 3], one)
    generator.generate([*ROME, 4, 5], one)
    generator.generate([*ROME, 4, 5], one)
    assert lengths == [len(ROME) + 3, 2, 1]


@pytest.mark.parametrize("layer", [0, 7])
def test_a_reply_after_one_broken_off_is_what_it_is_from_scratch(
    generator: Generator, starter: GPT2LMHeadModel, layer: int
):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    blocks: Any = starter.transformer.h
    stream = generator.stream(ROME, GREEDY)
    begun = [next(stream) for _ in range(3)]
    hook = blocks[layer].attn.c_proj.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    hook.remove()
    assert stream.reply.text == "".join(begun)
    assert not stream.reply.stopped
    fresh = Generator(starter, CPU).generate(ROME, GREEDY)
    assert generator.generate(ROME, GREEDY).ids == fresh.ids


def test_no_position_past_the_last_is_used():
    generator = Generator(tiny_model(positions=64), CPU)
    for length in (1, 40, 63):
        reply = generator.generate(list(range(length)), Sampling(max_new_tokens=960, seed=0))
        assert reply.stopped or len(reply.ids) == 64 - length


@pytest.mark.parametrize("length", [0, 64, 65])
def test_a_prompt_that_leaves_no_room_for_a_reply_is_refused(length: int):
    with pytest.raises(ValueError, match=f"a prompt of {length} tokens in a window of 64"):
        Generator(tiny_model(positions=64), CPU).stream([1] * length, Sampling())


@pytest.mark.parametrize("stop", [EOT_ID, ENDOFTEXT_ID])
def test_a_reply_ends_before_its_stop_token(stop: int):
    stream = ReplyStream(iter([*encode_text("Yes."), stop, *encode_text("No.")]))
    assert "".join(stream) == stream.reply.text == "Yes."
    assert stream.reply.stopped
    assert list(stream.reply.ids) == encode_text("Yes.")


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.text(max_size=20), st.integers(0, 60))
def test_pieces_are_whole_characters_and_add_up_to_the_text(text: str, end: int):
    ids = encode_text(text)[:end]
    stream = ReplyStream(iter(ids))
    pieces = list(stream)
    assert all(pieces)
    assert text.startswith("".join(pieces))
    assert end < len(encode_text(text)) or "".join(pieces) == text
    assert list(stream.reply.ids) == ids


def test_bytes_that_are_no_character_are_left_out():
    smile = encode_text("🙂")
    assert "".join(ReplyStream(iter([smile[-1], *encode_text("a"), smile[0], *smile]))) == "a🙂"
