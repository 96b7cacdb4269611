"""The chat as a person sees it: the real program in a pseudo-terminal, keys in, screen out."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.history import FileHistory, InMemoryHistory

from gpt2chat.repl.history import open_history
from tests.terminal import CTRL_C, CTRL_U, ENTER, ESCAPE, Terminal

pytestmark = pytest.mark.slow

LEAVES = "\n/exit or Ctrl-D leaves."
METER = " / 1,024 · "
PASTE = ESCAPE + "[200~{}" + ESCAPE + "[201~"


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One program for the tests that leave it running, its model loaded."""
    flags = ["--model", str(tiny_folder), "--seed", "1", "--max-new-tokens", "6"]
    terminal = Terminal(tmp_path_factory.mktemp("chat"), "chat", *flags, lines=60)
    terminal.wait(METER)
    terminal.send("hello\r", then="6 tokens")
    yield terminal
    terminal.close()


@pytest.fixture
def terminal(running: Terminal) -> Terminal:
    """The program with an empty chat and an empty screen."""
    running.send("/clear\r/set max_new_tokens 6\r", then="max_new_tokens  6")
    running.send("\x0c", then=" 18 / 1,024")
    running.wait_until(lambda: running.text.startswith(">\n"))
    return running


def test_a_message_is_answered_and_the_meter_rises(terminal: Terminal):
    terminal.send("hello\r", then="6 tokens, cut at the limit")
    terminal.wait("\n>\n")
    lines = terminal.text.splitlines()
    assert lines[0] == "> hello"
    assert METER in lines[-1]
    assert lines[-1].startswith(" ▰▱▱▱▱▱▱▱▱▱ ")
    assert " 18 /" not in lines[-1]


def test_help_and_an_unknown_command_are_answered(terminal: Terminal):
    terminal.send("/HELP\r", then="/load FILE")
    terminal.send("/nope\r", then="error: There is no command /nope.")


def test_the_meter_counts_what_is_typed_but_no_command(terminal: Terminal):
    terminal.send("one two three", then=" 21 / 1,024")
    terminal.send(CTRL_U + "/system one", then=" 18 / 1,024")
    terminal.press(CTRL_U)
    terminal.wait_until(lambda: terminal.text.startswith(">\n"))


def test_half_a_character_is_said_to_be_no_utf_8(terminal: Terminal):
    terminal.child.send(b"caf\xc3")
    terminal.send("\r", then="is not valid UTF-8")
    terminal.press(CTRL_U)


def test_a_quoted_file_is_saved_under_its_name(terminal: Terminal):
    terminal.send("hello\r/save 'with space.json'\r", then="Saved 2 messages to with space.json.")


def test_a_good_reply_that_was_cut_is_said_to_be_left_out(terminal: Terminal):
    terminal.send("hello\r/good\r", then="so prepare leaves it out")


def test_tab_completes_a_command(terminal: Terminal):
    terminal.send("/und\t", then="/undo")
    terminal.send("\r", then="error: There is nothing to undo.")


def test_tab_shows_what_each_command_does_and_enter_chooses_before_it_sends(terminal: Terminal):
    terminal.send("/s\t", then="/system  show or change the system prompt")
    terminal.wait("/save    save the chat as JSON")
    for command in ("/system", "/set", "/show"):
        terminal.send("\t", then=f"> {command}\n")
    terminal.send("\r", then="> /show\n\n")
    terminal.send("\r", then="parameters     ")
    terminal.wait(METER)
    assert terminal.text.count(METER) == 1


def test_a_menu_leaves_nothing_behind(terminal: Terminal):
    terminal.send("/set top\t", then="> /set top_\n            top_k")
    terminal.send("\t", then="> /set top_k\n            top_k")
    terminal.send(CTRL_C, then="> /set top_k\n>\n")
    terminal.wait(METER)
    assert terminal.text.count(METER) == 1


def test_three_quotes_take_several_lines(terminal: Terminal):
    terminal.send('"""\rzwölf 漢字 🙂\r/help\r"""\r', then="6 tokens")
    terminal.send("/undo\r", then="Taken back: zwölf 漢字 🙂 /help\n> zwölf 漢字 🙂\n  /help")
    terminal.send(CTRL_C + CTRL_C, then=LEAVES)


def test_pasted_text_stays_in_one_piece(terminal: Terminal):
    terminal.send(PASTE.format("one\r\ntwo\rthree") + "\r", then="6 tokens")
    terminal.send("/undo\r", then="Taken back: one two three\n> one\n  two\n  three")
    terminal.send(CTRL_C + CTRL_C, then=LEAVES)


def test_alt_enter_adds_a_line(terminal: Terminal):
    terminal.send("one" + ESCAPE + "\rtwo\r", then="6 tokens")
    terminal.send("/undo\r", then="Taken back: one two\n> one\n  two\n")
    terminal.send(CTRL_C + CTRL_C, then=LEAVES)


def test_an_edit_opens_the_reply_in_the_prompt(terminal: Terminal):
    terminal.send("hello\r", then="6 tokens")
    terminal.send("/edit\r", then="> /edit ")
    terminal.send(CTRL_U + "/edit First." + ESCAPE + "\rSecond.\r", then="Noted: 3 rows")
    terminal.send("/edit\r", then="> /edit First.\n  Second.")
    terminal.send("\r", then="The reply is unchanged.")


def test_a_reply_is_compared_and_voted_on(terminal: Terminal, tiny_folder: Path):
    terminal.send("/compare starter\r", then="starter is being loaded. Type /compare")
    terminal.send("/compare hello\r", then="Which is better? A or B, = for a tie, - for none:")
    terminal.send("=\r", then="Wins so far: ")
    terminal.wait(f"{METER}{tiny_folder} +1")


def test_ctrl_c_stops_the_reply_and_not_the_program(terminal: Terminal):
    terminal.send("/set max_new_tokens 960\r", then="max_new_tokens  960")
    terminal.send("\x0chello\r", then="> hello\n")
    # The meter goes when the line is sent; what then comes is the reply.
    terminal.wait_until(lambda: METER not in terminal.text and not terminal.text.endswith("hello"))
    terminal.send(CTRL_C, then="stopped by Ctrl-C")
    terminal.send("/set max_new_tokens 6\ragain\r", then="6 tokens, cut at the limit")


@pytest.mark.parametrize("milliseconds", [0, 5, 10, 20, 30, 40, 50, 60, 80, 100])
def test_ctrl_c_just_after_enter_ends_the_reply_or_brings_the_message_back(
    terminal: Terminal, milliseconds: int
):
    terminal.send("/set max_new_tokens 200\r", then="max_new_tokens  200")
    message = f"after {milliseconds} milliseconds"
    terminal.press(message, ENTER)
    time.sleep(milliseconds / 1000)
    terminal.press(CTRL_C)
    ends = ("stopped by", "200 tokens", "Stopped.", "No reply, so", LEAVES)
    terminal.wait_until(
        lambda: any(end in terminal.text for end in ends) and terminal.used is not None
    )
    assert "Exception" not in terminal.text
    # Without a reply, the message is on the screen as it was sent, and again at the prompt.
    replied = "tokens, " in terminal.text or "1 token, " in terminal.text
    assert replied or terminal.text.count(f"> {message}") == 2
    terminal.press(CTRL_U)


def test_ctrl_c_at_the_prompt_clears_the_line(terminal: Terminal):
    terminal.send("half a thou", then="half a thou")
    terminal.send(CTRL_C + "whole\r", then="> half a thou\n> whole\n")
    terminal.wait("6 tokens")
    assert LEAVES not in terminal.text
    terminal.send(CTRL_C, then=LEAVES)


def test_text_typed_while_a_reply_streams_appears_after_it(terminal: Terminal):
    terminal.send("/set max_new_tokens 200\r", then="max_new_tokens  200")
    terminal.send("\x0chello\r", then="> hello\n")
    terminal.wait_until(lambda: METER not in terminal.text and not terminal.text.endswith("hello"))
    terminal.send(PASTE.format("typed\rahead"), then="200 tokens")
    terminal.wait("\n> typed\n  ahead\n")
    assert terminal.text.count("ahead") == 1
    terminal.send(CTRL_C + CTRL_C, then=LEAVES)


def test_a_long_chat_rolls_and_says_so(terminal: Terminal):
    long = "word " * 440
    terminal.send(PASTE.format(long) + "\r", then="6 tokens")
    terminal.send("\x0c" + PASTE.format(long) + "\r", then="6 tokens")
    terminal.send("\x0c" + PASTE.format(long) + "\r", then="The oldest 2 messages left the window.")


def test_a_message_too_long_is_refused_and_comes_back_to_be_shortened(terminal: Terminal):
    terminal.send(PASTE.format("word " * 1100), then=" 1,118 / 1,024")
    terminal.send("\r", then="error: The message has 1,100 tokens")
    terminal.wait(" 1,118 / 1,024")
    assert "error: The message has 1,100 tokens" in terminal.text
    assert "word word" in terminal.text
    terminal.send("\x17" * 600, "\r", then="6 tokens")  # Ctrl-W takes a word away


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
    terminal.wait(METER)
    terminal.send("/show\r", then="typed lines    not saved")
    assert terminal.leave("/exit\r") == 0


def test_nothing_is_saved_if_the_user_says_so(tiny_folder: Path, tmp_path: Path):
    terminal = Terminal(tmp_path, "chat", "--model", str(tiny_folder), "--no-history")
    terminal.wait(METER)
    terminal.send("/set max_new_tokens 6\rHello\r", then="6 tokens")
    assert terminal.leave("/exit\r") == 0
    assert list(tmp_path.rglob("*")) == []
