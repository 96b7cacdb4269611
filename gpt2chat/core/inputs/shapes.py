"""The shapes of records that others write, each to conversations or to a preference."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from gpt2chat.core.errors import ConfigError, RowError
from gpt2chat.core.inputs.hh import is_transcript, parse_transcript
from gpt2chat.core.text.conversations import (
    ROLES,
    Conversation,
    Message,
    Preference,
    Role,
)

Row = Mapping[str, Any]
S = TypeVar("S", bound="ChatShape | PreferenceShape")

MOST_MESSAGES = 2_000
"""A longer conversation is refused: each of its replies would carry all before it."""
STANDARD: dict[str, Role] = {role: cast(Role, role) for role in ROLES}
SHAREGPT: dict[str, Role] = {
    "system": "system",
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant"),
}
TOOLS = (
    *("tool", "tool_call", "tool_response", "observation", "ipython"),
    *("function", "function_call", "function_response"),
)
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)


class Filtered(RowError):
    """A sound record that is not wanted: counted under its reason, and not kept aside."""


class ChatShape(NamedTuple):
    """How records of one shape become samples."""

    name: str
    """What a user types to force it."""
    title: str
    """What a user is told."""
    keys: tuple[str, ...]
    """Fields that every record of the shape has."""
    convert: Callable[[Row], list[Conversation]]
    """Raises RowError, and nothing else on any record that JSON can hold."""
    fits: Callable[[Row], bool] | None = None
    """Whether a record with these fields is of the shape, where that hangs on more."""


class PreferenceShape(NamedTuple):
    """How records of one shape become a pair; the fields are those of `ChatShape`."""

    name: str
    title: str
    keys: tuple[str, ...]
    convert: Callable[[Row], Preference]
    fits: Callable[[Row], bool] | None = None


def detect(row: Row, shapes: Sequence[S]) -> S | None:
    """Return the first shape that the record has."""
    for shape in shapes:
        if has_keys(row, shape.keys) and (shape.fits is None or shape.fits(row)):
            return shape
    return None


def shape_named(name: str, shapes: Sequence[S]) -> S:
    """Return the shape of this name.

    Raises:
        ConfigError: There is none.
    """
    for shape in shapes:
        if shape.name == name:
            return shape
    known = ", ".join(shape.name for shape in shapes) or "none can be given here"
    raise ConfigError(f"{name!r} is no known shape. Known: {known}.")


def has_keys(row: Row, keys: Sequence[str]) -> bool:
    """Return whether the record has these fields. In a table, a field left empty is None."""
    return all(row.get(key) is not None for key in keys)


def _field(row: Row, *names: str) -> Any:
    """Return the first of these fields that is there."""
    for name in names:
        value = row.get(name)
        if value is not None:
            return value
    raise RowError(f"no field {names[0]}")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{name} is not text")
    return value


def _conversation(value: Any, name: str) -> Conversation:
    """Return the conversation in a list of `{"role": …, "content": …}`."""
    return Conversation(tuple(map(_message, _entries(value, name))))


def _message(entry: Row) -> Message:
    role = _role(entry.get("role"), STANDARD)
    return Message(role, _content(entry.get("content"), role))


def _entries(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise RowError(f"field {name} is not a list of messages")
    entries = cast(list[Any], value)
    if len(entries) > MOST_MESSAGES:
        raise RowError(f"more than {MOST_MESSAGES:,} messages")
    if not all(isinstance(entry, dict) for entry in entries):
        raise RowError("message is not an object")
    return entries


def _role(value: Any, roles: Mapping[str, Role]) -> Role:
    role = roles.get(value) if isinstance(value, str) else None
    if role is not None:
        return role
    if isinstance(value, str) and value in TOOLS:
        raise RowError("tool message")
    raise RowError(f"unknown role {brief(value)}")


def brief(value: Any) -> str:
    """Return a value as the reason of a `RowError` may name it: a word, or only its type."""
    return repr(value[:20])[:20] if isinstance(value, str) else type(value).__name__


def _content(value: Any, role: Role) -> str:
    """Return the content of a message: a text, or a list of parts that are texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_part(part) for part in cast(list[Any], value))
    if value is None and role == "assistant":
        raise RowError("assistant message without content")
    raise RowError("message content is not text")


def _part(part: Any) -> str:
    if isinstance(part, dict):
        entry = cast(dict[str, Any], part)
        if entry.get("type") == "text" and isinstance(entry.get("text"), str):
            return entry["text"]
    raise RowError("message content has a part that is not text")


def _samples(conversation: Conversation) -> list[Conversation]:
    samples = list(conversation.samples())
    if not samples:
        raise RowError("no assistant message to train on")
    return samples


def _messages(row: Row) -> list[Conversation]:
    return _samples(_conversation(_field(row, "messages"), "messages"))


def _sharegpt(row: Row) -> list[Conversation]:
    turns = _entries(_field(row, "conversations"), "conversations")
    return _samples(Conversation(tuple(map(_sharegpt_message, turns))))


def _sharegpt_message(turn: Row) -> Message:
    speaker, said = turn.get("from"), turn.get("value")
    role = _role(turn.get("role") if speaker is None else speaker, SHAREGPT)
    return Message(role, _content(turn.get("content") if said is None else said, role))


def _prompt_completion(row: Row) -> list[Conversation]:
    prompt = _prompt(_field(row, "prompt"))
    reply = _reply(_field(row, "completion"), "completion")
    if row.get("label") is False:  # TRL's unpaired preferences: one reply, good or bad
        raise Filtered("reply labelled as bad")
    return [prompt.with_reply(reply)]


def _prompt(value: Any) -> Conversation:
    """Return the prompt in a text or a list of messages."""
    if isinstance(value, str):
        return Conversation((Message("user", value),))
    prompt = _conversation(value, "prompt")
    if prompt.reply is not None:
        raise RowError("prompt ends with an assistant message")
    return prompt


def _reply(value: Any, name: str) -> str:
    """Return the reply in a text or a list of one assistant message."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(cast(list[Any], value)) == 1:
        only = cast(list[Any], value)[0]
        if isinstance(only, dict):
            message = cast(dict[str, Any], only)
            if message.get("role") == "assistant":
                return _content(message.get("content"), "assistant")
    raise RowError(f"{name} is neither text nor one assistant message")


def _alpaca(row: Row) -> list[Conversation]:
    user = Message("user", _text(_field(row, "instruction"), "instruction"))
    reply = Message("assistant", _text(_field(row, "output", "response"), "output"))
    return [Conversation((*_document(row), user, reply))]


def _document(row: Row) -> list[Message]:
    for name in ("input", "context"):
        value = row.get(name)
        if value is not None and _text(value, name).strip():
            return [Message("context", value)]
    return []


def _has_output(row: Row) -> bool:
    return has_keys(row, ("output",)) or has_keys(row, ("response",))


CHAT_SHAPES = (
    ChatShape("messages", "messages", ("messages",), _messages),
    ChatShape("sharegpt", "conversations (ShareGPT)", ("conversations",), _sharegpt),
    ChatShape(
        "prompt-completion", "prompt/completion", ("prompt", "completion"), _prompt_completion
    ),
    ChatShape("alpaca", "instruction/output (Alpaca)", ("instruction",), _alpaca, _has_output),
)


def _prompted_pair(row: Row) -> Preference:
    chosen, rejected = _field(row, "chosen"), _field(row, "rejected")
    if _is_whole(chosen) and _is_whole(rejected):
        return _whole_pair(row)  # some data sets repeat the prompt as a text of its own
    _refuse_tie(row)
    prompt = _prompt(_field(row, "prompt"))
    return Preference(prompt, _side(chosen, "chosen"), _side(rejected, "rejected"))


def _is_whole(side: Any) -> bool:
    return isinstance(side, list) and len(cast(list[Any], side)) > 1


def _side(value: Any, name: str) -> str:
    text = _reply(value, name)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError("text with a lone surrogate") from None
    return text


def _whole_pair(row: Row) -> Preference:
    _refuse_tie(row)
    sides = (_conversation(_field(row, name), name) for name in ("chosen", "rejected"))
    return _pair(*sides)


def _hh(row: Row) -> Preference:
    _refuse_tie(row)
    texts = (_text(_field(row, name), name) for name in ("chosen", "rejected"))
    return _pair(*map(parse_transcript, texts))


def _pair(chosen: Conversation, rejected: Conversation) -> Preference:
    """Return the pair whose prompt is the common beginning of both sides."""
    if chosen.reply is None or rejected.reply is None:
        raise RowError("a side does not end with an assistant message")
    if chosen.messages[:-1] != rejected.messages[:-1]:
        raise RowError("the sides differ before the last reply")
    return Preference(chosen.prompt, chosen.reply.content, rejected.reply.content)


def _refuse_tie(row: Row) -> None:
    for names in SCORES:
        chosen, rejected = (row.get(name) for name in names)
        if isinstance(chosen, int | float) and chosen == rejected:
            raise Filtered("score tie")


def _are_lists(row: Row) -> bool:
    return isinstance(row["chosen"], list) and isinstance(row["rejected"], list)


def _are_transcripts(row: Row) -> bool:
    return is_transcript(row["chosen"]) and is_transcript(row["rejected"])


PREFERENCE_SHAPES = (
    PreferenceShape(
        "preference", "prompt/chosen/rejected", ("prompt", "chosen", "rejected"), _prompted_pair
    ),
    PreferenceShape(
        "chosen-rejected", "chosen/rejected", ("chosen", "rejected"), _whole_pair, _are_lists
    ),
    PreferenceShape(
        "hh", "transcripts (Anthropic HH)", ("chosen", "rejected"), _hh, _are_transcripts
    ),
)

FEEDBACK_SHAPES: tuple[ChatShape | PreferenceShape, ...] = (
    shape_named("preference", PREFERENCE_SHAPES),
    shape_named("prompt-completion", CHAT_SHAPES),
)
"""What `chat` writes of a user's opinions, one kind after the other in one file."""
