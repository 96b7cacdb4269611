"""Read a line at the prompt, with history, completion, and a meter of the window below it."""

import asyncio
from concurrent.futures import Future
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.document import Document
from prompt_toolkit.history import DummyHistory
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.validation import ValidationError, Validator

from gpt2chat.core.errors import DataError
from gpt2chat.core.text.tokens import LONGEST_TOKEN, encode_text
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.text import unquoted
from gpt2chat.interrupts import PromptInterrupts
from gpt2chat.repl.completion import Completions
from gpt2chat.repl.history import SavedHistory, open_history
from gpt2chat.repl.keys import message_keys
from gpt2chat.report import sign

METER_CELLS = 10
"""Width of the meter's bar, in characters."""


class Prompt:
    """Reads messages and commands on a terminal."""

    def __init__(self, dialogue: Dialogue):
        self._dialogue = dialogue
        history = open_history(dialogue.history)
        if not isinstance(history, SavedHistory):
            dialogue.history = None
        self._messages: PromptSession[str] = PromptSession(
            [("bold", "> ")],
            prompt_continuation="  ",
            # By default prompt_toolkit draws a pasted tab as a bar and dots.
            input_processors=[TabsProcessor(char1=" ", char2=" ")],
            key_bindings=message_keys(),
            history=history,
            completer=Completions(dialogue),
            complete_while_typing=False,
            reserve_space_for_menu=6,
            bottom_toolbar=lambda: meter(dialogue, self._messages.default_buffer.text),
            validator=MessageValidator(dialogue),
            validate_while_typing=False,
        )
        # No history: votes must not appear among the lines that Up brings back.
        self._answers: PromptSession[str] = PromptSession(history=DummyHistory())

    def read(self) -> str:
        """Return a message or a command.

        Raises:
            KeyboardInterrupt: Ctrl-C on an empty line, or just after a line was sent, which then
                returns to the next prompt.
            EOFError: Ctrl-D.
            Gpt2ChatError: The model that answers cannot be loaded.
        """
        draft, self._dialogue.draft = self._dialogue.draft, ""
        loading = self._dialogue.models.loading(self._dialogue.models.first)
        interrupts = PromptInterrupts(self._messages.app)

        def on_start() -> None:
            watch(loading)
            interrupts.prompt_started()

        while True:
            try:
                with interrupts.delivered():
                    line = self._messages.prompt(
                        default=draft, pre_run=on_start, handle_sigint=False
                    )
            except KeyboardInterrupt:
                if not self._messages.default_buffer.text:
                    raise
                draft = ""  # the line stays on the screen, and a new prompt starts below it
                continue
            if interrupts.missed:
                self._dialogue.draft = line
                raise KeyboardInterrupt
            return line

    def ask(self, question: str) -> str:
        """Return the user's answer to a question.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            EOFError: Ctrl-D.
        """
        interrupts = PromptInterrupts(self._answers.app)
        with interrupts.delivered():
            answer = self._answers.prompt(
                [("bold", question)], pre_run=interrupts.prompt_started, handle_sigint=False
            )
        if interrupts.missed:
            raise KeyboardInterrupt
        return answer


class MessageValidator(Validator):
    """Refuses a message that cannot be sent, with the reason below it.

    The message stays in the prompt. A new prompt with a message that fills the screen would scroll
    the error away.
    """

    def __init__(self, dialogue: Dialogue):
        self._dialogue = dialogue

    def validate(self, document: Document) -> None:
        text = unquoted(document.text)
        if not text or document.text.startswith("/"):
            return
        try:
            self._dialogue.session.check(text, self._dialogue.chat.sampling.max_new_tokens)
        except DataError as error:
            raise ValidationError(len(document.text), f"error: {error}") from error


def meter(dialogue: Dialogue, typed: str) -> str:
    """Return the line below the prompt: the tokens in the window, and the model.

    The typed text counts, unless it is a command.
    """
    session = dialogue.session
    window = session.window
    # A longer text cannot fit, and the meter need not encode a pasted book at every key.
    text = "" if typed.startswith("/") else unquoted(typed)[: LONGEST_TOKEN * window]
    used = session.used + len(encode_text(text))
    full = min(METER_CELLS, -(-used * METER_CELLS // window))
    bar = sign("▰", "#") * full + sign("▱", ".") * (METER_CELLS - full)
    first = dialogue.models.first
    others = len(dialogue.models.names) - 1
    parts = [f"{bar} {used:,} / {window:,}", f"{first} +{others}" if others else first]
    if not dialogue.models.loading(first).done():
        parts.append("loading")
    return f" {sign(' · ', ' - ').join(parts)}"


def watch(loading: "Future[Any]") -> None:
    """While the prompt waits, end it if the model cannot be loaded, or refresh the meter."""
    application = get_app()

    async def wait() -> None:
        try:
            await asyncio.wrap_future(loading)
        except Exception as error:  # raised again by the code that reads the prompt
            application.exit(exception=error)
        else:
            application.invalidate()

    if not loading.done():
        application.create_background_task(wait())
