"""The chat loop: a line in, what it does, the next line."""

import sys
from typing import Protocol

from gpt2chat import report
from gpt2chat.dialogue.ahead import computing_ahead
from gpt2chat.dialogue.commands import take
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.text import is_open
from gpt2chat.repl.prompt import Prompt

HOW_TO_LEAVE = "/exit or Ctrl-D leaves."


class Keyboard(Protocol):
    """What reads from the user. Both raise KeyboardInterrupt on Ctrl-C and EOFError at the end."""

    def read(self) -> str:
        """Return a message or a command."""
        ...

    def ask(self, question: str) -> str:
        """Return what the user answers to a question."""
        ...


def run(dialogue: Dialogue) -> None:
    """Talk until the user leaves.

    Raises:
        Gpt2ChatError: The model cannot be loaded.
    """
    report.note("Type a message, or /help. " + HOW_TO_LEAVE)
    if sys.stdout.isatty():
        dialogue.drafts = True
        with report.quiet_keys():  # between two prompts too
            _talk(dialogue, Prompt(dialogue))
    else:
        dialogue.history = None  # these lines are not kept
        _talk(dialogue, PlainLines())


def _talk(dialogue: Dialogue, keyboard: Keyboard) -> None:
    dialogue.question = keyboard.ask
    while True:
        line = ""
        try:
            with computing_ahead(dialogue):
                line = keyboard.read()
            _do(dialogue, line)
        except KeyboardInterrupt:
            # What was to be done comes back to the prompt, if the prompt can begin with it.
            dialogue.draft = dialogue.draft or line
            stopped = line or (dialogue.drafts and dialogue.draft)
            report.note("Stopped." if stopped else HOW_TO_LEAVE)
        except EOFError:
            return


def _do(dialogue: Dialogue, line: str) -> None:
    if dialogue.drafts:
        with report.quiet_keys():
            take(dialogue, line)
    else:
        take(dialogue, line)


class PlainLines:
    """Lines of a terminal where stdout is none: what is asked goes to stderr."""

    def read(self) -> str:
        """Return a message or a command, of several lines where three quotes begin it."""
        text = ""
        while not text or is_open(text):
            text += self.ask("> ")
        return text

    def ask(self, question: str) -> str:
        """Return one line."""
        report.show_question(question)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            report.note("")  # what comes next begins on a line of its own
            raise
        if not line:
            report.note("")
            raise EOFError
        return line
