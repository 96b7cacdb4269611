"""Keep the messages of one chat, and fit the next prompt into the window."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gpt2chat.core.chat.chats import read_chat, save_chat
from gpt2chat.core.chat.window import (
    SHORTEST_REPLY,
    UNWRITTEN,
    USUAL_MESSAGE,
    Layout,
    before_message,
    fitted,
    lay_out,
    length,
)
from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.text.conversations import Conversation, Message, Role
from gpt2chat.core.text.tokens import WINDOW, encode_conversation, encode_text, exchanges


class Prompt(NamedTuple):
    """What the model reads to answer the latest message."""

    ids: list[int]
    left: int
    """Number of messages that this prompt pushed out of the window."""


class Session:
    """The messages of one chat.

    The system prompt, the document and the latest message always stay in the window; the oldest
    exchange leaves it first. Messages that have left the window are still saved.
    """

    def __init__(self, system: str | None = None, window: int = WINDOW):
        """Begin an empty chat; without `system`, with the template's own system prompt.

        Raises:
            DataError: The system prompt takes more than half the window.
        """
        self.window = window
        self._head: list[Message] = []
        self._turns: list[Message] = []
        self._before: list[Message] = []
        """Turns before the latest `ask` or `retry`, to return to if no reply comes."""
        self._left = 0
        """Number of the oldest turns that have left the window."""
        self._cut: set[int] = set()
        """Positions in `_turns` of the replies that the model did not end itself."""
        if system is not None:
            self.set_system(system)

    @property
    def turns(self) -> tuple[Message, ...]:
        """All user and assistant messages, oldest first, those that left the window too."""
        return tuple(self._turns)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The system prompt and the document, if they are set, and the turns."""
        return (*self._head, *self._turns)

    @property
    def system(self) -> str:
        """The system prompt; the template's own if none is set."""
        return self._conversation(UNWRITTEN).system

    @property
    def document(self) -> str | None:
        """The document in the context block."""
        return next((part.content for part in self._head if part.role == "context"), None)

    def set_system(self, text: str | None) -> None:
        """Set the system prompt from the next turn on; the template's own if there is no text.

        Raises:
            DataError: The text takes more than half the window or, together with the document,
                leaves no room for a message.
        """
        self._set_head("system", text if text and text.strip() else None, "The system prompt")

    def set_document(self, text: str | None) -> None:
        """Put a document into the context block from the next turn on; None removes it.

        Raises:
            DataError: The text is empty, takes more than half the window or, together with the
                system prompt, leaves no room for a message.
        """
        self._set_head("context", text, "The document")

    def check(self, text: str, max_new_tokens: int) -> None:
        """Raise the error that `ask` would raise, and change nothing."""
        message = _message("user", text, "The message")
        fitted(self._conversation(*self._turns, message), self.window, max_new_tokens)

    def ask(self, text: str, max_new_tokens: int) -> Prompt:
        """Add a user message and return the prompt for its reply.

        The history makes room for a reply of `max_new_tokens`, up to half the window. If the
        message alone leaves less room than that, the reply may be shorter: at least 64 tokens.

        Raises:
            DataError: The message is empty or too long for the window. The chat is unchanged.
        """
        message = _message("user", text, "The message")
        return self._prompt([*self._turns, message], max_new_tokens)

    def answer(self, text: str, *, cut: bool = False) -> bool:
        """Add the reply and return True; undo the `ask` or `retry` if the reply is empty.

        Args:
            cut: Whether something other than the model ended the reply.
        """
        if not text.strip():
            self._turns = self._before
            return False
        # A new list: `_before` may be the old one.
        self._turns = [*self._turns, Message("assistant", text)]
        place = len(self._turns) - 1
        self._cut = {at for at in self._cut if at < place} | ({place} if cut else set())
        return True

    def take_back(self) -> bool:
        """Undo an `ask` or `retry` that got no reply; return whether there was one to undo."""
        unanswered = bool(self._turns) and self._turns[-1].role == "user"
        if unanswered:
            self._turns = self._before
        return unanswered

    def retry(self, max_new_tokens: int) -> Prompt:
        """Drop the latest reply and return the prompt for another.

        Raises:
            DataError: There is no message to answer.
        """
        turns = self._turns[:-1] if self._replied else self._turns
        if not turns or turns[-1].role != "user":
            raise DataError("There is no message to answer again. Write one first.")
        return self._prompt(turns, max_new_tokens)

    def undo(self) -> str:
        """Take back the latest user message and its reply; return the message's text.

        Raises:
            DataError: There is no message.
        """
        users = [at for at, message in enumerate(self._turns) if message.role == "user"]
        if not users:
            raise DataError("There is nothing to undo.")
        message = self._turns[users[-1]]
        self._turns = self._turns[: users[-1]]
        self._cut = {at for at in self._cut if at < users[-1]}
        # What the message pushed out returns with the next one, if there is room.
        self._left = min(self._left, len(self._turns))
        return message.content

    def clear(self) -> None:
        """Forget all messages; the system prompt and the document stay."""
        self._turns, self._left, self._cut = [], 0, set()

    @property
    def used(self) -> int:
        """Number of tokens in the window, the latest reply included."""
        inside = self._turns[self._left :]
        if self._replied:
            return min(length(self._conversation(*inside)), self.window)
        return min(len(before_message(self._conversation(*inside, UNWRITTEN))), self.window)

    def beginning(self, max_new_tokens: int) -> list[int]:
        """Return the tokens that the next prompt begins with, if its message is not long.

        Raises:
            DataError: The system prompt and the document leave no room.
        """
        conversation = self._conversation(*self._turns, UNWRITTEN)
        return list(before_message(fitted(conversation, self.window, max_new_tokens)))

    def layout(self, max_new_tokens: int) -> Layout:
        """Return the prompt of the next reply, part by part.

        Raises:
            DataError: The latest message has no reply yet and is too long for the window.
        """
        return lay_out(self._next_prompt(), self.window, max_new_tokens)

    def leaves_next(self, max_new_tokens: int) -> tuple[Message, ...]:
        """Return the oldest exchange in the window, which leaves it first; empty without history.

        Raises:
            DataError: The latest message has no reply yet and is too long for the window.
        """
        prompt = fitted(self._next_prompt(), self.window, max_new_tokens)
        groups = exchanges(prompt.history)
        return tuple(groups[0]) if groups else ()

    def save(self, path: Path) -> None:
        """Write the chat as one line of JSON, which `prepare(chat=FILE)` reads too.

        Raises:
            DataError: There is nothing to save, or the file exists and is not a saved chat.
            StorageError: The file cannot be written.
        """
        if not self._turns:
            raise DataError("There is nothing to save. Write a message first.")
        save_chat(path, self.messages, self.cut_messages)

    def load(self, path: Path) -> None:
        """Replace the chat with a saved one.

        Raises:
            DataError: The file is not a saved chat, or its system prompt and document take too much
                of the window. The chat is unchanged.
        """
        chat = read_chat(path)
        self.replace(chat.conversation, str(path), chat.cut)

    def replace(self, conversation: Conversation, source: str, cut: Iterable[int] = ()) -> None:
        """Replace the chat with another.

        Args:
            source: Where the conversation comes from, for error messages.
            cut: Positions among its messages of the replies that the model did not end itself.

        Raises:
            DataError: The system prompt and the document take too much of the window. The chat is
                unchanged.
        """
        # All checks come first: a chat that cannot be loaded must not lose the present one.
        head = [part for part in conversation.messages if part.role in ("system", "context")]
        for part in head:
            what = "system prompt" if part.role == "system" else "document"
            self._check_half(part, f"The {what} of {source}")
        self._check_together(head, f" of {source}")
        self._head, self._turns, self._left = head, list(conversation.turns), 0
        self._cut = {at - len(head) for at in cut}

    @property
    def cut_messages(self) -> set[int]:
        """Positions in `messages` of the replies that the model did not end itself."""
        return {len(self._head) + at for at in self._cut if at < len(self._turns)}

    @property
    def is_cut(self) -> bool:
        """Whether something other than the model ended the latest reply."""
        return len(self._turns) - 1 in self._cut

    @property
    def latest(self) -> tuple[Conversation, str]:
        """The latest reply, after the conversation before it.

        Raises:
            DataError: There is no reply yet.
        """
        if not self._replied:
            raise DataError("There is no reply yet. Write a message first.")
        return self._conversation(*self._turns[:-1]), self._turns[-1].content

    def edit(self, text: str, *, cut: bool = False) -> None:
        """Replace the latest reply with another text.

        Args:
            cut: Whether the text ends before its writer would have ended it.

        Raises:
            DataError: There is no reply yet, or the text is empty.
        """
        message = _message("assistant", text, "The reply")
        _ = self.latest  # raises if there is no reply
        self._turns = [*self._turns[:-1], message]
        place = len(self._turns) - 1
        self._cut = self._cut - {place} | ({place} if cut else set())

    @property
    def _replied(self) -> bool:
        """Whether the latest message has its reply."""
        return [message.role for message in self._turns[-2:]] == ["user", "assistant"]

    def _next_prompt(self) -> Conversation:
        """Return the conversation up to the message that the model answers next."""
        unanswered = self._turns and self._turns[-1].role == "user"
        return self._conversation(*self._turns, *(() if unanswered else (UNWRITTEN,)))

    def _conversation(self, *turns: Message) -> Conversation:
        return Conversation((*self._head, *turns))

    def _set_head(self, role: Role, text: str | None, what: str) -> None:
        others = [part for part in self._head if part.role != role]
        if text is not None:
            message = _message(role, text, what)
            self._check_half(message, what)
            # The template puts the system prompt before the document.
            others = [message, *others] if role == "system" else [*others, message]
            self._check_together(others)
        self._head = others

    def _check_half(self, message: Message, what: str) -> None:
        tokens, most = len(encode_text(message.content)), self.window // 2
        if tokens > most:
            raise DataError(f"{what} has {tokens:,} tokens; at most {most:,} fit. Shorten it.")

    def _check_together(self, head: list[Message], of: str = "") -> None:
        # What they leave must hold a usual message and the shortest reply; less in a small window.
        room = min(SHORTEST_REPLY, self.window // 2) + min(USUAL_MESSAGE, self.window // 8)
        over = length(Conversation((*head, UNWRITTEN))) + room - self.window
        if len(head) > 1 and over > 0:
            tokens = sum(len(encode_text(part.content)) for part in head)
            raise DataError(
                f"The system prompt and the document{of} have {tokens:,} tokens together; at most "
                f"{max(tokens - over, 0):,} fit. Shorten one."
            )

    def _prompt(self, turns: list[Message], max_new_tokens: int) -> Prompt:
        prompt = fitted(self._conversation(*turns), self.window, max_new_tokens)
        left = len(turns) - len(prompt.turns)
        # With a shorter document, turns come back into the window: nothing to report.
        pushed = max(left - self._left, 0)
        self._before, self._turns, self._left = self._turns, turns, left
        return Prompt(encode_conversation(prompt).ids, pushed)


def _message(role: Role, text: str, what: str) -> Message:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Python reads a byte that is not UTF-8 as a lone surrogate.
        raise DataError(f"{what} is not valid UTF-8. Type it again.") from None
    try:
        return Message(role, text)
    except RowError as error:
        raise DataError(f"{what} cannot be used: {error.reason}.") from error
