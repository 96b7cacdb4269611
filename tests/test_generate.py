"""Generation against transformers; the cache from turn to turn, batches, the loop of a GPU."""

import threading
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ReplyError
from gpt2chat.core.generation.decoder import Block, Decoder
from gpt2chat.core.generation.engine import make_decoder
from gpt2chat.core.generation.generate import PIECE, Generator
from gpt2chat.core.generation.graph import GraphLoop
from gpt2chat.core.generation.sampling import NEVER
from gpt2chat.core.model.compiling import compiled_graphs
from gpt2chat.core.model.load import load_model
from gpt2chat.core.text.tokens import encode_conversation, encode_text
from tests.helpers import talk, tiny_model

CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=12)
ROME = list(encode_text("The history of Rome begins"))
LONG: list[int] = torch.randint(
    0, 50_000, (400,), generator=torch.Generator().manual_seed(0)
).tolist()


@pytest.fixture(scope="module")
def starter() -> GPT2LMHeadModel:
    return load_model("starter")


@pytest.fixture(scope="module", params=["fp32", "int8"])
def precision(request: pytest.FixtureRequest) -> ChatPrecision:
    return request.param


@pytest.fixture
def generator(starter: GPT2LMHeadModel, precision: ChatPrecision) -> Generator:
    return Generator(starter, CPU, precision)


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each call of the float32 decoder was given."""
    seen: list[int] = []
    extend = Decoder.extend

    def counted(self: Decoder, ids: list[int], start: int, slot: int = 0) -> torch.Tensor:
        seen.append(len(ids))
        return extend(self, ids, start, slot)

    monkeypatch.setattr(Decoder, "extend", counted)
    return seen


def greedy(model: GPT2LMHeadModel, ids: list[int], count: int) -> list[int]:
    batch = torch.tensor([ids])
    output: Any = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        batch,
        attention_mask=torch.ones_like(batch),
        do_sample=False,
        max_new_tokens=count,
        suppress_tokens=NEVER,
    )
    return output[0, len(ids) :].tolist()


def test_greedy_replies_are_those_of_transformers(starter: GPT2LMHeadModel):
    generator = Generator(starter, CPU, "fp32")
    for prompt in (ROME, LONG):
        long = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=40)
        assert list(generator.generate(prompt, long).ids) == greedy(starter, prompt, 40)


def test_the_penalty_leaves_the_words_of_the_prompt_alone(generator: Generator):
    strong = Sampling(temperature=0, repetition_penalty=10, max_new_tokens=1)
    plain = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=1)
    assert generator.generate(ROME, strong).ids == generator.generate(ROME, plain).ids


def test_the_same_seed_gives_the_same_reply(generator: Generator):
    first, again, other = (
        generator.generate(ROME, Sampling(max_new_tokens=6, seed=seed)).ids for seed in (1, 1, 2)
    )
    assert first == again != other


def test_turns_after_the_first_give_what_they_give_from_scratch(
    generator: Generator, starter: GPT2LMHeadModel, precision: ChatPrecision
):
    chat = ["Who was Rome's first king?", "Romulus.", "And then?", "Numa.", "And then?"]
    for end in (3, 5, 3):
        prompt = encode_conversation(talk(*chat[:end])).ids
        fresh = Generator(starter, CPU, precision).generate(prompt, GREEDY)
        assert generator.generate(prompt, GREEDY).ids == fresh.ids


def test_the_unchanged_beginning_of_a_prompt_is_not_computed_again(
    starter: GPT2LMHeadModel, lengths: list[int]
):
    generator, one = Generator(starter, CPU, "fp32"), Sampling(max_new_tokens=1)
    generator.generate([*ROME, 1, 2, 3], one)
    generator.generate([*ROME, 4, 5], one)
    generator.generate([*ROME, 4, 5], one)
    assert lengths == [len(ROME) + 3, 2, 1]


def test_a_reply_after_an_interrupted_one_is_what_it_is_from_scratch(
    starter: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch
):
    generator = Generator(starter, CPU, "fp32")
    stream = generator.stream(ROME, GREEDY)
    begun = [next(stream) for _ in range(3)]
    finish, calls = Block.finish, iter(range(9))

    def stop(*given: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return finish(*given)

    with monkeypatch.context() as patched:
        patched.setattr(Block, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    assert stream.reply.text == "".join(begun)
    assert not stream.reply.stopped
    fresh = Generator(starter, CPU, "fp32").generate(ROME, GREEDY)
    assert generator.generate(ROME, GREEDY).ids == fresh.ids


def test_replies_that_alternate_are_what_they_are_alone(generator: Generator):
    sampling = Sampling(max_new_tokens=8, seed=3)
    alone = [generator.generate(prompt, sampling).text for prompt in (ROME, ROME[:3])]
    streams = [generator.stream(prompt, sampling) for prompt in (ROME, ROME[:3])]
    texts = ["", ""]
    for _ in range(8):
        for index, stream in enumerate(streams):
            texts[index] += next(stream, "")
    assert texts == alone


def test_replies_of_several_threads_are_what_they_are_alone(generator: Generator):
    sampling = Sampling(max_new_tokens=8, seed=3)
    # Short: in int8 it would be rounded otherwise, were a long one computed again with its reply.
    prompts = [ROME, ROME[:3], LONG[:8]]
    alone = [generator.generate(prompt, sampling).ids for prompt in prompts]
    found: dict[int, tuple[int, ...]] = {}

    def ask(index: int) -> None:
        found[index] = generator.generate(prompts[index], sampling).ids

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(3)] == alone


def test_several_prompts_at_once_give_what_each_gives_alone(generator: Generator):
    sampling = Sampling(max_new_tokens=20, seed=5, stop=(" the",))
    prompts = [ROME, LONG[:100], ROME[:2], LONG[:7]]
    together = generator.generate_batch(prompts, sampling)
    alone = [generator.generate(prompt, sampling) for prompt in prompts]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert [reply.stopped for reply in together] == [reply.stopped for reply in alone]


def test_log_probabilities_come_with_each_token(generator: Generator, starter: GPT2LMHeadModel):
    reply = generator.generate(ROME, GREEDY, top_logprobs=2)
    with torch.inference_mode():
        output: Any = starter(torch.tensor([[*ROME, *reply.ids]]))
    logps = output.logits[0].log_softmax(-1)
    assert len(reply.choices) == len(reply.ids) == 12
    for at, choice in enumerate(reply.choices, start=len(ROME) - 1):
        assert choice.logprob == pytest.approx(float(logps[at, choice.token]), abs=0.3)
        assert choice.top[0] == (choice.token, choice.logprob)


def test_log_probabilities_of_a_text_are_the_models(generator: Generator, starter: GPT2LMHeadModel):
    with torch.inference_mode():
        output: Any = starter(torch.tensor([ROME]))
    expected = output.logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ROME[1:])[:, None])
    torch.testing.assert_close(generator.logprobs(ROME), expected[:, 0], atol=0.3, rtol=0)
    before = generator.generate(ROME, GREEDY).ids
    generator.logprobs(LONG[:50])
    assert generator.generate(ROME, GREEDY).ids == before
    with pytest.raises(ValueError, match="1025 tokens in a window of 1024"):
        generator.logprobs([1] * 1025)


def test_a_reply_that_is_scored_has_the_choices_of_its_generation(generator: Generator):
    drawn = generator.generate(ROME, GREEDY, top_logprobs=2).choices
    scored = generator.choices([*ROME, *(choice.token for choice in drawn)], len(ROME), 2)
    assert [choice.token for choice in scored] == [choice.token for choice in drawn]
    assert [choice.logprob for choice in scored] == pytest.approx(
        [choice.logprob for choice in drawn], abs=0.3
    )
    assert [len(choice.top) for choice in scored] == [2] * len(drawn)
    with pytest.raises(ValueError, match="window"):
        generator.choices(ROME, 0, 2)


def test_a_beginning_computed_ahead_is_not_computed_again(
    starter: GPT2LMHeadModel, lengths: list[int]
):
    generator = Generator(starter, CPU, "fp32")
    generator.warm(LONG[:300], lambda: False)
    assert lengths == [PIECE, PIECE, 300 - 2 * PIECE]
    reply = generator.generate(LONG[:310], GREEDY)
    assert lengths[3] == 10
    assert reply.ids == Generator(starter, CPU, "fp32").generate(LONG[:310], GREEDY).ids


def test_computing_ahead_skips_what_is_in_the_cache(starter: GPT2LMHeadModel, lengths: list[int]):
    generator = Generator(starter, CPU, "fp32")
    generator.generate(LONG[:300], Sampling(max_new_tokens=1))
    for prompt in (LONG[:300], LONG[:200], LONG[:320]):
        generator.warm(prompt, lambda: False)
    assert lengths == [300, 20]


def test_computing_ahead_stops_when_it_is_cancelled(starter: GPT2LMHeadModel, lengths: list[int]):
    answers = iter([False, True])
    Generator(starter, CPU, "fp32").warm(LONG, lambda: next(answers))
    assert lengths == [PIECE]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_no_position_past_the_last_is_used(precision: ChatPrecision):
    generator = Generator(tiny_model(positions=64), CPU, precision)
    for length in (1, 40, 63):
        reply = generator.generate(list(range(length)), Sampling(max_new_tokens=960, seed=0))
        assert reply.stopped or len(reply.ids) == 64 - length
    prompts = [list(range(length)) for length in (1, 40, 63)]
    for reply in generator.generate_batch(prompts, Sampling(max_new_tokens=960, seed=0)):
        assert len(reply.ids) <= 63


@pytest.mark.parametrize("length", [0, 64, 65])
def test_a_prompt_that_leaves_no_room_for_a_reply_is_refused(length: int):
    generator = Generator(tiny_model(positions=64), CPU)
    with pytest.raises(ValueError, match=f"a prompt of {length} tokens in a window of 64"):
        generator.stream([1] * length, Sampling())
    with pytest.raises(ValueError, match=f"a prompt of {length} tokens in a window of 64"):
        generator.generate_batch([[1], [1] * length], Sampling())


def test_the_loop_of_a_device_draws_what_transformers_would(starter: GPT2LMHeadModel):
    decoder = Decoder(starter, torch.float32).with_slots(2, 64)
    prompts = [ROME, ROME[:2]]
    logits = torch.stack([decoder.extend(ids, 0, slot) for slot, ids in enumerate(prompts)])
    loop = GraphLoop(decoder, GREEDY)
    drawn = [loop.begin(logits, list(map(len, prompts)), None)]
    drawn += [loop.next() for _ in range(11)]
    assert [list(row) for row in zip(*drawn, strict=True)] == [
        greedy(starter, ids, 12) for ids in prompts
    ]


@pytest.mark.parametrize("draw", [GREEDY, Sampling()])
def test_a_compiled_step_and_draw_are_a_graph_each_whatever_the_length(
    monkeypatch: pytest.MonkeyPatch, draw: Sampling
):
    torch.compiler.reset()
    # The same graphs as for a GPU, without the minute in which a C++ compiler translates them.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = tiny_model(positions=600)
    plain, decoder = (make_decoder(model, "fp32", compiled=on)[1] for on in (False, True))
    before = compiled_graphs()
    for prompt, count in ((ROME, 4), (LONG[:254], 5), (LONG, 3)):
        replies: list[list[int]] = []
        for each in (plain, decoder):
            loop = GraphLoop(each, draw)
            tokens = loop.begin(each.extend(prompt, 0)[None], [len(prompt)], 1)
            replies.append(tokens + [loop.next()[0] for _ in range(count - 1)])
        assert replies[0] == replies[1]
    assert compiled_graphs() - before == 2


def test_a_compiled_step_gets_each_layers_cache_as_memory_of_its_own():
    """Parts of one tensor would be copied whole in each step: compiled code writes into no view."""
    decoder = Decoder(tiny_model(), torch.float32).with_slots(2, 64)
    memory = {cache.untyped_storage().data_ptr() for cache in decoder.caches}
    assert len(memory) == len(decoder.blocks)


def test_the_loop_of_a_device_stays_in_the_window_and_resumes_a_reply(
    starter: GPT2LMHeadModel,
):
    decoder = Decoder(starter, torch.float32).with_slots(1, 16)
    loop = GraphLoop(decoder, Sampling(repetition_penalty=1.5))

    def draw(count: int) -> list[int]:
        logits = decoder.extend(ROME, 0)[None]
        return [*loop.begin(logits, [len(ROME)], 7), *(loop.next()[0] for _ in range(count))]

    first = draw(20)
    assert draw(20) == first
    assert len(set(first[:10])) > 5
    begun = decoder.extend([*ROME, *first[:4]], 0)[None]
    assert loop.begin(begun, [len(ROME) + 4], 7, [first[:4]])[0] not in NEVER


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1)])
def test_a_loop_of_a_device_ends_at_scores_that_are_not_finite(sampling: Sampling):
    model = tiny_model()
    decoder = Decoder(model, torch.float32)
    loop = GraphLoop(decoder, sampling)
    loop.begin(decoder.extend(ROME, 0)[None], [len(ROME)], 7)
    assert loop.next()[0] >= 0
    decoder.norm[0].fill_(torch.nan)
    loop.next()  # its step started before
    with pytest.raises(ReplyError, match="not finite"):
        loop.next()
    with pytest.raises(ReplyError, match="not finite"):
        loop.begin(decoder.extend(ROME, 0)[None], [len(ROME)], 7)


def test_a_loop_of_a_device_refuses_to_forbid_ngrams(starter: GPT2LMHeadModel):
    with pytest.raises(ValueError, match="CPU"):
        GraphLoop(Decoder(starter, torch.float32), Sampling(no_repeat_ngram=3))


def test_the_loop_of_a_device_gives_the_same_replies_on_a_cpu(
    starter: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch
):
    def on_device(*_: object) -> bool:
        return True

    monkeypatch.setattr(Generator, "_on_device", on_device)
    generator = Generator(starter, CPU, "fp32")
    expected = [greedy(starter, ids, 12) for ids in (ROME, LONG)]
    # One after the other, side by side, and both at once, a token of each in turn.
    assert [list(generator.generate(ids, GREEDY).ids) for ids in (ROME, LONG)] == expected
    together = generator.generate_batch([ROME, LONG], GREEDY)
    assert [list(reply.ids) for reply in together] == expected
    streams = [generator.stream(ids, GREEDY) for ids in (ROME, LONG)]
    for _ in zip_longest(*streams):
        pass
    assert [list(stream.reply.ids) for stream in streams] == expected
    seeded = Sampling(seed=3, max_new_tokens=9, temperature=2)
    first, again = (generator.generate(ROME, seeded).ids for _ in range(2))
    assert first == again
    assert len(set(first)) > 5


def test_replies_with_the_same_draw_share_a_loop_of_a_device(
    starter: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch
):
    made: list[GraphLoop] = []

    class Recorded(GraphLoop):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            made.append(self)

    def on_device(*_: object) -> bool:
        return True

    monkeypatch.setattr("gpt2chat.core.generation.generate.GraphLoop", Recorded)
    monkeypatch.setattr(Generator, "_on_device", on_device)
    generator = Generator(starter, CPU, "fp32")
    other_end = replace(GREEDY, seed=1, max_new_tokens=3, stop=("x",))
    for sampling in (GREEDY, replace(GREEDY, temperature=0.5), other_end, GREEDY):
        generator.generate(ROME, sampling)
    assert len(made) == 2
    for prompts in ([ROME, LONG], [LONG, ROME[:3]]):
        replies = generator.generate_batch(prompts, GREEDY)
        assert [list(each.ids) for each in replies] == [greedy(starter, ids, 12) for ids in prompts]
    assert len(made) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_draws_what_transformers_would(starter: GPT2LMHeadModel, compiled: bool):
    device = torch.device("cuda")
    expected = [greedy(starter.to(device), ids, 40) for ids in (ROME, LONG)]  # pyright: ignore[reportArgumentType]
    generator = Generator(starter, device, "fp32", compiled=compiled)
    long = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=40)
    for _ in range(2):
        assert [list(generator.generate(ids, long).ids) for ids in (ROME, LONG)] == expected
    together = generator.generate_batch([ROME, LONG], long)
    assert [list(reply.ids) for reply in together] == expected
    seeded = Sampling(seed=3, max_new_tokens=20)
    assert generator.generate(ROME, seeded).ids == generator.generate(ROME, seeded).ids


@pytest.mark.gpu
def test_a_step_of_a_loop_waits_for_nothing_but_its_tokens(starter: GPT2LMHeadModel):
    decoder = make_decoder(starter.to("cuda"))[1]  # pyright: ignore[reportArgumentType]
    loop = GraphLoop(decoder, Sampling())
    loop.begin(decoder.extend(ROME, 0)[None], [len(ROME)], 1)
    torch.cuda.set_sync_debug_mode("error")  # an event that the loop waits for raises nothing
    try:
        assert min(loop.next()[0] for _ in range(20)) >= 0
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_another_thread_may_take_memory_while_a_graph_is_captured(starter: GPT2LMHeadModel):
    decoder = make_decoder(starter.to("cuda"))[1]  # pyright: ignore[reportArgumentType]
    captured, failures = threading.Event(), list[Exception]()

    def take() -> None:
        sizes = iter(range(30, 10**6))
        try:
            while not captured.is_set():  # a new size each time, so that CUDA itself is asked
                torch.empty(next(sizes) << 20, dtype=torch.uint8, device="cuda")
                torch.cuda.empty_cache()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        for _ in range(5):
            GraphLoop(decoder, GREEDY).begin(decoder.extend(ROME, 0)[None], [len(ROME)], 1)
    finally:
        captured.set()
        thread.join()
    assert not failures
