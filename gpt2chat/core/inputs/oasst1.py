"""Read OASST1: its messages, the trees that they form, and the human ranks of replies.

All messages of a split are in memory, because a message may come before its parent.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any, NamedTuple, cast

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.fields import Fields
from gpt2chat.core.inputs.records import Record
from gpt2chat.core.inputs.shapes import Filtered
from gpt2chat.core.text.conversations import Conversation, Message, Preference, Role, brief

KEYS = ("message_id", "text", "role")
"""Fields that every message row has, apart from `parent_id`, which a root leaves empty."""
USED = (
    *(*KEYS, "parent_id", "message_tree_id", "lang", "deleted", "review_result", "rank"),
    *("replies", "labels"),  # labels are the annotators' opinions, which the rank sums up
)
ROLES: Mapping[str, Role] = {"prompter": "user", "user": "user", "assistant": "assistant"}
ALL = "all"
EXCLUSIONS = ("another language", "deleted message", "failed review")
"""Reasons for leaving out all paths over a message, the first of which is the one that counts."""
LONGEST_PATH = 1_000
"""Messages on a path. A longer thread fits no window, and takes long to follow."""


class TreeMessage(NamedTuple):
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

    def excluded(self, lang: str) -> str:
        """Return why the message is not used for training; empty if it is."""
        flags = (lang not in (ALL, self.lang), self.deleted, self.failed_review)
        return next(compress(EXCLUSIONS, flags), "")


def is_tree(row: Mapping[str, Any]) -> bool:
    """Return whether a record is a whole tree, as in OASST1's files named `…trees.jsonl.gz`."""
    return "prompt" in row and "message_tree_id" in row and "message_id" not in row


def message_rows(record: Record) -> list[Mapping[str, Any]]:
    """Return the message rows of a record: itself, or those of a whole tree, parents first.

    Raises:
        RowError: The record is broken, or a tree is malformed, so none of its messages is used.
    """
    if record.problem:
        raise RowError(record.problem)
    if not is_tree(record.value):
        return [record.value]
    rows: list[Mapping[str, Any]] = []
    # A stack, not recursion: a thread may be deeper than Python's recursion limit.
    nodes: list[tuple[Any, str | None]] = [(record.value.get("prompt"), None)]
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
        tree = record.value.get("message_tree_id") or (rows[0]["message_id"] if rows else name)
        rows.append({**message, "parent_id": parent, "message_tree_id": tree, "replies": None})
        nodes.extend((reply, name) for reply in reversed(cast(list[Any], replies)))
    return rows


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
    optional: list[str] = []
    for key in ("parent_id", "message_tree_id", "lang"):
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            raise RowError(f"{key} is not text")
        optional.append(value or "")
    parent, tree, lang = optional
    # A shard is UTF-8, which has no bytes for half of a surrogate pair.
    try:
        f"{row['message_id']}{parent}{tree}{lang}\n{row['text']}".encode()
    except UnicodeEncodeError:
        raise RowError("text with a lone surrogate") from None
    rank = row.get("rank")
    try:
        # To Python, True is the number 1.
        is_ranked = isinstance(rank, int | float) and not isinstance(rank, bool)
        rank = float(cast(float, rank)) if is_ranked else math.inf
    except OverflowError:  # JSON allows integers that no float can hold.
        rank = math.inf
    return TreeMessage(
        id=row["message_id"],
        parent=parent or None,
        tree=tree,
        role=ROLES[row["role"]],
        text=row["text"],
        lang=lang,
        deleted=row.get("deleted") is True,
        # Null if nobody has reviewed the message, which is not a failure.
        failed_review=row.get("review_result") is False,
        rank=rank if math.isfinite(rank) else math.inf,
        file=file,
        line=line,
    )


def unused_fields(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the fields of a message row that are unused and might matter."""
    fields = Fields(row)
    for name in USED:
        fields.take(name)
    return fields.unused()


class Thread(NamedTuple):
    """A path from the root, which becomes a sample, a reference conversation or a pair."""

    last: TreeMessage
    """The message that the path was followed to."""
    group: str
    """Id of the tree."""
    path: Sequence[TreeMessage]
    best: str = ""
    """For a pair, the text of the best-ranked reply to the path."""
    worst: str = ""

    def conversation(self) -> Conversation:
        """Return the path as a conversation that ends with a reply.

        Raises:
            RowError: A message is empty, or the last one is not a reply to a user message.
        """
        conversation = _conversation(self.path)
        if conversation.reply is None:
            raise RowError("path does not end with a reply")
        return conversation

    def preference(self) -> Preference:
        """Return the best-ranked reply against the worst.

        Raises:
            RowError: A message is empty, or both replies are the same.
        """
        return Preference(_conversation(self.path), self.best, self.worst)


def _conversation(path: Sequence[TreeMessage]) -> Conversation:
    return Conversation(tuple(Message(message.role, message.text) for message in path))


Outcome = tuple[TreeMessage, Thread | RowError]
"""A message, with its thread or the reason why it has none."""


class Trees:
    """The messages of one split, in the order in which they were read."""

    def __init__(self, messages: Iterable[TreeMessage], lang: str):
        self.repeated: list[TreeMessage] = []
        """Messages whose id came before; the first one is kept."""
        self._lang = lang
        self.by_id: dict[str, TreeMessage] = {}
        self._replies: defaultdict[str | None, list[TreeMessage]] = defaultdict(list)
        for message in messages:
            if self.by_id.setdefault(message.id, message) is not message:
                self.repeated.append(message)
            else:
                self._replies[message.parent].append(message)
        # From the roots down: a message that is not reached, such as one of a circle, has no path.
        self._depth_and_root: dict[str, tuple[int, str]] = {}
        for root in self._replies[None]:
            reached = [root]
            self._depth_and_root[root.id] = (1, root.id)
            for message in reached:  # It grows on the way.
                depth, _ = self._depth_and_root[message.id]
                for reply in self._replies.get(message.id, ()):
                    self._depth_and_root[reply.id] = (depth + 1, root.id)
                    reached.append(reply)

    def __len__(self) -> int:
        return len(self.by_id)

    def path(self, message: TreeMessage) -> list[TreeMessage]:
        """Return the messages from the root to this one; an empty list if there is no path.

        Raises:
            RowError: The path has more than 1,000 messages.
        """
        depth, _ = self._depth_and_root.get(message.id, (0, ""))
        if depth > LONGEST_PATH:
            raise RowError(f"thread longer than {LONGEST_PATH:,} messages")
        path: list[TreeMessage] = [message] if depth else []
        while path and path[-1].parent is not None:
            path.append(self.by_id[path[-1].parent])
        return path[::-1]

    def group(self, message: TreeMessage) -> str:
        """Return the id of the tree that the message belongs to."""
        return message.tree or self._depth_and_root.get(message.id, (0, message.id))[1]

    def samples(self, only_best: Callable[[str], bool]) -> Iterator[Outcome]:
        """Yield each assistant message with its path, if every message on it is used.

        Args:
            only_best: Whether, in a group, every reply on the path must have the best rank among
                its siblings.
        """
        best_ranks: dict[str, float] = {}
        for reply in self.by_id.values():
            if reply.role == "assistant":
                group = self.group(reply)
                try:
                    path = self._used_path(reply)
                    for step in path if only_best(group) else ():
                        parent = step.parent
                        if step.role != "assistant" or parent is None:
                            continue
                        # Siblings share the path up to their parent, so one can only be excluded
                        # for itself.
                        if parent not in best_ranks:
                            best_ranks[parent] = min(one.rank for one in self._ranked(parent))
                        if step.rank > best_ranks[parent]:
                            raise Filtered("not the best-ranked reply")
                    yield reply, Thread(reply, group, path)
                except RowError as error:
                    yield reply, error

    def reference(self) -> Iterator[Thread]:
        """Yield the paths that the reference project evaluates on.

        The reference takes the path of every message and cuts it to an even number of messages, so
        a path that ends with a reply comes again for each answer to that reply. Deleted messages
        and those that failed review stay in; threads longer than 1,000 messages are left out.
        OASST1's English validation split has 1,831 such paths.
        """
        for message in self.by_id.values():
            with suppress(RowError):
                path = self.path(message)
                if len(path) >= 2 and all(self._lang in (ALL, step.lang) for step in path):
                    yield Thread(message, self.group(message), path[: len(path) // 2 * 2])

    def pairs(self) -> Iterator[Outcome]:
        """Yield a pair for each user message: its best-ranked reply against its worst-ranked one.

        Excluded replies take no part; a message that is excluded, or has no reply left, is skipped.
        The outcome is `Filtered` if fewer than two replies are ranked, or if the best or the worst
        is not unique.
        """
        for prompter in self.by_id.values():
            replies = self._ranked(prompter.id) if prompter.role == "user" else []
            if not replies:
                continue
            try:
                path = self._used_path(prompter)
            except RowError:
                # Its replies have the same path, so `samples` has counted them with this reason.
                continue
            order = sorted(
                (one for one in replies if one.rank < math.inf), key=lambda one: one.rank
            )
            if len(order) < 2:
                yield prompter, Filtered("no ranked sibling")
            elif order[0].rank == order[1].rank or order[-2].rank == order[-1].rank:
                yield prompter, Filtered("rank tie")
            else:
                best, worst = order[0].text, order[-1].text
                yield prompter, Thread(prompter, self.group(prompter), path, best, worst)

    def _used_path(self, message: TreeMessage) -> list[TreeMessage]:
        path = self.path(message)
        if not path:
            raise RowError("no whole path to a root")
        reasons = {step.excluded(self._lang) for step in path}
        for reason in EXCLUSIONS:
            if reason in reasons:
                raise Filtered(reason)
        return path

    def _ranked(self, parent: str) -> list[TreeMessage]:
        """Return the replies to a message that are used."""
        replies = self._replies.get(parent, ())
        return [one for one in replies if one.role == "assistant" and not one.excluded(self._lang)]
