"""Store OASST1's messages in an SQLite file and follow their paths in bounded memory."""

import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from gpt2chat.core.errors import RowError
from gpt2chat.core.files import storage
from gpt2chat.core.inputs.oasst1 import (
    ALL,
    ORPHAN,
    TreeMessage,
    all_in,
    prompt_of,
    to_conversation,
    unwanted,
)
from gpt2chat.core.inputs.shapes import Filtered
from gpt2chat.core.text.conversations import Conversation, Preference

LONGEST_PATH = 1_000
"""Messages on a path. A longer thread fits no window, and takes long to follow."""
CACHED_MESSAGES = 2 * LONGEST_PATH
"""Messages, and best ranks of siblings, that a `Forest` keeps in memory."""


class RankedPair(NamedTuple):
    """The ranked replies to one user message."""

    prompter: TreeMessage
    outcome: Preference | RowError
    """The best reply against the worst, or the reason why they do not make a pair."""


_TABLES = """
CREATE TABLE messages (
    row INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, parent TEXT, tree TEXT, role TEXT, text TEXT,
    lang TEXT, deleted INTEGER, failed_review INTEGER, rank REAL, file INTEGER, line INTEGER
);
CREATE TABLE files (file INTEGER PRIMARY KEY, name BLOB);
CREATE TABLE places (row INTEGER PRIMARY KEY, depth INTEGER, root INTEGER);
"""
# From the roots down, level by level: a message that is not reached has no path to a root, and a
# circle of messages is never reached.
_PLACES = """
INSERT INTO places
WITH RECURSIVE reached (row, id, depth, root) AS (
    SELECT row, id, 1, row FROM messages WHERE parent IS NULL
    UNION ALL
    SELECT reply.row, reply.id, depth + 1, root
    FROM reached CROSS JOIN messages AS reply ON reply.parent = reached.id
)
SELECT row, depth, root FROM reached
"""
_MESSAGE = "id, parent, tree, role, text, lang, deleted, failed_review, rank, file, line"


class _Place(NamedTuple):
    message: TreeMessage
    depth: int
    """Number of messages on the path from the root, 1 for a root; 0 without a path."""
    root: int
    """Row of the root."""


class Forest:
    """The messages of one split, in an SQLite file, with their paths to the root.

    Rows are counted from 0 in the order in which the messages were read. Memory does not grow
    with the number of messages. Several processes may read one file, each through its own
    `Forest`.
    """

    def __init__(self, path: Path):
        address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        self._database = sqlite3.connect(address, uri=True)
        files = self._database.execute("SELECT name FROM files ORDER BY file")
        self._files = [name.decode("utf-8", "surrogatepass") for (name,) in files]
        (last,) = self._database.execute("SELECT max(row) FROM messages").fetchone()
        self._length = 0 if last is None else last + 1
        self._place = lru_cache(CACHED_MESSAGES)(self._read_place)
        self._best_rank = lru_cache(CACHED_MESSAGES)(self._read_best_rank)

    @classmethod
    def write(
        cls,
        path: Path,
        messages: Iterable[TreeMessage],
        on_duplicate: Callable[[TreeMessage], None],
    ) -> "Forest":
        """Write messages to a file and open it. A crash leaves no partial file of this name.

        Args:
            on_duplicate: Called with each message whose id came before; the first one is kept.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        partial = path.with_name(path.name + ".partial")
        with storage(path):
            try:
                # Empty the file of an interrupted run: SQLite would add to its tables.
                partial.write_bytes(b"")
                with closing(sqlite3.connect(partial, isolation_level=None)) as database:
                    _fill(database, messages, on_duplicate)
                with partial.open("rb+") as file:
                    os.fsync(file.fileno())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return cls(path)

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._place.cache_clear()
        self._best_rank.cache_clear()
        self._database.close()

    def messages(self, first: int, last: int) -> Iterator[TreeMessage]:
        """Yield the messages of the rows from `first` to before `last`."""
        return self._among(first, last, "")

    def replies(self, first: int, last: int) -> Iterator[TreeMessage]:
        """Yield the assistant messages of the rows from `first` to before `last`."""
        return self._among(first, last, "AND role = 'assistant'")

    def _among(self, first: int, last: int, condition: str) -> Iterator[TreeMessage]:
        query = (
            f"SELECT {_MESSAGE} FROM messages WHERE row >= ? AND row < ? {condition} ORDER BY row"
        )
        return map(self._message, self._database.execute(query, (first, last)))

    def _message(self, values: Sequence[Any]) -> TreeMessage:
        name, parent, tree, role, text, lang, deleted, failed, rank, file, line = values
        return TreeMessage(
            name, parent, tree, role, text, lang, deleted == 1, failed == 1, rank,
            self._files[file], line,
        )  # fmt: skip

    def _read_place(self, name: str) -> _Place | None:
        query = (
            f"SELECT {_MESSAGE}, depth, root FROM messages LEFT JOIN places USING (row) "
            "WHERE id = ?"
        )
        row = self._database.execute(query, (name,)).fetchone()
        if row is None:
            return None
        *values, depth, root = row
        return _Place(self._message(values), depth or 0, root or 0)

    def _above(self, message: TreeMessage) -> _Place | None:
        """Return the place of a message's parent, if the parent has a path to a root."""
        place = self._place(message.parent) if message.parent is not None else None
        return place if place is not None and place.depth else None

    def path(self, message: TreeMessage) -> list[TreeMessage]:
        """Return the messages from the root to this one; an empty list if there is no path.

        Raises:
            RowError: The path has more than 1,000 messages.
        """
        path = [message]
        place = self._above(message)
        if message.parent is not None and place is None:
            return []
        if place is not None and place.depth >= LONGEST_PATH:
            raise RowError(f"thread longer than {LONGEST_PATH:,} messages")
        while place is not None:
            path.append(place.message)
            place = self._above(place.message)
        return path[::-1]

    def group(self, message: TreeMessage) -> str:
        """Return the id of the tree that the message belongs to."""
        place = None if message.tree else self._above(message)
        if place is None:
            return message.tree or message.id
        query = "SELECT id FROM messages WHERE row = ?"
        return self._database.execute(query, (place.root,)).fetchone()[0]

    def sample(self, reply: TreeMessage, lang: str, *, best: bool) -> Conversation:
        """Return the reply with its path from the root.

        Args:
            lang: The language that every message on the path must have, or `all`.
            best: Whether every reply on the path must be the best-ranked among its siblings.

        Raises:
            Filtered: A message on the path is excluded from training.
            RowError: The message is an orphan, or its path is too long or is not a conversation.
        """
        path = self.path(reply)
        if not path:
            raise RowError(ORPHAN)
        reason = unwanted(path, lang)
        if reason:
            raise Filtered(reason)
        if best:
            for message in path:
                if message.role != "assistant" or message.parent is None:
                    continue
                # Siblings share the path up to their parent, so a sibling can only be excluded
                # for itself, which `_best_rank` checks.
                if message.rank > self._best_rank(message.parent, lang):
                    raise Filtered("not the best-ranked reply")
        return to_conversation(path)

    def _read_best_rank(self, parent: str, lang: str) -> float:
        return min((rank for _, rank in self._ranked(parent, lang)), default=math.inf)

    def _ranked(self, parent: str, lang: str) -> Iterator[tuple[int, float]]:
        """Yield row and rank of the replies to a message that are not excluded from training."""
        query = (
            "SELECT row, rank FROM messages WHERE parent = ? AND role = 'assistant' "
            f"AND NOT deleted AND NOT failed_review AND ? IN (lang, '{ALL}')"
        )
        return self._database.execute(query, (parent, lang))

    def reference(
        self, lang: str, first: int, last: int
    ) -> Iterator[tuple[TreeMessage, list[TreeMessage]]]:
        """Yield the paths that the reference project evaluates on, each with its last message.

        The reference takes the path of every message and cuts it to an even number of messages, so
        a path that ends with a reply comes again for each answer to that reply. Deleted messages
        and those that failed review stay in; threads longer than 1,000 messages are left out.
        OASST1's English validation split has 1,831 such paths.

        Args:
            lang: The language that every message on the path must have, or `all`.
            first: Row of the first message whose path is taken.
            last: Row after the last such message.
        """
        for message in self.messages(first, last):
            try:
                path = self.path(message)
            except RowError:
                continue
            if len(path) >= 2 and all_in(path, lang):
                yield message, path[: len(path) // 2 * 2]

    def pairs(self, lang: str, first: int, last: int) -> Iterator[RankedPair]:
        """Yield a pair for each user message: its best-ranked reply against its worst-ranked one.

        Messages that are excluded from training take no part; a user message without a reply left
        is skipped. The outcome is `Filtered` if fewer than two replies are ranked, or if the best
        or the worst is not unique; another `RowError` if a text cannot be used.

        Args:
            lang: The language that every message on the path must have, or `all`.
            first: Row of the first user message.
            last: Row after the last one.
        """
        for prompter in self._among(first, last, "AND role = 'user'"):
            replies = list(self._ranked(prompter.id, lang))
            if not replies:
                continue
            try:
                path = self.path(prompter)
            except RowError:
                continue
            if unwanted(path, lang):
                continue
            order = sorted((rank, row) for row, rank in replies if rank < math.inf)
            if len(order) < 2:
                yield RankedPair(prompter, Filtered("no ranked sibling"))
                continue
            ranks = [rank for rank, _ in order]
            if ranks[0] == ranks[1] or ranks[-2] == ranks[-1]:
                yield RankedPair(prompter, Filtered("rank tie"))
                continue
            best, worst = (next(self.messages(row, row + 1)) for _, row in (order[0], order[-1]))
            try:
                pair = Preference(prompt_of(path), best.text, worst.text)
            except RowError as error:
                yield RankedPair(prompter, error)
            else:
                yield RankedPair(prompter, pair)


def _fill(
    database: sqlite3.Connection,
    messages: Iterable[TreeMessage],
    on_duplicate: Callable[[TreeMessage], None],
) -> None:
    # The file is renamed when it is complete, so nothing in it needs to survive a crash.
    for setting in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
        database.execute(f"PRAGMA {setting}")
    database.execute("PRAGMA cache_size = -65536")
    database.executescript(_TABLES)
    database.execute("BEGIN")
    files: dict[str, int] = {}
    row = 0
    insert = f"INSERT OR IGNORE INTO messages VALUES ({', '.join('?' * 12)})"
    for m in messages:
        file = files.setdefault(m.file, len(files))
        values = (row, m.id, m.parent, m.tree, m.role, m.text, m.lang, m.deleted, m.failed_review)
        if database.execute(insert, (*values, m.rank, file, m.line)).rowcount:
            row += 1
        else:
            on_duplicate(m)
    # A file's name need not be UTF-8, and SQLite stores only valid Unicode as TEXT.
    names = ((number, name.encode("utf-8", "surrogatepass")) for name, number in files.items())
    database.executemany("INSERT INTO files VALUES (?, ?)", names)
    database.execute("CREATE INDEX replies ON messages (parent)")
    database.execute(_PLACES)
    database.execute("COMMIT")
