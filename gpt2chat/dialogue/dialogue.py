"""One chat from the terminal: its messages, models and settings, and how a line is answered."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2chat import report
from gpt2chat.core.chat.chats import Autosave
from gpt2chat.core.chat.feedback import Feedback
from gpt2chat.core.chat.session import Prompt, Session
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ConfigError, DataError, Gpt2ChatError, StorageError
from gpt2chat.dialogue.ahead import Background
from gpt2chat.dialogue.commands import COMMANDS
from gpt2chat.dialogue.interrupts import OneInterrupt
from gpt2chat.dialogue.models import LoadedModel, Models
from gpt2chat.dialogue.text import as_typed, shortened, unquoted

if TYPE_CHECKING:
    from gpt2chat.core.generation.generate import Generator, Reply

FAREWELL = ("bye", "quit", "exit")
AGAIN = 503
"""Added to the seed where a reply was empty and is asked for once more."""


class Dialogue:
    """A session, the models that answer in it, and the commands that change it."""

    def __init__(
        self,
        session: Session,
        sampling: Sampling,
        models: Models,
        feedback: Feedback,
        *,
        autosave: Autosave | None = None,
        history: Path | None = None,
        markdown: bool = True,
    ):
        """Begin a chat, or go on with one that the session holds.

        Args:
            autosave: Keeps the chat; None where it is not kept.
            history: Where typed lines are kept, to be told of.
            markdown: Show a reply that holds Markdown in its looks.
        """
        self.session = session
        self.sampling = sampling
        self.models = models
        self.feedback = feedback
        self.autosave = autosave
        self.history = history
        self.markdown = markdown
        self.retries = 0
        self.wins: dict[str, int] = {}
        """Votes of `/compare`: models, and what else a vote may be."""
        self.draft = ""
        """What the next prompt is to begin with."""
        self.drafts = False
        """Whether the prompt can begin with something."""
        self.question: Callable[[str], str] = _nobody
        """Asks the user; raises EOFError or KeyboardInterrupt where there is no answer."""
        self.interrupt = OneInterrupt()
        self.background = Background()
        self._kept = session.messages

    def turn(self, line: str) -> None:
        """Do what one line says; a mistake in it is one line on stderr, and the chat goes on.

        Raises:
            EOFError: It says that the user leaves.
            KeyboardInterrupt: Ctrl-C, before there was a reply to end; the chat is as it was.
            Gpt2ChatError: The model that answers cannot be loaded.
        """
        text = line.strip()
        if text.lower() in FAREWELL:
            raise EOFError
        if not text:
            return
        for error in self.models.take_failed():
            report.show_error(error)
        with self.interrupt:
            try:
                if line.startswith("/"):
                    self._command(text)
                else:
                    self.model()  # waits for it
                    self._mistakes(lambda: self.ask(unquoted(text)))
            finally:
                self.keep()

    def _command(self, line: str) -> None:
        word, rest = (line.split(maxsplit=1) + ["", ""])[:2]
        found = next((command for command in COMMANDS if word.lower() in command.names), None)
        if found is None:
            report.show_error(ConfigError(_unknown(word)))
            self.draft = line if rest else ""  # more than a word is not to be typed again
            return
        if rest and found.takes == "nothing":
            instead = found.instead or f"Leave out {shortened(rest, 40)}."
            report.show_error(ConfigError(f"{word.lower()} takes nothing. {instead}"))
            return
        if found.needs_model:
            self.model()  # waits for it
        self._mistakes(lambda: found.run(self, unquoted(rest)))

    def _mistakes(self, do: Callable[[], None]) -> None:
        """Do something; what is wrong with it is one line on stderr."""
        try:
            do()
        except Gpt2ChatError as error:
            report.show_error(error)
        except BrokenPipeError:
            raise  # nobody reads on: it is no mistake, and the end
        except OSError as error:
            report.show_error(DataError(f"{error.filename or 'The file'}: {error.strerror}."))

    def model(self) -> "Generator":
        """Return the model that answers, loaded.

        Raises:
            Gpt2ChatError: It cannot be loaded.
        """
        generator = self.loaded(self.models.first).generator
        self.session.window = generator.window
        return generator

    def loaded(self, name: str) -> LoadedModel:
        """Return a model once it is loaded.

        Raises:
            Gpt2ChatError: It cannot be loaded.
        """
        loading = self.models.loading(name)
        if not loading.done():
            report.note(f"Loading {name} …")
        return loading.result()

    def ask(self, text: str) -> None:
        """Answer a message.

        Raises:
            DataError: It is empty or too long for the window.
        """
        try:
            prompt = self.session.ask(text, self.sampling.max_new_tokens)
        except DataError:
            self.draft = as_typed(text)  # to be mended
            raise
        try:
            self.keep()  # so that the message is there, should the terminal be closed meanwhile
            self.answer(prompt)
        finally:
            if self.session.take_back():
                self.draft = as_typed(text)

    def answer(self, prompt: Prompt, retries: int = 0) -> None:
        """Stream a reply. Ctrl-C ends it, and what has come of it stays in the chat."""
        self.tell_what_left(prompt)
        self.retries = retries
        generator = self.model()
        reply, interrupted = self.streamed(generator, prompt, self.drawn(retries))
        if not reply.text.strip() and not interrupted:
            # A small model now and then ends its reply before the first word.
            reply, interrupted = self.streamed(generator, prompt, self.drawn(retries + AGAIN))
        if reply.text.strip():
            self.session.answer(reply.text)
            self.keep()
            report.show_speed(reply, interrupted=interrupted)
        else:
            report.note("No reply came: the message is taken back. Ask again, or in other words.")

    def tell_what_left(self, prompt: Prompt) -> None:
        """Say how many messages a turn pushed out of the window."""
        if prompt.left:
            what = "oldest message" if prompt.left == 1 else f"oldest {prompt.left} messages"
            report.note(f"The {what} left the window.")

    def drawn(self, retries: int) -> Sampling:
        """Return the sampling of the next reply.

        One seed gives one chat. A retry is to give another reply; and the same draws in each turn
        would lead a small model to say again what it has said before.
        """
        return self.sampling.seeded(retries + 1009 * (len(self.session.turns) // 2))

    def streamed(
        self, generator: "Generator", prompt: Prompt, sampling: Sampling
    ) -> tuple["Reply", bool]:
        """Show a reply as it comes; return it, and whether Ctrl-C ended it."""
        self.interrupt.again()
        stream = generator.stream(prompt.ids, sampling, stop_loops=True)
        try:
            report.show_reply(stream, markdown=self.markdown)
            self.interrupt.enough()
        except KeyboardInterrupt:
            return stream.reply, True
        return stream.reply, False

    def keep(self) -> None:
        """Keep the chat as it is, if it has changed."""
        messages = self.session.messages
        if self.autosave is None or messages == self._kept:
            return
        try:
            self.autosave.write(messages, self.models.names)
            self._kept = messages
        except (StorageError, OSError) as error:
            report.note(f"From here on the chat is not kept, only what you /save: {error}")
            self.autosave = None


def _unknown(word: str) -> str:
    names = [name for command in COMMANDS for name in command.names]
    begun = [name for name in names if len(word) > 1 and name.startswith(word.lower())]
    near = begun or difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.7)
    meant = f"Did you mean {near[0]}? " if near else ""
    return (
        f"There is no command {word}. {meant}Type /help, or a space before a message with a slash."
    )


def _nobody(_: str) -> str:
    raise EOFError
