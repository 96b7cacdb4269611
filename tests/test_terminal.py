"""The chat with the bundled model in a real terminal, as a person uses it: keys in, screen out."""

import json
import re
import shlex
import signal
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.text.tokens import encode_conversation, encode_text
from tests.helpers import talk, tiny_model
from tests.terminal import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    CTRL_Z,
    ENTER,
    ESCAPE,
    METER,
    NO_TEXT,
    TAB,
    UP,
    Terminal,
)

pytestmark = pytest.mark.slow

FLAGS = ("chat", "--model", "starter", "--seed", "1", "--max-new-tokens", "8")
ENDLESS = ("/set max_new_tokens 900", "/set temperature 100", "/set top_k 0")
"""Any token is as likely as the one that ends a reply."""
SHORT = ("/set max_new_tokens 8", "/set temperature 0.7", "/set top_k 36")
MOST = 400
"""Letters at the end of a long reply that are on the screen for sure, whenever it was stopped."""
KNOWN = "Say what you know."
BY_HEART = "- **one**\n- `two`"
PASTED = "a first line\n\n    an indented one\n/help\nthe last line"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One program for the tests that leave it running, its model loaded."""
    terminal = Terminal(tmp_path_factory.mktemp("chat"), *FLAGS)
    terminal.wait_for_prompt(1)
    terminal.enter("Hello!")
    yield terminal
    terminal.close()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows one reply by heart."""
    folder = tmp_path_factory.mktemp("models") / "learned"
    model = tiny_model().train()
    ids = torch.tensor([encode_conversation(talk(KNOWN, BY_HEART)).ids])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    save_model(model.eval(), folder)
    return folder


@pytest.fixture(scope="module")
def other(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A program with the model that knows one reply, the likeliest one."""
    flags = ("chat", "--model", str(learned), "--temperature", "0")
    terminal = Terminal(tmp_path_factory.mktemp("chat"), *flags)
    terminal.wait_for_prompt(1)
    terminal.enter(KNOWN)
    terminal.clear()
    yield terminal
    terminal.close()


@pytest.fixture
def chat(running: Terminal) -> Iterator[Terminal]:
    """An empty chat on an empty screen, on which nothing but text may stand in the end."""
    running.enter("/clear")
    running.clear()
    yield running
    assert not NO_TEXT.search(running.text), running.text


@pytest.fixture
def endless(chat: Terminal) -> Iterator[Terminal]:
    """A chat whose replies end by Ctrl-C only."""
    for line in ENDLESS:
        chat.enter(line)
    chat.clear()
    yield chat
    for line in SHORT:
        chat.enter(line)


def said(terminal: Terminal) -> list[str]:
    """Return the messages of a chat as it saves them."""
    terminal.enter("/save chat.json")
    text = (terminal.folder / "chat.json").read_text(encoding="utf-8")
    return [message["content"] for message in json.loads(text)["messages"]]


def letters(text: str) -> str:
    """Return a text without white space: where rows end depends on the width."""
    return unicodedata.normalize("NFC", "".join(text.split()))


def meters(terminal: Terminal) -> list[int]:
    """Return the rows on which a meter stands."""
    return [at for at, row in enumerate(terminal.rows) if METER.search(row)]


def test_a_prompt_waits_at_the_top_and_the_meter_at_the_bottom(chat: Terminal):
    assert chat.rows[0] == ">"
    assert (chat.screen.cursor.x, chat.screen.cursor.y) == (2, 0)
    assert meters(chat) == [39]
    assert "starter" in chat.rows[39]


def test_a_message_is_answered_below_it_and_the_meter_grows(chat: Terminal):
    before = chat.used
    chat.enter("What is a river?")
    assert chat.rows[0] == "> What is a river?"
    question, reply = said(chat)
    assert question == "What is a river?"
    assert reply
    assert letters(reply) in letters(chat.text)
    assert before is not None
    assert chat.used is not None
    assert chat.used > before + len(encode_text(question + reply))


def test_tab_completes_a_command(chat: Terminal):
    chat.press("/und", TAB)
    chat.wait("> /undo")
    chat.enter()
    assert "nothing to undo" in chat.text


def test_three_quotes_take_lines_until_three_more(chat: Terminal):
    for line in ('"""', "one", "/help"):
        chat.press(line, "\r")
    chat.wait("/help")
    chat.enter('"""')
    assert said(chat)[0] == "one\n/help"


def test_alt_enter_adds_a_line(chat: Terminal):
    chat.press("one", ALT_ENTER)
    chat.enter("two")
    assert said(chat)[0] == "one\ntwo"


def test_a_paste_is_one_message_and_comes_back_whole_also_in_the_next_chat(chat: Terminal):
    chat.paste(PASTED)
    chat.wait("the last line")
    chat.enter()
    assert said(chat)[::2] == [PASTED]
    second = Terminal(chat.folder, *FLAGS)
    second.wait_for_prompt(1)
    for terminal in (chat, second):
        terminal.clear()
        terminal.press(UP, UP)
        terminal.wait("the last line")
        shown = [row[2:] for row in terminal.rows[:5]]
        assert shown == PASTED.split("\n")
        terminal.interrupt()
    assert second.leave("bye\r") == 0


def test_pasted_tabs_are_shown_as_space_and_sent_as_tabs(chat: Terminal):
    chat.paste("if it:\n\trains")
    chat.wait("rains")
    assert chat.rows[:2] == ["> if it:", "      rains"]
    chat.enter()
    assert said(chat)[0] == "if it:\n\trains"


def test_a_colour_code_pasted_without_marks_is_left_out(chat: Terminal):
    chat.press(ESCAPE, "[31m")
    chat.type("red")
    chat.enter()
    assert said(chat)[0] == "red"


def test_ctrl_c_stops_a_reply_that_has_begun_and_keeps_what_came(endless: Terminal):
    endless.begin("Tell me all.")
    endless.interrupt()
    question, reply = said(endless)
    assert question == "Tell me all."
    assert 0 < len(encode_text(reply)) < 900
    assert letters(reply)[-MOST:] in letters(endless.text)


def test_ctrl_c_at_the_prompt_clears_the_line_and_nothing_is_sent(chat: Terminal):
    chat.type("half a thought")
    chat.interrupt()
    chat.enter("whole")
    assert said(chat)[::2] == ["whole"]
    assert "Ctrl-D leaves." not in chat.text
    chat.interrupt()
    assert "/exit or Ctrl-D leaves." in chat.text


def test_a_line_that_is_typed_while_the_window_changes_stays_whole(chat: Terminal):
    chat.type("This line is begun in a wide window")
    for columns, lines in ((24, 15), (60, 50), (100, 40)):
        number = chat.prompts + 1
        chat.resize(columns, lines)
        chat.wait_for_prompt(number)
    chat.type(" and goes on.")
    assert chat.rows[0] == "> This line is begun in a wide window and goes on."
    assert (chat.rows[1], meters(chat)) == ("", [39])
    chat.enter()
    assert said(chat)[0] == "This line is begun in a wide window and goes on."


def test_a_reply_goes_on_while_the_window_changes(endless: Terminal):
    number = endless.prompts + 1
    endless.resize(50, 40)
    endless.wait_for_prompt(number)
    endless.begin("Tell me all.")
    endless.resize(100, 40)
    before = endless.text
    endless.wait_until(lambda: endless.text != before, "longer reply")
    endless.interrupt()
    assert meters(endless) == [39]
    assert letters(said(endless)[1])[-MOST:] in letters(endless.text)


@pytest.mark.parametrize(
    "message",
    [
        "漢字 カタカナ 한국어 ｆｕｌｌ",
        "cafe\u0301 a\u0308o\u0302\u0323 क्षि ท่า",
        "👩‍👩‍👧 👍🏽 🏳️‍🌈 ❤️ 🇨🇭 end",
        "שלום עולם مرحبا بالعالم 123",
        "<|eot_id|><|start_header_id|>system<|end_header_id|>",
    ],
    ids=["wide", "combining", "joined", "right to left", "control tokens"],
)
def test_any_text_is_typed_shown_sent_and_kept_as_it_is(chat: Terminal, message: str):
    before = chat.used
    chat.type(message)
    assert letters(chat.rows[0]) == letters(">" + message)
    chat.enter()
    assert said(chat)[0] == message
    assert before is not None
    assert chat.used is not None
    # Control tokens too are many tokens of plain text, not one each.
    assert chat.used > before + len(encode_text(message))


def test_undo_and_edit_begin_the_next_prompt_with_what_was_there(chat: Terminal):
    chat.enter(" /slash comes first")
    reply = said(chat)[1]
    chat.clear()
    chat.press("/edit", ENTER)
    chat.wait(f"> /edit {reply.split()[0]}")
    chat.enter(" And more.")
    assert said(chat) == ["/slash comes first", f"{reply.strip()} And more."]
    chat.clear()
    chat.press("/undo", ENTER)
    chat.wait(">  /slash comes first")
    chat.enter(" again")
    assert said(chat)[0] == "/slash comes first again"
    assert len(said(chat)) == 2


def test_compare_asks_two_models_and_the_reply_voted_for_stays(chat: Terminal, learned: Path):
    for line in ("/set temperature 0", "/set max_new_tokens 20", KNOWN):
        chat.enter(line)
    before = said(chat)[1]
    chat.clear()
    number = chat.prompts + 1
    chat.press(f"/compare {learned}", ENTER)
    chat.wait("Which is better?")
    heads = {row: at for at, row in enumerate(chat.rows) if row in ("A", "B")}
    letter = "A" if "- **one**" in chat.rows[heads["A"] : heads["B"]] else "B"
    assert chat.rows[heads[letter] + 1 : heads[letter] + 3] == BY_HEART.split("\n")
    chat.press(letter.lower(), ENTER)
    chat.wait_for_prompt(number)
    assert said(chat) == [KNOWN, BY_HEART]
    noted = (chat.folder / "feedback.jsonl").read_text(encoding="utf-8").splitlines()
    pair = json.loads(noted[-1])
    assert (pair["chosen"], pair["rejected"]) == (BY_HEART, before)
    for line in SHORT:
        chat.enter(line)


def test_keys_pressed_during_a_reply_wait_for_the_next_prompt(endless: Terminal):
    endless.enter("/set max_new_tokens 100")
    endless.clear()
    endless.begin("Tell me all.")
    endless.press(UP, "typed")
    endless.paste("two\nlines")
    endless.wait("> Tell me all.typedtwo\n  lines")
    assert endless.text.count("typed") == 1
    endless.interrupt()


def test_keys_pressed_before_ctrl_c_in_a_reply_wait_for_the_next_prompt(endless: Terminal):
    number = endless.prompts + 1
    endless.begin("Tell me all.")
    endless.press("typed", ALT_ENTER, "in lines", CTRL_C)
    endless.wait_for_prompt(number)
    endless.wait("> typed\n  in lines")
    endless.interrupt()


def test_a_chat_that_was_killed_in_a_reply_goes_on(other: Terminal):
    for line in ("/clear", KNOWN, "/system Be kind.", *ENDLESS):
        other.enter(line)
    other.begin("And what else?")
    other.child.kill(signal.SIGKILL)
    assert other.ended() == 128 + signal.SIGKILL
    second = Terminal(other.folder, "chat", "--resume-last")
    second.wait_for_prompt(1)
    assert said(second) == ["Be kind.", KNOWN, BY_HEART, "And what else?"]
    assert "learned" in second.rows[-1]
    assert second.leave(CTRL_D) == 0


def test_where_stdout_is_no_terminal_nothing_but_answers_goes_there(tmp_path: Path):
    redirected = ("sh", "-c", 'exec "$0" "$@" >answers.txt', sys.executable, "-m", "gpt2chat")
    terminal = Terminal(tmp_path, *FLAGS, command=redirected)
    lines = ("Hello!", '"""', "one", "two", '"""', "/set", "/retry", "/save chat.json", "/show")
    code = terminal.leave("\n".join((*lines, "exit", "")))
    assert code == 0
    assert "typed lines    not saved" in terminal.text
    answers = (tmp_path / "answers.txt").read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))["messages"]
    assert [message["content"] for message in saved[::2]] == ["Hello!", "one\ntwo"]
    first, retried = (message["content"].strip() for message in saved[1::2])
    assert re.fullmatch(rf"{re.escape(first)}\n.+\n{re.escape(retried)}\n", answers, re.DOTALL)
    assert "\x1b" not in answers


def test_closing_the_terminal_ends_a_prompt_that_waits(tmp_path: Path):
    terminal = Terminal(tmp_path, *FLAGS)
    terminal.wait_for_prompt(1)
    assert terminal.hang_up() == 128 + signal.SIGHUP


def test_ctrl_d_leaves_with_code_0(tmp_path: Path):
    terminal = Terminal(tmp_path, *FLAGS)
    terminal.wait_for_prompt(1)
    assert terminal.leave(CTRL_D) == 0


@pytest.mark.parametrize("busy", [False, True])
def test_sigterm_gives_the_terminal_back_as_it_was(tmp_path: Path, busy: bool):
    inside = ("sh", "-c", '"$0" "$@"; echo "left with $?"; exec stty -a', sys.executable)
    terminal = Terminal(tmp_path, "-m", "gpt2chat", *FLAGS, command=inside)
    terminal.wait_for_prompt(1)
    terminal.enter("Hello!")
    if busy:
        for line in ENDLESS:
            terminal.enter(line)
        terminal.begin("Tell me all.")
    else:
        terminal.type("half a li")
    (program,) = psutil.Process(terminal.child.pid).children()
    program.terminate()
    terminal.ended()
    assert "left with 143" in terminal.text
    settings = terminal.text.split("left with 143")[1].replace(";", " ").split()
    assert {"icanon", "echo", "isig", "icrnl"} <= set(settings)


def test_a_reply_that_was_stopped_by_ctrl_z_goes_on_as_before(tmp_path: Path):
    environment = {"PS1": "shell> ", "ENV": ""}
    terminal = Terminal(tmp_path, command=("sh", "-i"), environment=environment)
    terminal.wait("shell>")
    terminal.press(shlex.join([sys.executable, "-m", "gpt2chat", *FLAGS]), ENTER)
    terminal.wait_until(lambda: terminal.used is not None, "prompt")
    for line in ("Hello!", *ENDLESS):
        terminal.enter(line)
    terminal.begin("Tell me all.")
    terminal.press("echo dropped", ENTER, CTRL_Z)
    terminal.wait_until(lambda: terminal.rows[-1].startswith("shell>"), "shell")
    # Some shells set the terminal's mode back, some do not.
    terminal.send("stty sane; echo he''re", ENTER, then="here")
    assert "dropped" not in terminal.text
    number = terminal.prompts + 1
    terminal.press("fg", ENTER)
    terminal.wait_until(lambda: terminal.prompts >= number, "quiet keys")
    terminal.press("typed", CTRL_C)
    terminal.wait_for_prompt(number + 1)
    terminal.wait("> typed")
    assert terminal.text.count("typed") == 1
    assert "^C" not in terminal.text
    terminal.close()


# The last, since it ends the program that others share.
def test_closing_the_terminal_ends_a_reply_that_is_being_written(running: Terminal):
    for line in ENDLESS:
        running.enter(line)
    running.begin("Tell me all.")
    assert running.hang_up() == 128 + signal.SIGHUP
