"""The history of one chat."""

from pathlib import Path
from typing import NamedTuple

from gpt2chat.core.chat.chats import read_chat, save_chat
from gpt2chat.core.chat.window import (
    UNWRITTEN,
    Layout,
    before_message,
    fitted,
    lay_out,
    length,
    length_before_message,
    over_room,
)
from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.text.conversations import Conversation, Message, Role
from gpt2chat.core.text.tokens import WINDOW, encode_conversation, encode_text


class Prompt(NamedTuple):
    """What the model reads to answer the latest message."""

    ids: list[int]
    left: int
    """Messages that this turn pushed out of the window."""


class Session:
    """One chat. The system prompt, the document and the latest message always stay in the window;
    the oldest exchange leaves it first. What has left is still saved.
    """

    def __init__(self, system: str | None = None, window: int = WINDOW):
        """Begin an empty chat; `system` is the template's own where it is not given.

        Raises:
            DataError: The system prompt is empty, or takes more than half the window.
        """
        self.window = window
        self._head: list[Message] = []
        self._turns: list[Message] = []
        self._before: list[Message] = []
        self._left = 0
        if system is not None:
            self.set_system(system)

    @property
    def turns(self) -> tuple[Message, ...]:
        """All user and assistant messages, oldest first, those that left the window too."""
        return tuple(self._turns)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns after the system prompt and the document, where these are set."""
        return (*self._head, *self._turns)

    @property
    def system(self) -> str:
        """The system prompt, the template's own where none is set."""
        return self._conversation(UNWRITTEN).system

    @property
    def document(self) -> str | None:
        """The document in the context block."""
        return next((part.content for part in self._head if part.role == "context"), None)

    def set_system(self, text: str | None) -> None:
        """Set the system prompt from the next turn on; None for the template's own.

        Raises:
            DataError: It is empty, takes more than half the window, or with the document more than
                leaves room for a message.
        """
        self._set_head("system", text, "The system prompt")

    def set_document(self, text: str | None) -> None:
        """Put a document into the context block from the next turn on; None takes it out.

        Raises:
            DataError: It is empty, takes more than half the window, or with the system prompt
                more than leaves room for a message.
        """
        self._set_head("context", text, "The document")

    def ask(self, text: str, max_new_tokens: int) -> Prompt:
        """Add a user message and return what the model reads.

        The history makes room for a reply of `max_new_tokens`, up to half the window. A message
        that alone leaves less room than that has a shorter reply, 64 tokens at least.

        Raises:
            DataError: The message is empty or too long for the window. Nothing has changed.
        """
        message = _message("user", text, "The message")
        return self._prompt([*self._turns, message], max_new_tokens)

    def answer(self, text: str) -> bool:
        """Add the reply, whole or as far as it came, and return whether there was one.

        Where it is empty, all is as it was before the message, or before the retry.
        """
        if not text.strip():
            self._turns = self._before
            return False
        self._turns = [*self._turns, Message("assistant", text)]
        return True

    def take_back(self) -> bool:
        """Where no reply came to `ask` or `retry`, be as before it; return whether that was so."""
        waits = self._turns[-1:] and self._turns[-1].role == "user"
        if waits:
            self._turns = self._before
        return bool(waits)

    def retry(self, max_new_tokens: int) -> Prompt:
        """Drop the latest reply and return what the model reads to give another.

        Raises:
            DataError: There is no message to answer.
        """
        turns = self._turns[:-1] if self._replied else self._turns
        if not turns or turns[-1].role != "user":
            raise DataError("There is no message to answer again. Write one first.")
        return self._prompt(turns, max_new_tokens)

    def undo(self) -> str:
        """Take back the latest message of the user with its reply, and return its text.

        Raises:
            DataError: There is none.
        """
        users = [at for at, message in enumerate(self._turns) if message.role == "user"]
        if not users:
            raise DataError("There is nothing to undo.")
        taken = self._turns[users[-1]]
        self._turns = self._turns[: users[-1]]
        # What the message pushed out comes back with the next one, where there is room again.
        self._left = min(self._left, len(self._turns))
        return taken.content

    def clear(self) -> None:
        """Forget all messages; the system prompt and the document stay."""
        self._turns, self._left = [], 0

    @property
    def used(self) -> int:
        """Tokens of the window that the chat takes as it stands, the latest reply included."""
        inside = self._turns[self._left :]
        if self._replied:
            return min(length(self._conversation(*inside)), self.window)
        return min(length_before_message(self._conversation(*inside, UNWRITTEN)), self.window)

    def beginning(self, max_new_tokens: int) -> list[int]:
        """Return the tokens that the next prompt begins with, whatever usual message is typed.

        Raises:
            DataError: System prompt and document leave no room.
        """
        conversation = self._conversation(*self._turns, UNWRITTEN)
        return before_message(conversation, self.window, max_new_tokens)

    def layout(self, max_new_tokens: int) -> Layout:
        """Return how the model will read the chat to give its next reply.

        Raises:
            DataError: The latest message has no reply yet and is too long for the window.
        """
        waits = self._turns and self._turns[-1].role == "user"
        turns = self._turns if waits else [*self._turns, UNWRITTEN]
        return lay_out(self._conversation(*turns), self.window, max_new_tokens)

    def save(self, path: Path) -> None:
        """Write the chat as one line of JSON, which `gpt2chat prepare --chat` reads too.

        Raises:
            DataError: There is nothing to save, or the file is there and is no saved chat.
            StorageError: The file cannot be written.
        """
        if not self._turns:
            raise DataError("There is nothing to save. Write a message first.")
        save_chat(path, self.messages)

    def load(self, path: Path) -> None:
        """Replace the chat by a saved one.

        Raises:
            DataError: The file is no saved chat, or what always stays takes too much of the window.
                Nothing has changed.
        """
        self.replace(read_chat(path), str(path))

    def replace(self, conversation: Conversation, source: str) -> None:
        """Replace the chat by another.

        Raises:
            DataError: What always stays takes too much of the window. Nothing has changed.
        """
        head = [part for part in conversation.messages if part.role in ("system", "context")]
        for part in head:
            what = "system prompt" if part.role == "system" else "document"
            self._check_half(part, f"The {what} of {source}")
        self._check_together(head, f" of {source}")
        self._head, self._turns, self._left = head, list(conversation.turns), 0

    @property
    def latest(self) -> tuple[Conversation, str]:
        """The latest reply, and all that stood before it.

        Raises:
            DataError: There is no reply yet.
        """
        if not self._replied:
            raise DataError("There is no reply yet. Write a message first.")
        return self._conversation(*self._turns[:-1]), self._turns[-1].content

    def edit(self, text: str) -> None:
        """Replace the latest reply by another text.

        Raises:
            DataError: There is no reply yet, or the text is empty.
        """
        message = _message("assistant", text, "The reply")
        _ = self.latest
        self._turns = [*self._turns[:-1], message]

    @property
    def _replied(self) -> bool:
        return [message.role for message in self._turns[-2:]] == ["user", "assistant"]

    def _conversation(self, *turns: Message) -> Conversation:
        return Conversation((*self._head, *turns))

    def _set_head(self, role: Role, text: str | None, what: str) -> None:
        others = [part for part in self._head if part.role != role]
        if text is not None:
            message = _message(role, text, what)
            self._check_half(message, what)
            # The system prompt stands before the document.
            others = [message, *others] if role == "system" else [*others, message]
            self._check_together(others)
        self._head = others

    def _check_half(self, message: Message, what: str) -> None:
        tokens, most = len(encode_text(message.content)), self.window // 2
        if tokens > most:
            raise DataError(f"{what} has {tokens:,} tokens; at most {most:,} fit. Shorten it.")

    def _check_together(self, head: list[Message], of: str = "") -> None:
        over = over_room(head, self.window)
        if len(head) > 1 and over > 0:
            tokens = sum(len(encode_text(part.content)) for part in head)
            raise DataError(
                f"The system prompt and the document{of} have {tokens:,} tokens together; at most "
                f"{max(tokens - over, 0):,} fit. Shorten one."
            )

    def _prompt(self, turns: list[Message], max_new_tokens: int) -> Prompt:
        whole = self._conversation(*turns)
        prompt = fitted(whole, self.window, max_new_tokens)
        left = len(whole.turns) - len(prompt.turns)
        pushed = max(left - self._left, 0)
        self._before, self._turns, self._left = self._turns, turns, left
        return Prompt(encode_conversation(prompt).ids, pushed)


def _message(role: Role, text: str, what: str) -> Message:
    try:
        return Message(role, text)
    except RowError as error:
        raise DataError(f"{what} cannot be used: {error.reason}.") from error
