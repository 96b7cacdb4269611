"""The chat as a person sees it: the real program in a pseudo-terminal, keys in, screen out."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.history import FileHistory, InMemoryHistory

from gpt2chat.repl.history import open_history
from tests.terminal import ALT_ENTER, CTRL_C, CTRL_U, ENTER, ESCAPE, Terminal

pytestmark = pytest.mark.slow

LEAVES = "\n/exit or Ctrl-D leaves."
METER = " / 1,024 · "


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One program for the tests that leave it running, its model loaded."""
    flags = ["--model", str(tiny_folder), "--seed", "1", "--max-new-tokens", "6"]
    terminal = Terminal(tmp_path_factory.mktemp("chat"), "chat", *flags, lines=60)
    terminal.wait_for_prompt(1)
    terminal.enter("hello")
    yield terminal
    terminal.close()


@pytest.fixture
def terminal(running: Terminal) -> Terminal:
    """The program at the prompt of an empty chat, on an empty screen."""
    running.enter("/clear")
    running.enter("/set max_new_tokens 6")
    running.clear()
    return running


def test_help_and_an_unknown_command_are_answered(terminal: Terminal):
    terminal.enter("/HELP")
    assert "/load FILE" in terminal.text
    terminal.enter("/nope")
    assert "error: There is no command /nope." in terminal.text


def test_the_meter_counts_what_is_typed_but_no_command(terminal: Terminal):
    assert " 18 / 1,024" in terminal.text
    terminal.send("one two three", then=" 21 / 1,024")
    terminal.send(CTRL_U + "/system one", then=" 18 / 1,024")
    terminal.press(CTRL_U)
    terminal.wait_until(lambda: terminal.text.startswith(">\n"))


def test_half_a_character_is_said_to_be_no_utf_8(terminal: Terminal):
    terminal.child.send(b"caf\xc3")
    terminal.send(ENTER, then="is not valid UTF-8")
    terminal.interrupt()


def test_a_quoted_file_is_saved_under_its_name(terminal: Terminal):
    terminal.enter("hello")
    terminal.enter("/save 'with space.json'")
    assert "Saved 2 messages to with space.json." in terminal.text


def test_a_good_reply_that_was_cut_is_said_to_be_left_out(terminal: Terminal):
    terminal.enter("hello")
    assert "6 tokens, cut at the limit" in terminal.text
    terminal.enter("/good")
    assert "so prepare leaves it out" in terminal.text


def test_tab_shows_what_each_command_does_and_enter_chooses_before_it_sends(terminal: Terminal):
    terminal.send("/s\t", then="/system  show or change the system prompt")
    terminal.wait("/save    save the chat as JSON")
    for command in ("/system", "/set", "/show"):
        terminal.send("\t", then=f"> {command}\n")
    terminal.send(ENTER, then="> /show\n\n")
    terminal.enter()
    assert "parameters     " in terminal.text
    assert terminal.text.count(METER) == 1


def test_a_menu_leaves_nothing_behind(terminal: Terminal):
    terminal.send("/set top\t", then="> /set top_\n            top_k")
    terminal.send("\t", then="> /set top_k\n            top_k")
    terminal.interrupt()
    assert "> /set top_k\n>\n" in terminal.text
    assert terminal.text.count(METER) == 1


def test_a_message_of_several_lines_comes_back_at_the_next_prompt(terminal: Terminal):
    for line in ('"""', "zwölf 漢字 🙂", "/help"):
        terminal.press(line, ENTER)
    terminal.enter('"""')
    terminal.enter("/undo")
    assert "Taken back: zwölf 漢字 🙂 /help\n> zwölf 漢字 🙂\n  /help" in terminal.text
    terminal.interrupt()


def test_pasted_text_comes_back_in_its_lines(terminal: Terminal):
    terminal.enter(f"{ESCAPE}[200~one\r\ntwo\rthree{ESCAPE}[201~")
    terminal.enter("/undo")
    assert "Taken back: one two three\n> one\n  two\n  three" in terminal.text
    terminal.interrupt()


def test_an_edit_opens_the_reply_in_the_prompt(terminal: Terminal):
    terminal.enter("hello")
    terminal.enter("/edit")
    assert "> /edit " in terminal.text
    terminal.enter(CTRL_U + "/edit First." + ALT_ENTER + "Second.")
    assert "Noted: 3 rows" in terminal.text
    terminal.enter("/edit")
    assert "> /edit First.\n  Second." in terminal.text
    terminal.enter()
    assert "The reply is unchanged." in terminal.text


def test_a_reply_is_compared_and_voted_on(terminal: Terminal, tiny_folder: Path):
    terminal.enter("/compare starter")
    assert "starter is being loaded. Type /compare" in terminal.text
    terminal.send(
        "/compare hello" + ENTER, then="Which is better? A or B, = for a tie, - for none:"
    )
    terminal.enter("=")
    assert "Wins so far: " in terminal.text
    assert f"{METER}{tiny_folder} +1" in terminal.text


@pytest.mark.parametrize("milliseconds", [0, 10, 20, 40, 60, 100])
def test_ctrl_c_just_after_enter_ends_the_reply_or_brings_the_message_back(
    terminal: Terminal, milliseconds: int
):
    terminal.enter("/set max_new_tokens 200")
    message = f"after {milliseconds} milliseconds"
    terminal.press(message, ENTER)
    time.sleep(milliseconds / 1000)
    terminal.press(CTRL_C)
    ends = ("stopped by", "200 tokens", "Stopped.", "No reply, so", LEAVES)
    terminal.wait_until(lambda: any(end in terminal.text for end in ends))
    # Ctrl-C may have been a key for the prompt after the reply, and another prompt comes then. What
    # is typed now is on the last one.
    terminal.send("r3ady", then="r3ady\n")
    assert "Exception" not in terminal.text
    # Without a reply, the message is on the screen as it was sent, and again at the prompt.
    replied = "tokens, " in terminal.text or "1 token, " in terminal.text
    assert replied or terminal.text.count(f"> {message}") == 2
    terminal.interrupt()


def test_ctrl_c_at_the_prompt_clears_the_line(terminal: Terminal):
    terminal.type("half a thou")
    terminal.interrupt()
    terminal.enter("whole")
    assert "> half a thou\n> whole\n" in terminal.text
    assert LEAVES not in terminal.text
    terminal.interrupt()
    assert LEAVES in terminal.text


def test_text_typed_while_a_reply_streams_appears_after_it(terminal: Terminal):
    terminal.enter("/set max_new_tokens 200")
    terminal.clear()
    terminal.begin("hello")
    terminal.paste("typed\rahead")
    terminal.wait("\n> typed\n  ahead\n")
    assert "200 tokens" in terminal.text
    assert terminal.text.count("ahead") == 1
    terminal.interrupt()


def test_a_long_chat_rolls_and_says_so(terminal: Terminal):
    for _ in range(3):
        terminal.clear()
        terminal.paste("word " * 440)
        terminal.enter()
    assert "The oldest 2 messages left the window." in terminal.text


def test_a_message_too_long_is_refused_and_comes_back_to_be_shortened(terminal: Terminal):
    terminal.paste("word " * 1100)
    terminal.wait(" 1,118 / 1,024")
    terminal.send(ENTER, then="error: The message has 1,100 tokens")
    terminal.wait(" 1,118 / 1,024")
    assert "error: The message has 1,100 tokens" in terminal.text
    assert "word word" in terminal.text
    terminal.enter("\x17" * 600)  # Ctrl-W takes a word away
    assert "6 tokens" in terminal.text


def test_a_model_that_cannot_be_loaded_ends_the_waiting_prompt(tiny_folder: Path, tmp_path: Path):
    shutil.copytree(tiny_folder, tmp_path / "broken")
    os.truncate(tmp_path / "broken" / "model.safetensors", 100)
    terminal = Terminal(tmp_path, "chat", "--model", "broken")
    assert terminal.leave("") == 4
    assert "model.safetensors" in terminal.text
    assert "Traceback" not in terminal.text


def test_history_stays_in_a_file_of_the_user_alone(tmp_path: Path):
    path = tmp_path / "deep" / "lines"
    open_history(path).append_string("hello\nin lines")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(open_history(path).load_history_strings()) == ["hello\nin lines"]


def test_history_that_has_grown_long_keeps_its_latest_lines(tmp_path: Path):
    path = tmp_path / "lines"
    history = open_history(path)
    lines = [f"{number} é\n# two" * 100 for number in range(1000)]
    for line in lines:
        history.append_string(line)
    kept = list(open_history(path).load_history_strings())  # the latest first
    assert kept == lines[: -len(kept) - 1 : -1]
    assert 300 < len(kept) < 500
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(open_history(path).load_history_strings()) == kept


def test_a_text_longer_than_any_message_does_not_take_the_others_from_history(tmp_path: Path):
    path = tmp_path / "lines"
    open_history(path).append_string("first")
    FileHistory(str(path)).append_string("word " * 400_000)
    open_history(path).append_string("last")
    open_history(path).append_string("word " * 400_000)
    assert list(open_history(path).load_history_strings()) == ["last", "first"]
    assert path.stat().st_size < 200


def test_history_that_cannot_be_written_stays_in_memory(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "lines", tmp_path, None):
        assert isinstance(open_history(path), InMemoryHistory)


def test_show_says_that_lines_cannot_be_saved(tiny_folder: Path, tmp_path: Path):
    environment = {"GPT2CHAT_HISTORY": str(tmp_path)}
    terminal = Terminal(
        tmp_path, "chat", "--model", str(tiny_folder), environment=environment, lines=60
    )
    terminal.wait_for_prompt(1)
    terminal.enter("/show")
    assert "typed lines    not saved" in terminal.text
    assert terminal.leave("/exit", ENTER) == 0


def test_nothing_is_saved_if_the_user_says_so(tiny_folder: Path, tmp_path: Path):
    terminal = Terminal(tmp_path, "chat", "--model", str(tiny_folder), "--no-history")
    terminal.wait_for_prompt(1)
    terminal.enter("/set max_new_tokens 6")
    terminal.enter("Hello")
    assert "6 tokens" in terminal.text
    assert terminal.leave("/exit", ENTER) == 0
    assert list(tmp_path.rglob("*")) == []
