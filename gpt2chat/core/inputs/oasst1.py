"""Read OASST1's messages, from message rows or whole trees."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.fields import Fields
from gpt2chat.core.text.conversations import Conversation, Message, Role, brief

USED = (
    *("message_id", "parent_id", "message_tree_id", "text", "role", "lang"),
    *("deleted", "review_result", "rank", "replies"),
    "labels",  # the annotators' opinions of the message, which its rank sums up
)
KEYS = ("message_id", "text", "role")
"""Fields that every message row has, apart from `parent_id`, which a root leaves empty."""

ROLES: Mapping[str, Role] = {"prompter": "user", "user": "user", "assistant": "assistant"}
ORPHAN = "no whole path to a root"
ALL = "all"


@dataclass(frozen=True, slots=True)
class TreeMessage:
    """One message of a tree."""

    id: str
    parent: str | None
    tree: str
    role: Role
    text: str
    lang: str
    deleted: bool
    failed_review: bool
    rank: float
    """Rank among the siblings, 0 the best; infinite if the message is not ranked."""
    file: str
    line: int


def parse_message(row: Mapping[str, Any], file: str, line: int) -> TreeMessage:
    """Return the message in a row.

    Raises:
        RowError: A field is missing or has the wrong type, or the text has a lone surrogate.
    """
    for key in KEYS:
        if not isinstance(row.get(key), str):
            raise RowError(f"{key} is not text")
    if row["role"] not in ROLES:
        raise RowError(f"unknown role {brief(row['role'])}")
    name, text = row["message_id"], row["text"]
    optional: list[str] = []
    for key in ("parent_id", "message_tree_id", "lang"):
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            raise RowError(f"{key} is not text")
        optional.append(value or "")
    parent, tree, lang = optional
    try:
        f"{name}{parent}{tree}{lang}\n{text}".encode()
    except UnicodeEncodeError:
        raise RowError("text with a lone surrogate") from None
    return TreeMessage(
        id=name,
        parent=parent or None,
        tree=tree,
        role=ROLES[row["role"]],
        text=text,
        lang=lang,
        deleted=row.get("deleted") is True,
        failed_review=row.get("review_result") is False,
        rank=_rank(row.get("rank")),
        file=file,
        line=line,
    )


def unused_fields(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the fields of a message row that are unused and might matter."""
    fields = Fields(row)
    for name in USED:
        fields.take(name)
    return fields.unused()


def _rank(value: Any) -> float:
    """Return a rank; infinity if it is missing, not finite or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.inf
    try:
        return float(value) if math.isfinite(value) else math.inf
    except OverflowError:  # JSON allows integers that no float can hold.
        return math.inf


def is_tree(row: Mapping[str, Any]) -> bool:
    """Return whether a record is a whole tree, as in OASST1's files named `…trees.jsonl.gz`."""
    return "prompt" in row and "message_tree_id" in row and "message_id" not in row


def tree_rows(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the messages of a whole tree as message rows, parents before children.

    Raises:
        RowError: The tree is malformed, so none of its messages is used.
    """
    rows: list[dict[str, Any]] = []
    # A stack, not recursion: a thread may be deeper than Python's recursion limit.
    nodes: list[tuple[Any, str | None]] = [(row.get("prompt"), None)]
    while nodes:
        node, parent = nodes.pop()
        if not isinstance(node, dict):
            raise RowError("a message of the tree is not an object")
        message = cast(dict[str, Any], node)
        name, replies = message.get("message_id"), message.get("replies") or []
        if not isinstance(name, str) or not name:
            raise RowError("message_id is not text")
        if not isinstance(replies, list):
            raise RowError("replies are not a list")
        tree = row.get("message_tree_id") or (rows[0]["message_id"] if rows else name)
        rows.append({**message, "parent_id": parent, "message_tree_id": tree, "replies": None})
        nodes.extend((reply, name) for reply in reversed(cast(list[Any], replies)))
    return iter(rows)


def all_in(path: Sequence[TreeMessage], lang: str) -> bool:
    """Return whether every message of a path has this language; `all` accepts any."""
    return lang == ALL or all(message.lang == lang for message in path)


def unwanted(path: Sequence[TreeMessage], lang: str) -> str:
    """Return why a path is not trained on; empty if it is."""
    if not path:
        return ORPHAN
    if not all_in(path, lang):
        return "another language"
    if any(message.deleted for message in path):
        return "deleted message"
    if any(message.failed_review for message in path):
        return "failed review"
    return ""


def to_conversation(path: Sequence[TreeMessage]) -> Conversation:
    """Return a path as a conversation.

    Raises:
        RowError: A message is empty, or the last one is not a reply to a user message.
    """
    conversation = prompt_of(path)
    if conversation.reply is None:
        raise RowError("path does not end with a reply")
    return conversation


def prompt_of(path: Sequence[TreeMessage]) -> Conversation:
    """Return a path as a conversation, whoever speaks last.

    Raises:
        RowError: A message is empty, or the last two have the same role.
    """
    return Conversation(tuple(Message(message.role, message.text) for message in path))
