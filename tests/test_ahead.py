"""The beginning of the next prompt is there when the message is sent."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from gpt2chat.core.chat.chat import Chat
from gpt2chat.core.chat.model import ChatModel
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.generate import Generator
from gpt2chat.dialogue.ahead import computing_ahead
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.models import Models
from tests.helpers import before_each_pass, tiny_model


def chat(generator: Generator) -> Dialogue:
    """A chat of two messages with a model that is loaded at once."""

    def load(_: str) -> ChatModel:
        return ChatModel("tiny", generator)

    return begun_with(load)


def begun_with(load: Callable[[str], ChatModel]) -> Dialogue:
    dialogue = Dialogue(Chat(None, sampling=Sampling(max_new_tokens=4)), Models(["tiny"], load))
    dialogue.session.ask("Hello", 4)
    dialogue.session.answer("word " * 200)
    return dialogue


def test_after_enter_only_the_message_is_computed(monkeypatch: pytest.MonkeyPatch):
    generator = Generator(tiny_model(), torch.device("cpu"), "fp32")
    dialogue = chat(generator)
    beginning = dialogue.session.beginning(4)
    done = threading.Event()
    warm = generator.warm

    def warmed(*given: Any) -> None:
        warm(*given)
        done.set()

    monkeypatch.setattr(generator, "warm", warmed)
    with computing_ahead(dialogue):
        assert done.wait(60)
    lengths: list[int] = []
    decoder: Any = generator.scheduler.decoder
    extend = decoder.extend

    def counted(ids: list[int], *given: Any) -> Any:
        lengths.append(len(ids))
        return extend(ids, *given)

    monkeypatch.setattr(decoder, "extend", counted)
    prompt = dialogue.session.ask("And then?", 4)
    generator.generate(prompt.ids, Sampling(max_new_tokens=1))
    assert lengths == [len(prompt.ids) - len(beginning)]
    assert lengths[0] < 20


def test_enter_does_not_wait_for_all_of_it(monkeypatch: pytest.MonkeyPatch):
    generator = Generator(tiny_model(), torch.device("cpu"), "fp32")
    dialogue = chat(generator)
    begun, passes = threading.Event(), []
    stopped: list[Callable[[], bool]] = []
    warm = generator.warm

    def warmed(ids: list[int], stop: Callable[[], bool]) -> None:
        stopped.append(stop)
        warm(ids, stop)

    def take_until_enter() -> None:
        passes.append(1)
        begun.set()
        while not stopped[0]():
            time.sleep(0.001)

    monkeypatch.setattr(generator, "warm", warmed)
    before_each_pass(monkeypatch, generator, take_until_enter)
    with computing_ahead(dialogue):
        assert begun.wait(60)
    assert len(passes) == 1


def test_with_a_seed_nothing_hangs_on_how_fast_the_user_types(monkeypatch: pytest.MonkeyPatch):
    generator = Generator(tiny_model(), torch.device("cpu"), "fp32")
    dialogue = chat(generator)
    dialogue.chat.sampling = Sampling(max_new_tokens=4, seed=0)
    passes: list[int] = []
    before_each_pass(monkeypatch, generator, lambda: passes.append(1))
    threads = threading.active_count()
    with computing_ahead(dialogue):
        assert threading.active_count() == threads
    assert not passes


def test_a_model_that_is_not_loaded_is_not_waited_for():
    waiting: Future[ChatModel] = Future()

    def load(_: str) -> ChatModel:
        return waiting.result()

    dialogue = begun_with(load)
    with computing_ahead(dialogue):
        pass
    with pytest.raises(KeyError), computing_ahead(dialogue):
        raise KeyError
    waiting.cancel()
