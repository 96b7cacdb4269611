"""Messages, conversations and preferences: what every source becomes, checked when made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from gpt2chat.core.errors import RowError

Role = Literal["system", "context", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)

DEFAULT_SYSTEM = "You are a helpful assistant who converses with the user."


@dataclass(frozen=True, slots=True)
class Message:
    """One message; a `context` is a document that the user's message speaks of.

    Raises:
        RowError: The content is empty once white space is stripped from both ends, or holds half
            of a surrogate pair, which no encoding can write.
    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        content = self.content.strip()
        if not content:
            raise RowError(f"empty {self.role} message")
        try:
            content.encode()
        except UnicodeEncodeError:
            raise RowError("text with a lone surrogate") from None
        object.__setattr__(self, "content", content)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt, or a prompt and its reply.

        [system] [context] (user | assistant)* user [assistant]

    Everything before the last user message is its history; a last assistant message is the reply.

    Raises:
        RowError: The messages do not stand in that order.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        roles = [message.role for message in self.messages]
        if "user" not in roles:
            raise RowError("no user message")
        if "system" in roles[1:]:
            raise RowError("system message not at the beginning")
        turns = [role for role in roles if role in ("user", "assistant")]
        if roles.count("context") > 1:
            raise RowError("more than one context message")
        if roles[len(roles) - len(turns) :] != turns:
            raise RowError("context after the first turn")
        if turns[-1] == "assistant" and turns[-2:] != ["user", "assistant"]:
            raise RowError("reply without a user message before it")

    @property
    def system(self) -> str:
        """The system prompt, the default one where none is given."""
        first = self.messages[0]
        return first.content if first.role == "system" else DEFAULT_SYSTEM

    @property
    def document(self) -> Message | None:
        """The document of the context block, if there is one."""
        return next((message for message in self.messages if message.role == "context"), None)

    @property
    def turns(self) -> tuple[Message, ...]:
        """User and assistant messages, oldest first."""
        return tuple(message for message in self.messages if message.role in ("user", "assistant"))

    @property
    def reply(self) -> Message | None:
        """The assistant message that ends the conversation, if one does."""
        last = self.messages[-1]
        return last if last.role == "assistant" else None

    @property
    def user(self) -> Message:
        """The latest user message."""
        return self.messages[-1] if self.reply is None else self.messages[-2]

    @property
    def history(self) -> tuple[Message, ...]:
        """The turns before the latest user message."""
        return self.turns[: -1 if self.reply is None else -2]

    @property
    def prompt(self) -> "Conversation":
        """The same conversation without its reply."""
        return self if self.reply is None else Conversation(self.messages[:-1])

    def with_reply(self, text: str) -> "Conversation":
        """Return this prompt with `text` as its reply."""
        return Conversation((*self.prompt.messages, Message("assistant", text)))

    def with_history(self, history: Sequence[Message]) -> "Conversation":
        """Return this conversation with other earlier turns."""
        tail = self.messages[-1:] if self.reply is None else self.messages[-2:]
        head = self.messages[: len(self.messages) - len(self.turns)]
        return Conversation((*head, *history, *tail))

    def samples(self) -> Iterator["Conversation"]:
        """Yield one sample for each assistant message, with what stands before it as its prompt.

        An assistant message that follows no user message (a greeting) stays history.
        """
        for end in range(1, len(self.messages)):
            if self.messages[end].role == "assistant" and self.messages[end - 1].role == "user":
                yield Conversation(self.messages[: end + 1])

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the messages in the ecosystem's shape, for JSON."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with a chosen and a rejected reply.

    Raises:
        RowError: One of the replies is empty, or both are the same.
    """

    prompt: Conversation
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        if self.prompt.reply is not None:
            raise RowError("prompt ends with an assistant message")
        chosen, rejected = self.chosen.strip(), self.rejected.strip()
        if not chosen:
            raise RowError("empty chosen reply")
        if not rejected:
            raise RowError("empty rejected reply")
        if chosen == rejected:
            raise RowError("chosen and rejected replies are the same")
        object.__setattr__(self, "chosen", chosen)
        object.__setattr__(self, "rejected", rejected)


def parse_messages(value: Any) -> Conversation:
    """Return the conversation in a list of `{"role": …, "content": …}`.

    Raises:
        RowError: It is no such list, a role is unknown, a content no text, or the order wrong.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError("messages are not a list")
    messages: list[Message] = []
    for item in cast(Sequence[Any], value):
        if not isinstance(item, Mapping):
            raise RowError("message is not an object with role and content")
        entry = cast(Mapping[str, Any], item)
        role, content = entry.get("role"), entry.get("content")
        if role not in ROLES:
            raise RowError(f"unknown role {role!r}")
        if not isinstance(content, str):
            raise RowError("message content is not text")
        messages.append(Message(cast(Role, role), content))
    return Conversation(tuple(messages))
