"""The scheduler: replies that join, prompts in pieces, the prefix cache, fairness, cancelling."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ReplyError
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.generation.int8 import Int8Decoder
from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.generation.scheduler import AHEAD, PIECE, Request, Scheduler, shared
from tests.helpers import tiny_model

MODEL = tiny_model()
CPU = torch.device("cpu")
TEXT: list[int] = torch.randint(
    0, 50_000, (900,), generator=torch.Generator().manual_seed(0)
).tolist()


def sampling(seed: int = 0, **settings: Any) -> Sampling:
    return Sampling(seed=seed, max_new_tokens=8, temperature=2, **settings)


DRAWN = sampling()


class Passes:
    """What each pass of a decoder was given: positions of prompts, and the number of replies."""

    def __init__(self, decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
        self.prompts: list[tuple[int, int]] = []
        self.replies: list[int] = []
        extend, step = Decoder.extend, Decoder.step

        def extended(own: Decoder, ids: list[int], start: int, slot: int = 0) -> torch.Tensor:
            self.prompts.append((start, start + len(ids)))
            return extend(own, ids, start, slot)

        def stepped(own: Decoder, tokens: list[int], *given: Any) -> torch.Tensor:
            self.replies.append(len(tokens))
            return step(own, tokens, *given)

        monkeypatch.setattr(Decoder, "extend", extended)
        monkeypatch.setattr(Decoder, "step", stepped)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(Decoder(MODEL, torch.float32), slots=8, kept=8)


@pytest.fixture
def passes(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(scheduler.decoder, monkeypatch)


def submit(
    scheduler: Scheduler,
    ids: list[int],
    tokens: int = 8,
    sampling: Sampling = DRAWN,
    ahead: int | None = None,
    **given: Any,
) -> Request:
    request = Request(ids, sampling, tokens, ahead=ahead, **given)
    scheduler.submit(request)
    return request


def run(scheduler: Scheduler) -> None:
    while scheduler.step():
        pass


def tokens(request: Request) -> list[int]:
    return [choice.token for choice in request.drawn]


@pytest.mark.parametrize("kind", [Decoder, Int8Decoder])
def test_replies_that_join_get_the_tokens_that_they_get_alone(kind: Callable[..., Decoder]):
    prompts = [TEXT[:10], TEXT[20:24], TEXT[40:52], TEXT[60:75]]
    alone: list[list[int]] = []
    for seed, prompt in enumerate(prompts):
        fresh = Scheduler(kind(MODEL, torch.float32))
        request = submit(fresh, prompt, sampling=sampling(seed))
        run(fresh)
        alone.append(tokens(request))
    scheduler = Scheduler(kind(MODEL, torch.float32), kept=8)
    requests: list[Request] = []
    for seed, prompt in enumerate(prompts):
        requests.append(submit(scheduler, prompt, sampling=sampling(seed)))
        scheduler.step()
        scheduler.step()
    run(scheduler)
    assert [tokens(request) for request in requests] == alone


def test_a_reply_gets_a_token_in_each_pass_while_a_long_prompt_is_computed(
    scheduler: Scheduler, passes: Passes
):
    first = submit(scheduler, TEXT[:4], 20)
    scheduler.step()
    long = submit(scheduler, TEXT[100:500])
    for count in (2, 3, 4, 5):
        scheduler.step()
        assert len(first.drawn) == count
    begins = [(at, min(at + PIECE, 400)) for at in range(0, 400, PIECE)]
    assert [part for part in passes.prompts if part[1] - part[0] > 1][1:] == begins
    assert len(long.drawn) == 1


def test_a_follow_up_computes_only_what_is_new(scheduler: Scheduler, passes: Passes):
    chats = [TEXT[:60], TEXT[:30] + TEXT[100:130], TEXT[200:260]]
    for chat in chats:
        submit(scheduler, chat, 1)
        run(scheduler)
    passes.prompts.clear()
    for chat in chats:
        request = submit(scheduler, [*chat, 7, 8, 9], 1)
        run(scheduler)
        assert request.cached_tokens == 60
    assert passes.prompts == [(60, 63)] * 3


def test_a_prompt_that_begins_like_one_in_progress_copies_its_beginning(
    scheduler: Scheduler, passes: Passes
):
    requests = [submit(scheduler, TEXT[:50], sampling=sampling(seed)) for seed in (1, 2)]
    run(scheduler)
    assert passes.prompts[:2] == [(0, 50), (49, 50)]
    fresh = Generator(tiny_model(), CPU, "fp32")
    for seed, request in zip((1, 2), requests, strict=True):
        assert tokens(request) == list(fresh.generate(TEXT[:50], sampling(seed)).ids)


def test_a_new_chat_takes_the_slot_that_was_unused_for_longest():
    scheduler = Scheduler(Decoder(MODEL, torch.float32), slots=2, kept=2)
    for start in (0, 100, 0):
        submit(scheduler, TEXT[start : start + 40], 1)
        run(scheduler)
    submit(scheduler, TEXT[200:240], 1)
    run(scheduler)
    assert scheduler.begins(TEXT[:40])
    assert not scheduler.begins(TEXT[100:140])


def test_clients_take_turns_however_many_requests_each_has():
    scheduler = Scheduler(Decoder(MODEL, torch.float32), slots=2)
    many = [submit(scheduler, TEXT[at : at + 3], client="a") for at in range(5)]
    one = submit(scheduler, TEXT[50:53], client="b")
    scheduler.step()
    assert one.drawn
    assert sum(bool(request.drawn) for request in many) == 1


def test_more_requests_than_slots_wait_and_all_are_answered():
    scheduler = Scheduler(Decoder(MODEL, torch.float32), slots=3)
    requests = [submit(scheduler, TEXT[at : at + 5]) for at in range(10)]
    scheduler.step()
    assert (scheduler.running, scheduler.waiting) == (3, 7)
    run(scheduler)
    assert all(request.ended and len(request.drawn) == 8 for request in requests)


def test_a_cancelled_request_leaves_its_slot_to_the_next(scheduler: Scheduler):
    first = submit(scheduler, TEXT[:5], 100)
    waits = submit(scheduler, TEXT[5:9], 100)
    scheduler.step()
    first.cancelled = waits.cancelled = True
    before = len(first.drawn)
    last = submit(scheduler, TEXT[20:25], 2)
    run(scheduler)
    assert len(first.drawn) == before
    assert last.ended
    assert scheduler.running == 0


def test_a_reader_that_stops_reading_gives_up_its_slot_and_can_go_on():
    generator = Generator(tiny_model(), CPU, "fp32", slots=1)
    long = Sampling(seed=1, max_new_tokens=40, temperature=2)
    expected = generator.generate(TEXT[:20], long).ids
    stalled = generator.stream(TEXT[:20], long)
    next(stalled)
    for seed in range(3):
        assert generator.generate(TEXT[30:40], sampling(seed)).tokens
    assert stalled.read().ids == expected


def test_tokens_are_computed_ahead_only_up_to_a_limit(scheduler: Scheduler):
    idle = submit(scheduler, TEXT[:5], 100, ahead=AHEAD)
    other = submit(scheduler, TEXT[10:15], 50)
    run(scheduler)
    assert len(idle.drawn) == AHEAD
    assert len(other.drawn) == 50


def test_a_scored_prompt_has_the_log_probabilities_of_each_token(scheduler: Scheduler):
    other = submit(scheduler, TEXT[500:505], 6)
    scheduler.step()
    request = submit(scheduler, TEXT[:300], 1, score=True, top_logprobs=1)
    run(scheduler)
    with torch.inference_mode():
        output: Any = MODEL(torch.tensor([TEXT[:300]]))
    logps = output.logits[0].log_softmax(-1)
    assert [choice.token for choice in request.scored] == TEXT[1:300]
    own = torch.tensor([choice.logprob for choice in request.scored])
    expected = logps[:-1].gather(1, torch.tensor(TEXT[1:300])[:, None])[:, 0]
    torch.testing.assert_close(own, expected, atol=1e-4, rtol=0)
    assert all(choice.top[0][1] >= (choice.logprob or 0) for choice in request.scored)
    assert len(request.drawn) == 1
    assert other.ended


def test_requests_with_other_settings_are_drawn_by_their_own(scheduler: Scheduler):
    settings = [
        Sampling(temperature=0, max_new_tokens=8, repetition_penalty=1),
        Sampling(seed=3, max_new_tokens=8, no_repeat_ngram=2, top_k=0),
        Sampling(seed=4, max_new_tokens=8, frequency_penalty=1.5, presence_penalty=0.5),
    ]
    together = [submit(scheduler, TEXT[:12], sampling=each, top_logprobs=1) for each in settings]
    run(scheduler)
    for each, request in zip(settings, together, strict=True):
        fresh = Generator(tiny_model(), CPU, "fp32")
        assert tokens(request) == list(fresh.generate(TEXT[:12], each).ids)


def test_scores_that_are_not_finite_end_the_replies_of_that_pass():
    model = tiny_model()
    scheduler = Scheduler(Decoder(model, torch.float32))
    request = submit(scheduler, TEXT[:5])
    scheduler.step()
    scheduler.decoder.norm[0].fill_(torch.nan)
    run(scheduler)
    assert isinstance(request.error, ReplyError)
    assert scheduler.running == 0


def test_an_interrupted_pass_is_computed_again(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
):
    request = submit(scheduler, TEXT[:30])
    for _ in range(3):
        scheduler.step()

    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "_hidden", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scheduler.step()
    run(scheduler)
    fresh = Generator(tiny_model(), CPU, "fp32")
    assert tokens(request) == list(fresh.generate(TEXT[:30], sampling()).ids)


def test_threads_share_passes(monkeypatch: pytest.MonkeyPatch):
    generator = Generator(tiny_model(), CPU, "fp32")
    passes = Passes(generator.scheduler.decoder, monkeypatch)
    barrier = threading.Barrier(4)
    long = Sampling(seed=1, max_new_tokens=60, temperature=2)

    def ask(index: int) -> None:
        barrier.wait(60)
        generator.generate(TEXT[index : index + 9], long)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(passes.replies) > 1


def test_more_memory_than_there_is_leaves_the_slots_as_they_are(monkeypatch: pytest.MonkeyPatch):
    scheduler = Scheduler(Decoder(MODEL, torch.float32), slots=4)

    def none_left(*_: object) -> Decoder:
        raise MemoryError

    monkeypatch.setattr(Decoder, "with_slots", none_left)
    requests = [submit(scheduler, TEXT[at : at + 5], 3) for at in range(3)]
    run(scheduler)
    assert all(len(request.drawn) == 3 for request in requests)


@pytest.mark.parametrize(
    ("old", "new", "common"),
    [([], [1], 0), ([1, 2], [1, 2], 1), ([1, 2, 3], [1, 2], 1), ([1], [1, 2], 1), ([2], [1, 2], 0)],
)
def test_the_last_token_of_a_prompt_is_always_computed(old: list[int], new: list[int], common: int):
    assert shared(old, new) == common


def test_a_choice_without_log_probabilities_is_a_token_alone(scheduler: Scheduler):
    request = submit(scheduler, TEXT[:5], 1)
    run(scheduler)
    assert request.drawn[0] == Choice(request.drawn[0].token)
