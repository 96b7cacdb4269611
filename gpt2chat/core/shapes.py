"""The shapes of records that others write, each to conversations or to a preference."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from gpt2chat.core.conversations import Conversation, Message, Preference, parse_messages
from gpt2chat.core.errors import RowError

Row = Mapping[str, Any]
S = TypeVar("S", "ChatShape", "PreferenceShape")

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


class Filtered(RowError):
    """A sound record that is not wanted: counted under its reason, and not kept aside."""


class ChatShape(NamedTuple):
    """How records of one shape become samples."""

    name: str
    keys: tuple[str, ...]
    """Fields that every record of the shape has."""
    convert: Callable[[Row], list[Conversation]]
    """Raises RowError."""


class PreferenceShape(NamedTuple):
    """How records of one shape become a pair."""

    name: str
    keys: tuple[str, ...]
    convert: Callable[[Row], Preference]
    """Raises RowError."""


def detect(row: Row, shapes: Sequence[S]) -> S | None:
    """Return the first shape whose fields the record has."""
    return next((shape for shape in shapes if has_keys(row, shape.keys)), None)


def has_keys(row: Row, keys: Sequence[str]) -> bool:
    """Return whether the record has these fields. In a table, a field left empty is None."""
    return all(row.get(key) is not None for key in keys)


def _text(row: Row, key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise RowError(f"{key} is not text")
    return value


def _messages(row: Row) -> list[Conversation]:
    return _samples(parse_messages(row["messages"]))


def _samples(conversation: Conversation) -> list[Conversation]:
    samples = list(conversation.samples())
    if not samples:
        raise RowError("no assistant message to train on")
    return samples


def _sharegpt(row: Row) -> list[Conversation]:
    turns = row["conversations"]
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise RowError("conversations are not a list")
    messages: list[dict[str, Any]] = []
    for turn in cast(Sequence[Any], turns):
        if not isinstance(turn, Mapping):
            raise RowError("turn is not an object with from and value")
        entry = cast(Row, turn)
        role = SHAREGPT_ROLES.get(str(entry.get("from")))
        if role is None:
            raise RowError(f"unknown speaker {entry.get('from')!r}")
        messages.append({"role": role, "content": entry.get("value")})
    return _samples(parse_messages(messages))


def _prompt_completion(row: Row) -> list[Conversation]:
    prompt = _prompt(row["prompt"])
    return [prompt.with_reply(_reply(row["completion"], "completion"))]


def _prompt(value: Any) -> Conversation:
    """Return the prompt in a text or a list of messages."""
    if isinstance(value, str):
        return Conversation((Message("user", value),))
    prompt = parse_messages(value)
    if prompt.reply is not None:
        raise RowError("prompt ends with an assistant message")
    return prompt


def _reply(value: Any, name: str) -> str:
    """Return the reply in a text or a list of one assistant message."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and len(cast(Sequence[Any], value)) == 1:
        only = cast(Sequence[Any], value)[0]
        if isinstance(only, Mapping):
            message = cast(Row, only)
            if message.get("role") == "assistant" and isinstance(message.get("content"), str):
                return message["content"]
    raise RowError(f"{name} is neither text nor one assistant message")


def _alpaca(row: Row) -> list[Conversation]:
    document = _text(row, "input") if row.get("input") is not None else ""
    head = (Message("context", document),) if document.strip() else ()
    user = Message("user", _text(row, "instruction"))
    return [Conversation((*head, user, Message("assistant", _text(row, "output"))))]


CHAT_SHAPES = (
    ChatShape("messages", ("messages",), _messages),
    ChatShape("conversations (ShareGPT)", ("conversations",), _sharegpt),
    ChatShape("prompt/completion", ("prompt", "completion"), _prompt_completion),
    ChatShape("instruction/output (Alpaca)", ("instruction", "output"), _alpaca),
)


def _prompted_pair(row: Row) -> Preference:
    chosen = row["chosen"]
    if _is_whole(chosen) and _is_whole(row["rejected"]):
        return _whole_pair(row)  # some data sets repeat the prompt as a text of its own
    _refuse_tie(row)
    prompt = _prompt(row["prompt"])
    return Preference(prompt, _reply(chosen, "chosen"), _reply(row["rejected"], "rejected"))


def _is_whole(side: Any) -> bool:
    return isinstance(side, Sequence) and not isinstance(side, str) and len(side) > 1


def _whole_pair(row: Row) -> Preference:
    """Return the pair whose prompt is the common beginning of both sides."""
    _refuse_tie(row)
    sides = [parse_messages(row[name]) for name in ("chosen", "rejected")]
    chosen, rejected = (side.messages for side in sides)
    if any(side.reply is None for side in sides):
        raise RowError("a side does not end with an assistant message")
    if chosen[:-1] != rejected[:-1]:
        raise RowError("the sides differ before the last reply")
    return Preference(sides[0].prompt, chosen[-1].content, rejected[-1].content)


def _refuse_tie(row: Row) -> None:
    score = row.get("score_chosen")
    if score is not None and score == row.get("score_rejected"):
        raise Filtered("score tie")


PREFERENCE_SHAPES = (
    PreferenceShape("prompt/chosen/rejected", ("prompt", "chosen", "rejected"), _prompted_pair),
    PreferenceShape("chosen/rejected", ("chosen", "rejected"), _whole_pair),
)
