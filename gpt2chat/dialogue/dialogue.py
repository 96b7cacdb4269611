"""Hold the state of a chat in a terminal, show its replies, and save it after each turn."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2chat import report
from gpt2chat.core.chat.chat import Chat, Stream
from gpt2chat.core.chat.chats import Autosave
from gpt2chat.core.chat.session import Session
from gpt2chat.core.errors import DataError, StorageError
from gpt2chat.dialogue.models import Models
from gpt2chat.dialogue.text import as_typed
from gpt2chat.interrupts import OneInterrupt
from gpt2chat.threads import Background

if TYPE_CHECKING:
    from gpt2chat.core.chat.model import ChatModel
    from gpt2chat.core.generation.reply import Reply, ReplyStream


class Dialogue:
    """A chat, the models that answer in it, and what the terminal remembers between two lines."""

    def __init__(
        self,
        chat: Chat,
        models: Models,
        *,
        autosave: Autosave | None = None,
        history: Path | None = None,
    ):
        """Begin a chat, or resume the one that `chat` holds.

        Args:
            autosave: Saves the chat after each turn; None to save nothing.
            history: File of typed lines.
        """
        self.chat = chat
        self.models = models
        self.autosave = autosave
        self.history = history
        self.wins: dict[str, int] = {}
        """Votes in `/compare` by model, and the number of ties and of votes for none."""
        self.draft = ""
        """Text for the user to edit at the next prompt."""
        self.drafts = False
        """Whether the prompt can begin with a draft."""
        self.question: Callable[[str], str] = input
        """Asks the user; raises EOFError or KeyboardInterrupt if there is no answer."""
        self.interrupt = OneInterrupt()
        self.background = Background()
        self._saved = self.session.messages

    @property
    def session(self) -> Session:
        """The messages of the chat."""
        return self.chat.session

    def model(self) -> "ChatModel":
        """Return the model that answers, once it is loaded.

        Raises:
            Gpt2ChatError: It cannot be loaded.
        """
        model = self.loaded(self.models.first)
        self.chat.use(model.generator)
        return model

    def loaded(self, name: str) -> "ChatModel":
        """Return a model, once it is loaded.

        Raises:
            Gpt2ChatError: It cannot be loaded.
        """
        loading = self.models.loading(name)
        if not loading.done():
            report.note(f"Loading {name} …")
        return loading.result()

    def ask(self, text: str) -> None:
        """Answer a message. Without a reply, the message returns to the prompt.

        Raises:
            DataError: It is empty or too long for the window.
            ReplyError: The model gave no reply.
        """
        try:
            stream = self.chat.stream(text)
        except DataError:
            self.draft = as_typed(text)  # to be corrected
            raise
        try:
            with stream:
                self.save()  # the terminal may be closed before the reply is complete
                self.answer(stream)
        finally:
            if not stream.reply.text.strip():
                self.draft = as_typed(text)

    def answer(self, stream: Stream) -> None:
        """Show a reply as it comes. Ctrl-C stops it, and the text so far stays in the chat.

        Raises:
            ReplyError: The model gave no reply.
        """
        self.report_left_window(stream.left_window)
        with stream:
            self.show(stream)
        reply = stream.reply
        if not reply.text:
            report.note("No reply, so your message is taken back. Ask again, or in other words.")
            return
        report.show_speed(reply)
        if reply.repeated:
            report.note("The model has said this before. Type /retry, or /clear to start over.")

    def show(self, pieces: "Stream | ReplyStream") -> "Reply":
        """Write a reply as it comes, until its end or Ctrl-C; return it."""
        # From here on there is something to stop. Before, Ctrl-C ends the whole line.
        self.interrupt.allow_one()
        try:
            report.show_reply(pieces)
            self.interrupt.ignore()
        except KeyboardInterrupt:
            pieces.cancel()
        return pieces.reply

    def report_left_window(self, messages: int) -> None:
        """Print how many messages a turn pushed out of the window."""
        if messages:
            what = "oldest message" if messages == 1 else f"oldest {messages} messages"
            report.note(f"The {what} left the window.")

    def save(self) -> None:
        """Write the chat to its file if it has changed."""
        messages = self.session.messages
        if self.autosave is None or messages == self._saved:
            return
        try:
            self.autosave.write(messages, self.models.names, self.session.cut_messages)
            self._saved = messages
        except (StorageError, OSError) as error:
            report.note(f"This chat is no longer saved automatically; use /save: {error}")
            self.autosave = None  # the note appears once, not after each turn
