"""The library's chat: load a model, ask, stream, cancel, retry, save, and say what was good."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2chat.api import TrainedModel
from gpt2chat.core.chat.chat import Chat
from gpt2chat.core.chat.model import ChatModel, load
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ConfigError, DataError, ReplyError
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.generation.reply import ReplyStream
from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.text.tokens import EOT_ID, encode_conversation, encode_text
from gpt2chat.dialogue.commands import take
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.models import Models
from tests.helpers import before_each_pass, talk, tiny_model

MODEL = ChatModel("tiny", Generator(tiny_model(), torch.device("cpu"), "fp32"))


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    return MODEL.chat(seed=1, max_new_tokens=6, feedback=tmp_path / "feedback.jsonl")


def contents(chat: Chat) -> list[str]:
    return [message["content"] for message in chat.messages]


def answering(monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[Sampling]:
    """Let the model give these replies; return what each was drawn with."""
    drawn: list[Sampling] = []
    replies = iter(texts)

    def stream(_prompt: list[int], sampling: Sampling, **_: bool) -> ReplyStream:
        drawn.append(sampling)
        return ReplyStream(map(Choice, [*encode_text(next(replies)), EOT_ID]))

    monkeypatch.setattr(MODEL.generator, "stream", stream)
    return drawn


def test_a_model_is_loaded_by_its_folder_and_answers_with_figures(tiny_folder: Path):
    model = load(tiny_folder, device="cpu", precision="fp32")
    chat = model.chat(seed=1, max_new_tokens=6)
    reply = chat.ask("Hello")
    assert str(reply) == reply.text == chat.messages[-1]["content"]
    assert (reply.finish_reason, reply.tokens, reply.left_window) == ("length", 6, 0)
    assert reply.prompt_tokens == len(encode_conversation(talk("Hello")))
    assert reply.tokens_per_second > 0


def test_a_finished_run_is_loaded_by_its_path_and_not_by_how_it_prints(tiny_folder: Path):
    result: Any = None
    run = TrainedModel(tiny_folder, result)
    assert load(run, device="cpu", precision="fp32").name == str(tiny_folder)


def test_pieces_are_the_reply_that_ask_gives(chat: Chat):
    asked = MODEL.chat(seed=1, max_new_tokens=6).ask("Hello")
    stream = chat.stream("Hello")
    assert "".join(stream).strip() == str(asked) == str(stream.reply)


def test_a_chat_with_a_seed_repeats_and_a_retry_differs(chat: Chat):
    first, retried = str(chat.ask("Hello")), str(chat.retry())
    assert first != retried
    assert contents(chat) == ["Hello", retried]
    chat.clear()
    assert str(chat.ask("Hello")) == first


def test_cancel_keeps_what_was_said(chat: Chat):
    stream = chat.stream("Hello")
    first = next(stream)
    stream.cancel()
    assert list(stream) == []
    assert stream.reply.finish_reason == "cancelled"
    assert contents(chat) == ["Hello", first.strip()]


def test_cancel_before_the_first_word_takes_the_message_back(chat: Chat):
    stream = chat.stream("Hello")
    stream.cancel()
    assert list(stream) == []
    assert (contents(chat), str(stream.reply)) == ([], "")


def test_an_abandoned_stream_ends_when_the_chat_is_changed(chat: Chat):
    first = next(chat.stream("Hello"))
    assert contents(chat) == ["Hello", first.strip()]
    assert chat.undo() == "Hello"
    chat.stream("never read")
    chat.ask("And?")
    assert contents(chat)[0] == "And?"


def test_a_closed_stream_yields_nothing_more(chat: Chat):
    with chat.stream("Hello") as stream:
        next(stream)
    assert list(stream) == []
    assert stream.reply.finish_reason == "cancelled"


def test_an_empty_reply_is_asked_for_once_more(chat: Chat, monkeypatch: pytest.MonkeyPatch):
    drawn = answering(monkeypatch, " ", "Hi.")
    assert str(chat.ask("Hello")) == "Hi."
    assert len({sampling.seed for sampling in drawn}) == 2


def test_two_empty_replies_are_an_error_and_the_chat_is_as_before(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
):
    answering(monkeypatch, "Hi.", "", " ", "", "\n")
    chat.ask("Hello")
    with pytest.raises(ReplyError):
        chat.ask("And?")
    with pytest.raises(ReplyError):
        chat.retry()
    assert contents(chat) == ["Hello", "Hi."]


def test_a_reply_that_was_given_before_is_noticed(chat: Chat, monkeypatch: pytest.MonkeyPatch):
    answering(monkeypatch, "I do not know that.", "I  do not know THAT.", "No.", "No.")
    replies = [chat.ask(message) for message in ("One?", "Two?", "Three?", "Four?")]
    assert [reply.repeated for reply in replies] == [False, True, False, False]


def test_a_message_too_long_changes_nothing(chat: Chat):
    with pytest.raises(DataError):
        chat.ask("word " * 2000)
    assert contents(chat) == []


def test_the_window_says_what_leaves_it_next_and_how_much_has_left(chat: Chat):
    for _ in range(2):
        chat.ask("word " * 440)
    assert [message["role"] for message in chat.window.leaves_next] == ["user", "assistant"]
    assert chat.ask("word " * 440).left_window == 2
    assert chat.window.size == 1024
    assert len(chat.messages) == 6


def test_opinions_become_rows_and_a_cut_reply_is_marked(chat: Chat):
    chat.ask("Hello")
    assert (chat.bad(), chat.edit("Hello to you.")) == (1, 2)
    rows = [json.loads(line) for line in chat.feedback.path.read_text().splitlines()]
    assert [row.get("cut") for row in rows] == [True, None, None]
    assert rows[2]["chosen"] == "Hello to you."


@pytest.mark.parametrize("system", [None, "", " "])
def test_without_a_system_prompt_the_template_has_one(system: str | None):
    assert MODEL.chat(system).session.system == MODEL.chat().session.system


def test_a_chat_saved_in_python_continues_in_the_terminal_and_back(chat: Chat, tmp_path: Path):
    chat.session.set_system("Be brief.")
    chat.ask("Hello")
    chat.save(tmp_path / "a.json")
    other = Chat(None, sampling=chat.sampling)
    dialogue = Dialogue(other, Models(["tiny"], lambda _: MODEL))
    take(dialogue, f"/load {tmp_path / 'a.json'}")
    take(dialogue, "And?")
    take(dialogue, f"/save {tmp_path / 'b.json'}")
    chat.load(tmp_path / "b.json")
    assert chat.messages == other.messages
    assert contents(chat)[:2] == ["Be brief.", "Hello"]
    assert chat.session.cut_messages == {2, 4}


def test_sampling_settings_are_named_with_the_nearest():
    with pytest.raises(ConfigError, match="temperature"):
        MODEL.chat(temprature=1)
    assert MODEL.chat(stop="END").sampling.stop == ("END",)


def test_a_plain_text_is_completed_as_it_is():
    reply = MODEL.complete("The river", temperature=0, max_new_tokens=4)
    assert (reply.prompt_tokens, reply.tokens) == (len(encode_text("The river")), 4)
    with pytest.raises(DataError):
        MODEL.complete("")


def test_logprobs_are_those_of_the_reply_and_its_end():
    messages = talk("Hi", "One two").as_dicts()
    entries = MODEL.logprobs(messages)
    assert [entry.token for entry in entries] == ["One", " two", "<|eot_id|>"]
    assert all(entry.logprob < 0 for entry in entries)
    with pytest.raises(DataError):
        MODEL.logprobs(messages[:1])


def test_threads_share_a_model_and_get_what_they_would_get_alone():
    expected = {seed: str(MODEL.chat(seed=seed, max_new_tokens=8).ask("Hi")) for seed in range(6)}
    replies: dict[int, str] = {}

    def ask(seed: int) -> None:
        replies[seed] = str(MODEL.chat(seed=seed, max_new_tokens=8).ask("Hi"))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == expected


def test_another_thread_cancels_a_reply(chat: Chat, monkeypatch: pytest.MonkeyPatch):
    begun, cancelled = threading.Event(), threading.Event()
    stream = chat.stream("Hello")

    def cancel() -> None:
        begun.wait(60)
        stream.cancel()
        cancelled.set()

    def wait() -> None:
        begun.set()
        cancelled.wait(60)

    before_each_pass(monkeypatch, MODEL.generator, wait)
    thread = threading.Thread(target=cancel)
    thread.start()
    assert len(stream.read().ids) <= 1
    thread.join()


def test_two_streams_of_one_model_alternate_in_one_thread():
    both = [MODEL.chat(seed=seed, max_new_tokens=6) for seed in (1, 2)]
    alone = [str(MODEL.chat(seed=seed, max_new_tokens=6).ask("Hi")) for seed in (1, 2)]
    streams = [chat.stream("Hi") for chat in both]
    for _ in zip(*streams, strict=False):
        pass
    assert [str(stream.read()) for stream in streams] == alone


def test_a_chat_changes_nothing_outside_it(tiny_folder: Path):
    before = (dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGINT))
    load(tiny_folder).chat(max_new_tokens=2).ask("Hello")
    assert (dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGINT)) == before
