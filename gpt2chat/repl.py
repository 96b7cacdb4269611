"""The chat loop: keys, history, completion; the only importer of prompt_toolkit."""

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from gpt2chat import report
from gpt2chat.core.config import Sampling
from gpt2chat.dialogue import Dialogue, is_open

LEAVE = ("bye", "quit", "exit", "/bye", "/quit", "/exit")


def run(dialogue: Dialogue) -> None:
    """Talk until the user leaves.

    Raises:
        Gpt2ChatError: The model cannot be loaded.
    """
    report.note("Type a message, or /help. /exit or Ctrl-D leaves.")
    read = prompt_reader(dialogue) if sys.stdout.isatty() else read_plain
    while True:
        try:
            line = read()
        except KeyboardInterrupt:
            report.note("The line is cleared. /exit or Ctrl-D leaves.")
            continue
        except EOFError:
            return
        if line.strip().lower() in LEAVE:
            return
        try:
            dialogue.turn(line)
        except KeyboardInterrupt:
            report.note("Stopped.")


def prompt_reader(dialogue: Dialogue) -> Callable[[], str]:
    """Return what reads a message with prompt_toolkit.

    It raises KeyboardInterrupt on Ctrl-C, EOFError on Ctrl-D, and what ended the loading.
    """
    settings = [f"/set {entry.name} " for entry in dataclasses.fields(Sampling)]
    prompt: PromptSession[str] = PromptSession(
        [("bold", "> ")],
        prompt_continuation="  ",
        key_bindings=enter_sends(),
        history=history(),
        completer=WordCompleter([*dialogue.commands, "/exit", *settings], sentence=True),
        complete_style=CompleteStyle.READLINE_LIKE,
        complete_while_typing=False,
        bottom_toolbar=lambda: meter(dialogue),
    )
    return lambda: prompt.prompt(pre_run=lambda: watch(dialogue))


def meter(dialogue: Dialogue) -> str:
    """Return the line below the prompt: the model and how full its window is."""
    state = "" if dialogue.loading.done() else " · loading"
    used, window = dialogue.session.used, dialogue.session.window
    return f" {dialogue.name}{state} · {used:,} of {window:,} tokens"


def watch(dialogue: Dialogue) -> None:
    """While the prompt waits: end it when the loading fails, refresh the meter when it ends."""
    application = get_app()

    async def wait() -> None:
        try:
            await asyncio.wrap_future(dialogue.loading)
        except Exception as error:  # of whatever kind, it is raised where the prompt is read
            application.exit(exception=error)
        else:
            application.invalidate()

    if not dialogue.loading.done():
        application.create_background_task(wait())


def enter_sends() -> KeyBindings:
    """Return the keys: Enter sends unless three quotes are open, Alt-Enter breaks the line."""
    keys = KeyBindings()

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


def read_plain() -> str:
    """Return a message where stdout is no terminal: the prompt goes to stderr.

    Raises:
        EOFError: The input has ended.
    """
    text = ""
    while True:
        report.show_prompt()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        text += line
        if not is_open(text):
            return text


def history() -> History:
    """Return the lines typed in earlier chats, in a file that only the user can read.

    It is `GPT2CHAT_HISTORY`, or `gpt2chat/history` in `XDG_DATA_HOME` or ~/.local/share. Where it
    cannot be written, lines are kept for this chat only.
    """
    given = os.environ.get("GPT2CHAT_HISTORY")
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        path = Path(given) if given else Path(data, "gpt2chat", "history")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a+b"):
            return LastingHistory(str(path))
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return InMemoryHistory()


class LastingHistory(FileHistory):
    """A history file that, when its disk is full, does not end the chat."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)
