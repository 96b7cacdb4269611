"""OASST1's message rows: trees of messages, and the conversations in them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gpt2chat.core.conversations import Conversation, Message, Role
from gpt2chat.core.errors import RowError
from gpt2chat.core.shapes import Filtered

KEYS = ("message_id", "text", "role")
"""Fields that every message row has, beside `parent_id`, which a root leaves empty."""

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
    """Among its siblings, 0 the best; infinite where there is none."""
    file: str
    line: int


def parse_message(row: Mapping[str, Any], file: str, line: int) -> TreeMessage:
    """Return the message in a row; emojis, labels and other fields are not looked at.

    Raises:
        RowError: A field is missing or of another kind.
    """
    for key in KEYS:
        if not isinstance(row.get(key), str):
            raise RowError(f"{key} is not text")
    if row["role"] not in ROLES:
        raise RowError(f"unknown role {row['role']!r}")
    parent, rank = row.get("parent_id"), row.get("rank")
    return TreeMessage(
        id=row["message_id"],
        parent=str(parent) if parent else None,
        tree=str(row.get("message_tree_id") or ""),
        role=ROLES[row["role"]],
        text=row["text"],
        lang=str(row.get("lang") or ""),
        deleted=row.get("deleted") is True,
        failed_review=row.get("review_result") is False,
        rank=float(cast(float, rank)) if isinstance(rank, int | float) else math.inf,
        file=file,
        line=line,
    )


class Trees:
    """Messages that know their way to the root."""

    def __init__(self, messages: Iterable[TreeMessage]):
        self.messages = {message.id: message for message in messages}

    def path(self, message: TreeMessage) -> list[TreeMessage]:
        """Return the messages from the root to this one; none where there is no whole path."""
        path = [message]
        seen = {message.id}
        while path[-1].parent is not None:
            parent = self.messages.get(path[-1].parent)
            if parent is None or parent.id in seen:
                return []
            seen.add(parent.id)
            path.append(parent)
        return path[::-1]

    def group(self, message: TreeMessage) -> str:
        """Return which tree the message stands in."""
        path = self.path(message)
        return message.tree or (path[0].id if path else message.id)

    def replies(self) -> Iterator[TreeMessage]:
        """Yield the assistant messages, in the order of their rows."""
        return (message for message in self.messages.values() if message.role == "assistant")

    def sample(self, reply: TreeMessage, lang: str, best: frozenset[str] | None) -> Conversation:
        """Return the reply with its path from the root.

        Args:
            lang: Of every message on the path, or `all`.
            best: Ids of the replies that may stand on the path; None for any.

        Raises:
            Filtered: It is an orphan, or the path has a message that is not wanted.
            RowError: The path is no conversation.
        """
        path = self.path(reply)
        reason = unwanted(path, lang)
        if reason:
            raise Filtered(reason)
        if best is not None and any(m.role == "assistant" and m.id not in best for m in path):
            raise Filtered("not the best-ranked reply")
        return to_conversation(path)

    def best(self, lang: str) -> frozenset[str]:
        """Return the ids of the wanted replies that no wanted sibling is ranked before."""
        wanted = [reply for reply in self.replies() if not unwanted(self.path(reply), lang)]
        lowest: dict[str | None, float] = {}
        for reply in wanted:
            lowest[reply.parent] = min(reply.rank, lowest.get(reply.parent, math.inf))
        return frozenset(reply.id for reply in wanted if reply.rank == lowest[reply.parent])

    def reference(self, lang: str) -> Iterator[tuple[TreeMessage, list[TreeMessage]]]:
        """Yield the paths that the reference project evaluates on, by the message that ends them.

        It takes the path of every message and cuts it to an even number of messages, so where a
        reply was answered its path comes once more for each answer. Deleted messages and those
        that failed review stay in. On OASST1's English validation split: 1,831 paths.
        """
        for message in self.messages.values():
            path = self.path(message)
            if len(path) >= 2 and _all_in(path, lang):
                yield message, path[: len(path) // 2 * 2]


def _all_in(path: Sequence[TreeMessage], lang: str) -> bool:
    return lang == ALL or all(message.lang == lang for message in path)


def unwanted(path: Sequence[TreeMessage], lang: str) -> str:
    """Return why a path is not trained on; empty where it is."""
    if not path:
        return ORPHAN
    if not _all_in(path, lang):
        return "another language"
    if any(message.deleted for message in path):
        return "deleted message"
    if any(message.failed_review for message in path):
        return "failed review"
    return ""


def to_conversation(path: Sequence[TreeMessage]) -> Conversation:
    """Return a path as a conversation.

    Raises:
        RowError: A message is empty, or the last is no reply to a user message.
    """
    conversation = Conversation(tuple(Message(message.role, message.text) for message in path))
    if conversation.reply is None:
        raise RowError("path does not end with a reply")
    return conversation
