"""Read lines from the user and do what they say, until the user leaves."""

import sys
from contextlib import nullcontext
from typing import Protocol

from gpt2chat import report
from gpt2chat.dialogue.ahead import computing_ahead
from gpt2chat.dialogue.commands import take
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.text import is_open
from gpt2chat.repl.prompt import Prompt

HOW_TO_LEAVE = "/exit or Ctrl-D leaves."


class Keyboard(Protocol):
    """Reads from the user. Ctrl-C raises KeyboardInterrupt, and the end of input EOFError."""

    def read(self) -> str:
        """Return a message or a command."""
        ...

    def ask(self, question: str) -> str:
        """Return the user's answer to a question."""
        ...


def run(dialogue: Dialogue) -> None:
    """Talk until the user leaves.

    Raises:
        Gpt2ChatError: The model cannot be loaded.
    """
    report.note("Type a message, or /help. " + HOW_TO_LEAVE)
    if sys.stdout.isatty():
        dialogue.drafts = True
        keyboard: Keyboard = Prompt(dialogue)
    else:
        keyboard = PlainLines()
        dialogue.history = None  # only the prompt saves typed lines
    dialogue.question = keyboard.ask
    # The outer block is for the moments between a prompt and a reply. The prompt switches the
    # marking of pastes off as it ends, and the inner block switches it on again for the reply.
    with report.quiet_keys() if dialogue.drafts else nullcontext():
        while True:
            line = ""
            try:
                with computing_ahead(dialogue):
                    line = keyboard.read()
                with report.quiet_keys() if dialogue.drafts else nullcontext():
                    take(dialogue, line)
                    line = ""  # it is answered: Ctrl-C after this is not about it
            except KeyboardInterrupt:
                # The line returns to the prompt, if the prompt can begin with a draft.
                dialogue.draft = dialogue.draft or line
                stopped = line or (dialogue.drafts and dialogue.draft)
                report.note("Stopped." if stopped else HOW_TO_LEAVE)
            except EOFError:
                return


class PlainLines:
    """Reads lines if stdout is not a terminal. Questions go to stderr."""

    def read(self) -> str:
        """Return a message or a command; three quotes begin and end one of several lines."""
        text = ""
        while not text or is_open(text):
            text += self.ask("> ")
        return text

    def ask(self, question: str) -> str:
        """Return one line."""
        report.show_heading(question, end="")
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            report.note("")  # ends the line of the question
            raise
        if not line:
            report.note("")
            raise EOFError
        return line
