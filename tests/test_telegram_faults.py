"""Whatever the network, Telegram and the system do, each message is answered exactly once."""

import multiprocessing
import random
import re
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpt2chat.core.errors import ConfigError
from tests.telegram_bot import FAST, Running, command, serve
from tests.telegram_server import LONG, TOKEN, Fault, Telegram

# One process imports the libraries; each bot is a fork of it. That is a second process without
# the seconds that their import takes.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.telegram_bot"])
Start = Callable[..., Running]


@pytest.fixture
def telegram() -> Generator[Telegram]:
    server = Telegram()
    yield server
    server.close()


@pytest.fixture
def start(telegram: Telegram, tmp_path: Path) -> Generator[Start]:
    bots: list[Running] = []

    def start(**options: Any) -> Running:
        bots.append(Running(telegram.base, tmp_path, **options))
        return bots[-1]

    yield start
    for bot in bots:
        bot.stop()


@pytest.fixture
def spawn() -> Generator[Callable[..., BaseProcess]]:
    """A function that runs another one in a process, which ends with the test."""
    processes: list[BaseProcess] = []

    def spawn(run: Callable[..., None], *arguments: Any, **settings: Any) -> BaseProcess:
        process = FORKS.Process(target=run, args=arguments, kwargs=settings, daemon=True)
        process.start()
        processes.append(process)
        return process

    yield spawn
    for process in processes:
        process.kill()
        process.join(LONG)


def said(telegram: Telegram, chat: int) -> list[str]:
    return [sent.text for sent in telegram.answers(chat)]


def test_a_flood_limit_is_waited_for_while_other_chats_go_on(telegram: Telegram, start: Start):
    start(allow=("1", "2"))
    limit = Fault("editMessageText", 429, "Too Many Requests", {"retry_after": 1})
    telegram.faults.append(limit)
    telegram.say("Hello")
    telegram.wait(lambda: limit not in telegram.faults)
    assert telegram.ask("Hi", chat=2).text == "Hi you said."
    assert telegram.answers_after(0)[0].text == "Hello you said."
    first, *_, last = [c.at for c in telegram.made("editMessageText") if c.text[:5] == "Hello"]
    assert last - first >= 1


@pytest.mark.parametrize("method", ["sendMessage", "editMessageText"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_server_error_loses_and_doubles_nothing(
    telegram: Telegram, start: Start, method: str, after: bool
):
    start()
    fault = Fault(method, 502 if method == "sendMessage" else 500)
    # After its effect, the response is lost with the connection.
    telegram.faults.append(Fault(method, after=True, drop=True) if after else fault)
    telegram.ask("Hello")
    telegram.ask("Bye")
    assert said(telegram, 1) == ["Hello you said.", "Bye you said."]


def test_a_response_that_never_comes_loses_and_doubles_nothing(telegram: Telegram, start: Start):
    start(timing=replace(FAST, request=1, brief=1, poll=1))
    released = threading.Event()
    telegram.faults += [
        Fault("getUpdates", hang=released, after=True),
        Fault("sendMessage", hang=released, after=True),
        Fault("editMessageText", hang=released, after=True),
    ]
    telegram.ask("Hello")
    telegram.ask("Bye")
    assert said(telegram, 1) == ["Hello you said.", "Bye you said."]
    released.set()


def test_updates_that_come_twice_or_out_of_order_are_answered_once(
    telegram: Telegram, start: Start
):
    start(rate=0)
    first, second, third, last = (telegram.message(text) for text in ("1", "2", "3", "end"))
    telegram.push(second, first)
    telegram.answers_after(1)
    telegram.push(third, second, first)
    telegram.answers_after(2)
    telegram.push(first, last)
    telegram.answers_after(3)
    assert said(telegram, 1) == [f"{text} you said." for text in ("1", "2", "3", "end")]


def test_a_late_update_is_answered(telegram: Telegram, start: Start):
    start()
    late = telegram.message("late")
    telegram.ask("early")
    telegram.push(late)
    telegram.answers_after(1)
    assert said(telegram, 1) == ["early you said.", "late you said."]


@pytest.mark.parametrize("closed", ["blocked", "deleted"])
def test_a_chat_that_is_gone_holds_nobody_up(telegram: Telegram, start: Start, closed: str):
    bot = start(allow=("1", "2"))
    chats: set[int] = getattr(telegram, closed)
    chats.add(1)
    telegram.say("Hello")
    bot.wait_for_note("hat 1")
    telegram.ask("Hi", chat=2)
    chats.clear()
    assert telegram.ask("back").text == "back you said."


def test_a_message_that_the_user_deleted_is_sent_anew(telegram: Telegram, start: Start):
    start()
    telegram.faults.append(Fault("editMessageText", 400, "Bad Request: message to edit not found"))
    assert telegram.ask("Hello").text == "Hello you said."
    assert len(telegram.sent) == 2


def test_an_unreadable_update_holds_up_no_other(telegram: Telegram, start: Start):
    bot = start()
    bad = telegram.message("bad")
    bad["message"]["date"] = {"not": "a date"}
    telegram.push(bad, telegram.message("good"))
    telegram.answers_after(0)
    assert said(telegram, 1) == ["good you said."]
    assert any(str(bad["update_id"]) in note for note in bot.notes)


def test_a_group_that_becomes_a_supergroup_keeps_its_window(telegram: Telegram, start: Start):
    bot = start()
    mention = {"entities": [{"type": "mention", "offset": 0, "length": 8}]}
    telegram.ask("@the_bot first", chat=-1, **mention)
    telegram.moved[-1] = -100
    telegram.say("@the_bot second", chat=-1, **mention)
    telegram.answers_after(0, -100)
    telegram.ask("@the_bot third", chat=-100, user=9, **mention)
    assert said(telegram, -100) == ["second you said.", "third you said."]
    assert len(bot.parrot.prompts[2]) > len(bot.parrot.prompts[1]) > len(bot.parrot.prompts[0])


def test_a_mistake_in_one_answer_does_not_end_the_others(telegram: Telegram, start: Start):
    bot = start()

    def answer(text: str, _: Any) -> str:
        if text == "bad":
            raise ZeroDivisionError
        return text

    bot.parrot.answers = answer
    assert "cannot answer" in telegram.ask("bad").text
    assert telegram.ask("good").text == "good"
    assert any("ZeroDivisionError" in note for note in bot.notes)


def test_a_refused_token_ends_the_bot_in_one_line(telegram: Telegram, tmp_path: Path):
    telegram.faults.append(Fault("getMe", 401, "Unauthorized"))
    with pytest.raises(ConfigError) as error:
        Running(telegram.base, tmp_path).stop_itself()
    assert error.value.setting == "token_file"


def test_the_token_is_in_no_note(telegram: Telegram, tmp_path: Path):
    address = telegram.base.replace("http://", "http://exa mple:99999/")
    bot = Running(address, tmp_path)
    bot.wait_for_note("Cannot reach")
    bot.stop()
    assert TOKEN not in "".join(bot.notes)


def test_a_killed_bot_answers_once_after_its_restart(
    telegram: Telegram, spawn: Callable[..., BaseProcess], tmp_path: Path
):
    process, expected = spawn(serve, telegram.base, tmp_path), list[str]()
    for method, after in [
        ("sendChatAction", False),  # while the model answers
        ("sendMessage", False),
        ("sendMessage", True),
        ("editMessageText", False),
        ("editMessageText", True),
    ]:
        fault = Fault(method, after=after, do=process.kill)
        telegram.faults.append(fault)
        telegram.say(method)
        telegram.wait(lambda fault=fault: fault not in telegram.faults)
        process.join(LONG)
        process = spawn(serve, telegram.base, tmp_path)
        telegram.say("Bye")
        expected += [f"{method} you said.", "Bye you said."]
        telegram.answers_after(len(expected) - 1)
    assert said(telegram, 1) == expected
    # At worst, a message that says nothing stays behind.
    assert len(telegram.sent) - len(expected) <= 5


def test_a_bot_that_is_killed_again_and_again_answers_everyone_in_order(
    telegram: Telegram, spawn: Callable[..., BaseProcess], tmp_path: Path
):
    chats, texts = range(1, 6), [f"message {number}" for number in range(5)]
    telegram.push(*(telegram.message(text, chat=chat) for text in texts for chat in chats))
    draw, killed = random.Random(0), list[BaseProcess]()

    def are_answered() -> bool:
        return sum(bool(sent.buttons) for sent in telegram.sent) == len(chats) * len(texts)

    while not are_answered():
        # One at a time: a message that is being answered at three kills is given up.
        process = spawn(serve, telegram.base, tmp_path, at_once=1)

        def kill(process: BaseProcess = process) -> None:
            process.kill()
            killed.append(process)

        telegram.at_call(draw.randrange(8, 30), kill)
        telegram.wait(lambda process=process: process in killed or are_answered())
        if process in killed:
            process.join(LONG)
    assert len(killed) > 3
    for chat in chats:
        assert said(telegram, chat) == [f"{text} you said." for text in texts]


@pytest.mark.slow
def test_a_flood_is_answered_in_order_with_flat_memory(
    telegram: Telegram, spawn: Callable[..., BaseProcess], tmp_path: Path
):
    texts = [f"message {number}" for number in range(10)]
    chats = range(1, 101)
    process = spawn(serve, telegram.base, tmp_path)
    telegram.push(*(telegram.message(text, chat=chat) for text in texts[:3] for chat in chats))
    telegram.wait(lambda: sum(bool(sent.buttons) for sent in telegram.sent) == 300)
    before = psutil.Process(process.pid).memory_info().rss
    telegram.push(*(telegram.message(text, chat=chat) for text in texts[3:] for chat in chats))
    telegram.wait(lambda: sum(bool(sent.buttons) for sent in telegram.sent) == 1000)
    assert psutil.Process(process.pid).memory_info().rss - before < 8 * 2**20
    for chat in chats:
        assert said(telegram, chat) == [f"{text} you said." for text in texts]


@pytest.mark.slow
def test_the_command_answers_survives_a_kill_and_hides_its_token(
    telegram: Telegram, spawn: Callable[..., BaseProcess], tmp_path: Path, tiny_folder: Path
):
    arguments = ["--model", str(tiny_folder), "--api-base", telegram.base, "--device", "cpu"]
    arguments += ["--precision", "fp32", "--max-new-tokens", "8", "--seed", "1"]
    first = spawn(command, tmp_path, *arguments)
    telegram.wait(lambda: bool(telegram.made("getUpdates")))
    output = (tmp_path / "output.txt").read_text(encoding="utf-8")
    (code,) = re.findall(r"start=(\S+)", output)
    telegram.ask(f"/start {code}")
    telegram.faults.append(Fault("editMessageText", after=True, do=first.kill))
    telegram.ask("Hello")
    first.join(LONG)
    second = spawn(command, tmp_path, *arguments)
    telegram.ask("Bye")
    assert len(telegram.answers()) == 3
    second.terminate()
    second.join(LONG)
    assert second.exitcode == 0
    output = (tmp_path / "output.txt").read_text(encoding="utf-8")
    assert output.count(code) == 2
    assert TOKEN.partition(":")[2] not in output
    assert "Traceback" not in output
