"""The chat as a person sees it: the real program in a pseudo-terminal, keys in, screen out."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from prompt_toolkit.history import InMemoryHistory
from pyte import ByteStream, Screen

from gpt2chat.repl.history import lines_kept

CTRL_C, CTRL_D, CTRL_U, ESCAPE = "\x03", "\x04", "\x15", "\x1b"
LEAVES = "\n/exit or Ctrl-D leaves."
METER = " / 1,024 · "
PASTE = ESCAPE + "[200~{}" + ESCAPE + "[201~"


class Terminal(Screen):
    """A terminal of 100 columns and 60 lines with `gpt2chat chat` in it."""

    def __init__(self, folder: Path, *arguments: str):
        super().__init__(100, 60)
        self.model = arguments[1] if arguments[:1] == ("--model",) else ""
        self.stream = ByteStream(self)
        environment = {**os.environ, "XDG_DATA_HOME": str(folder / "data"), "TERM": "xterm"}
        environment.pop("GPT2CHAT_HISTORY", None)
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            sys.executable,
            ["-m", "gpt2chat", "chat", *arguments],
            cwd=str(folder),
            env=environment,
            dimensions=(60, 100),
            timeout=60,
        )
        self.child.delaybeforesend = None

    def write_process_input(self, data: str) -> None:
        """Answer the program's question where the cursor is, as a terminal does."""
        self.child.send(data)

    @property
    def text(self) -> str:
        """The screen without the space that fills its lines."""
        return "\n".join(line.rstrip() for line in self.display).strip()

    def wait(self, text: str) -> None:
        """Read until the screen shows `text`."""
        self.wait_until(lambda: text in self.text)

    def wait_until(self, shown: Callable[[], bool]) -> None:
        """Read until the screen is as asked for."""
        while not shown():
            try:
                self.stream.feed(self.child.read_nonblocking(65536, timeout=20))
            except (pexpect.TIMEOUT, pexpect.EOF):
                pytest.fail(f"This was never shown; the screen is:\n{self.text}")

    def type(self, keys: str, *, then: str) -> None:
        """Send keys and wait for what they bring."""
        self.child.send(keys)
        self.wait(then)

    def leave(self, keys: str) -> int:
        """Send keys that end the program; return its exit code."""
        self.child.send(keys)
        self.stream.feed(self.child.read())
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -1


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One program for the tests that leave it running, its model loaded."""
    flags = ["--model", str(tiny_folder), "--seed", "1", "--max-new-tokens", "6"]
    terminal = Terminal(tmp_path_factory.mktemp("chat"), *flags)
    terminal.wait(METER)
    terminal.type("hello\r", then="6 tokens")
    yield terminal
    terminal.child.close(force=True)


@pytest.fixture
def terminal(running: Terminal) -> Terminal:
    """The program with an empty chat and an empty screen."""
    running.type("/clear\r/set max_new_tokens 6\r", then="max_new_tokens  6")
    running.type("\x0c", then=" 18 / 1,024")
    running.wait_until(lambda: running.text.startswith(">\n"))
    return running


def test_a_message_is_answered_and_the_meter_rises(terminal: Terminal):
    terminal.type("hello\r", then="6 tokens, cut at the limit")
    terminal.wait("\n>\n")
    lines = terminal.text.splitlines()
    assert lines[0] == "> hello"
    assert METER in lines[-1]
    assert lines[-1].startswith(" ▰▱▱▱▱▱▱▱▱▱ ")
    assert " 18 /" not in lines[-1]


def test_help_and_an_unknown_command_are_answered(terminal: Terminal):
    terminal.type("/HELP\r", then="/load FILE")
    terminal.type("/nope\r", then="error: There is no command /nope.")


def test_tab_completes_a_command(terminal: Terminal):
    terminal.type("/und\t", then="/undo")
    terminal.type("\r", then="error: There is nothing to undo.")


def test_tab_shows_what_each_command_does_and_enter_chooses_before_it_sends(terminal: Terminal):
    terminal.type("/s\t", then="/system  show or change the system prompt")
    terminal.wait("/save    write the chat as JSON")
    for command in ("/system", "/set", "/show"):
        terminal.type("\t", then=f"> {command}\n")
    terminal.type("\r", then="> /show\n\n")
    terminal.type("\r", then="parameters     ")
    terminal.wait(METER)
    assert terminal.text.count(METER) == 1


def test_a_menu_leaves_nothing_behind(terminal: Terminal):
    terminal.type("/set top\t", then="> /set top_\n            top_k")
    terminal.type("\t", then="> /set top_k\n            top_k")
    terminal.type(CTRL_C, then="> /set top_k\n>\n")
    terminal.wait(METER)
    assert terminal.text.count(METER) == 1


def test_three_quotes_take_several_lines(terminal: Terminal):
    terminal.type('"""\rzwölf 漢字 🙂\r/help\r"""\r', then="6 tokens")
    terminal.type("/undo\r", then="Taken back: zwölf 漢字 🙂 /help\n> zwölf 漢字 🙂\n  /help")
    terminal.type(CTRL_C + CTRL_C, then=LEAVES)


def test_pasted_text_stays_whole(terminal: Terminal):
    terminal.type(PASTE.format("one\r\ntwo\rthree") + "\r", then="6 tokens")
    terminal.type("/undo\r", then="Taken back: one two three\n> one\n  two\n  three")
    terminal.type(CTRL_C + CTRL_C, then=LEAVES)


def test_alt_enter_adds_a_line(terminal: Terminal):
    terminal.type("one" + ESCAPE + "\rtwo\r", then="6 tokens")
    terminal.type("/undo\r", then="Taken back: one two\n> one\n  two\n")
    terminal.type(CTRL_C + CTRL_C, then=LEAVES)


def test_an_edit_opens_the_reply_in_the_prompt(terminal: Terminal):
    terminal.type("hello\r", then="6 tokens")
    terminal.type("/edit\r", then="> /edit ")
    terminal.type(CTRL_U + "/edit First." + ESCAPE + "\rSecond.\r", then="Noted: 3 rows")
    terminal.type("/edit\r", then="> /edit First.\n  Second.")
    terminal.type("\r", then="The reply stays as it was.")


def test_a_reply_is_compared_and_voted_on(terminal: Terminal):
    terminal.type("/compare starter\r", then="There is no message to compare.")
    terminal.type("/compare hello\r", then="Which is better? A or B, = for a tie, - for none:")
    terminal.type("=\r", then="Wins so far: ")
    terminal.wait(METER + terminal.model + " +1")


def test_ctrl_c_stops_the_reply_and_not_the_program(terminal: Terminal):
    terminal.type("/set max_new_tokens 960\r", then="max_new_tokens  960")
    terminal.type("\x0chello\r", then="> hello\n")
    # The meter goes when the line is sent; what then comes is the reply.
    terminal.wait_until(lambda: METER not in terminal.text and not terminal.text.endswith("hello"))
    terminal.type(CTRL_C, then="stopped by Ctrl-C")
    terminal.type("/set max_new_tokens 6\ragain\r", then="6 tokens, cut at the limit")


def test_ctrl_c_at_the_prompt_clears_the_line(terminal: Terminal):
    terminal.type("half a thou", then="half a thou")
    terminal.type(CTRL_C + "whole\r", then="> half a thou\n> whole\n")
    terminal.wait("6 tokens")
    assert LEAVES not in terminal.text
    terminal.type(CTRL_C, then=LEAVES)


def test_what_is_typed_while_a_reply_streams_comes_after_it_and_is_whole(terminal: Terminal):
    terminal.type("/set max_new_tokens 200\r", then="max_new_tokens  200")
    terminal.type("\x0chello\r", then="> hello\n")
    terminal.wait_until(lambda: METER not in terminal.text and not terminal.text.endswith("hello"))
    terminal.type(PASTE.format("typed\rahead"), then="200 tokens")
    terminal.wait("\n> typed\n  ahead\n")
    assert terminal.text.count("ahead") == 1
    terminal.type(CTRL_C + CTRL_C, then=LEAVES)


def test_a_long_chat_rolls_and_says_so(terminal: Terminal):
    long = "word " * 440
    terminal.type(PASTE.format(long) + "\r", then="6 tokens")
    terminal.type("\x0c" + PASTE.format(long) + "\r", then="6 tokens")
    terminal.type("\x0c" + PASTE.format(long) + "\r", then="The oldest 2 messages left the window.")


def test_a_message_too_long_is_refused_and_the_chat_goes_on(terminal: Terminal):
    terminal.type(PASTE.format("word " * 1100) + "\r", then="error: The message has 1,100 tokens")
    terminal.type("hello\r", then="6 tokens")


def test_earlier_lines_come_back_with_the_arrow_key_in_the_next_chat(
    tiny_folder: Path, tmp_path: Path
):
    first = Terminal(tmp_path, "--model", str(tiny_folder))
    first.wait(METER)
    first.type("/system Be kind.\r", then="The system prompt: Be kind.")
    assert first.leave("bye\r") == 0
    second = Terminal(tmp_path, "--model", str(tiny_folder))
    second.wait(METER)
    second.type(ESCAPE + "[A" + ESCAPE + "[A", then="> /system Be kind.")
    assert second.leave(CTRL_C + CTRL_D) == 0


def test_a_model_that_cannot_be_loaded_ends_the_waiting_prompt(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    terminal = Terminal(tmp_path, "--model", "broken")
    assert terminal.leave("") == 4
    assert "error: --model broken is of type None; gpt2chat takes GPT-2" in terminal.text
    assert "Traceback" not in terminal.text


def test_history_stays_in_a_file_of_the_user_alone(tmp_path: Path):
    path = tmp_path / "deep" / "lines"
    lines_kept(path).append_string("hello\nin lines")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(lines_kept(path).load_history_strings()) == ["hello\nin lines"]


def test_history_that_cannot_be_written_is_kept_in_memory(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "lines", tmp_path, None):
        assert isinstance(lines_kept(path), InMemoryHistory)


def test_a_killed_chat_goes_on(tiny_folder: Path, tmp_path: Path):
    first = Terminal(tmp_path, "--model", str(tiny_folder), "--max-new-tokens", "6")
    first.wait(METER)
    first.type("/system Be kind.\r", then="The system prompt: Be kind.")
    first.type("Hello\r", then="6 tokens")
    first.child.kill(signal.SIGKILL)
    first.child.close(force=True)
    second = Terminal(tmp_path, "--resume-last")
    second.wait(METER)
    assert " goes on: 2 messages, the latest “" in second.text
    assert f"with {tiny_folder}." in second.text.replace("\n", "")
    second.type("/context\r", then="Be kind.<|eot_id|>")
    second.type("/undo\r", then="> Hello")
    assert second.leave(CTRL_C + CTRL_D) == 0


def test_nothing_is_kept_where_that_is_not_wanted(tiny_folder: Path, tmp_path: Path):
    terminal = Terminal(tmp_path, "--model", str(tiny_folder), "--no-history")
    terminal.wait(METER)
    terminal.type("/set max_new_tokens 6\rHello\r", then="6 tokens")
    assert terminal.leave("/exit\r") == 0
    assert list(tmp_path.rglob("*")) == []
