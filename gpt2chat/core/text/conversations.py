"""Define messages, conversations and preferences, and parse lists of messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from gpt2chat.core.errors import RowError
from gpt2chat.core.text.bounded_json import parse_json

Role = Literal["system", "context", "user", "assistant"]
ROLE_NAMES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    "context": "context",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
}
"""The roles by the names that OpenAI, ShareGPT, OASST1 and Gemma use, in lower case."""
TOOL_CALL = "tool call"
TOOL_ROLES = frozenset(
    (
        *("tool", "tool_call", "tool_response", "tool_result", "observation", "ipython"),
        *("tools", "tool_calls", "tool_responses", "tool_results"),
        *("function", "function_call", "function_response"),
    )
)
PART_REASONS = {
    **dict.fromkeys(("image", "image_url", "input_image", "image_path"), "image"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audio"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
    **dict.fromkeys(("file", "input_file", "document"), "file"),
    **dict.fromkeys(("tool_use", "tool_call", "tool_result", "function_call"), TOOL_CALL),
    **dict.fromkeys(("python", "python_output"), TOOL_CALL),  # nanochat's calculator
}
"""Reasons why a content part cannot be trained as text, by its type."""

DEFAULT_SYSTEM = "You are a helpful assistant who converses with the user."


@dataclass(frozen=True, slots=True)
class Message:
    """One message; a `context` is a document that the user's message is about.

    White space at both ends of the content is stripped.

    Raises:
        RowError: The content is empty, or has half of a surrogate pair, which no encoding can
            write.
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
    """A prompt, or a prompt with its reply.

        [system] [context] (user | assistant)* user [assistant]

    The turns before the last user message are its history; an assistant message after it is the
    reply.

    Raises:
        RowError: The messages are in another order.
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
        """The system prompt; the default one if the conversation has none."""
        # Never none: with and without one would be two kinds of prompts to learn.
        first = self.messages[0]
        return first.content if first.role == "system" else DEFAULT_SYSTEM

    @property
    def document(self) -> Message | None:
        """The context message, if there is one."""
        return next((message for message in self.messages if message.role == "context"), None)

    @property
    def turns(self) -> tuple[Message, ...]:
        """User and assistant messages, oldest first."""
        return tuple(message for message in self.messages if message.role in ("user", "assistant"))

    @property
    def reply(self) -> Message | None:
        """The assistant message at the end, if there is one."""
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
        """Return this conversation with `history` in place of its own."""
        tail = self.messages[-1:] if self.reply is None else self.messages[-2:]
        head = self.messages[: len(self.messages) - len(self.turns)]
        return Conversation((*head, *history, *tail))

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the messages as objects with `role` and `content`, for JSON."""
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


class Turn(NamedTuple):
    """One entry of a list of messages."""

    role: Role
    text: str
    """The content. It may be empty, which `Message` refuses."""
    rest: dict[str, Any]
    """The other fields of the entry; those of a content part are named `content.NAME`."""


def parse_messages(value: Any) -> Conversation:
    """Return the conversation in a list of messages, in any spelling that `parse_turn` reads.

    Raises:
        RowError: The value is not a list of messages, a message is empty, or the order is wrong.
    """
    turns = map(parse_turn, message_list(value, "messages"))
    return Conversation(tuple(Message(turn.role, turn.text) for turn in turns))


def message_list(value: Any, name: str) -> Sequence[Any]:
    """Return the entries of a list of messages, which may be JSON text.

    Raises:
        RowError: The value is neither a list nor the JSON text of one, or it is empty.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            raise RowError(f"field {name} is not a list of messages") from None
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError(f"field {name} is not a list of messages")
    return cast(Sequence[Any], value)


def is_message_list(value: object) -> bool:
    """Return whether a value is a list of messages, not of other records that have a role."""
    entries = cast(list[Any], value) if isinstance(value, list) else []
    has_both = [
        {"role", "from"} & entry.keys() and {"content", "value"} & entry.keys()
        for entry in entries
        if isinstance(entry, dict)
    ]
    # Only the first message must have a content: one that calls a tool may lack it.
    return bool(entries) and len(has_both) == len(entries) and bool(has_both[0])


def parse_turn(entry: object) -> Turn:
    """Return one message in the spelling of OpenAI, ShareGPT, Gemma or nanochat.

        {"role": "user", "content": "Hi"}        {"from": "human", "value": "Hi"}
        {"role": "model", "content": [{"type": "text", "text": "Hello!"}]}

    Raises:
        RowError: The entry is not a message, its role is a tool or unknown, or its content is not
            text.
    """
    if not isinstance(entry, Mapping):
        raise RowError("message is not an object")
    rest = dict(cast(Mapping[str, Any], entry))
    role_name = _take(rest, "role", "from")
    name = role_name if isinstance(role_name, str) else ""
    role = ROLE_NAMES.get(name)
    if role is None:  # Most names are in lower case already, and a data set has millions.
        name = name.strip().lower().replace("-", "_")
        role = ROLE_NAMES.get(name)
    if role is None:
        raise RowError(TOOL_CALL if name in TOOL_ROLES else f"unknown role {brief(role_name)}")
    content = _take(rest, "content", "value", "text")
    if isinstance(content, list):
        return Turn(role, "\n".join(_part(part, rest) for part in cast(list[Any], content)), rest)
    if isinstance(content, dict):
        return Turn(role, _part(cast(dict[str, Any], content), rest), rest)
    if content is not None and not isinstance(content, str):
        raise RowError("message content is not text")
    return Turn(role, content or "", rest)


def brief(value: Any) -> str:
    """Return a value in a form short enough for a `RowError`: its first letters, or its type."""
    return repr(value[:20])[:20] if isinstance(value, str) else type(value).__name__


def _take(fields: dict[str, Any], *names: str) -> Any:
    for name in names:
        if fields.get(name) is not None:
            return fields.pop(name)
    return None


def _part(part: object, rest: dict[str, Any]) -> str:
    """Return the text of one content part, and add its other fields to `rest`."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RowError("message content has a part that is not text")
    fields = dict(cast(dict[str, Any], part))
    kind = _take(fields, "type")
    if kind is not None and kind not in ("text", "input_text", "output_text"):
        reason = PART_REASONS.get(kind) if isinstance(kind, str) else None
        raise RowError(reason or f"a part of type {brief(kind)}")
    text = _take(fields, "text", "value", "content")
    if not isinstance(text, str):
        raise RowError("message content has a part without text")
    rest.update({f"content.{name}": value for name, value in fields.items()})
    return text
