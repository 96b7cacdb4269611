"""OASST1's messages in a file that follows their paths, so memory does not grow with them."""

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

LONGEST = 1_000
"""Messages on a path: a longer thread has no place in any window, and takes long to follow."""
CACHED = 2 * LONGEST
"""Messages and sets of siblings that a `Forest` keeps in memory."""


class RankedPair(NamedTuple):
    """What came of the ranked replies to one message."""

    prompter: TreeMessage
    found: Preference | RowError
    """The best against the worst reply, or why they are no pair."""


_TABLES = """
CREATE TABLE messages (
    row INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, parent TEXT, tree TEXT, role TEXT, text TEXT,
    lang TEXT, deleted INTEGER, failed_review INTEGER, rank REAL, file INTEGER, line INTEGER
);
CREATE TABLE files (file INTEGER PRIMARY KEY, name BLOB);
CREATE TABLE places (row INTEGER PRIMARY KEY, depth INTEGER, root INTEGER);
"""
# From the roots down, level by level: whatever is not reached has no whole path, and what stands
# in a circle is never reached.
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
    """1 for a root; 0 where there is no whole path."""
    root: int


class Forest:
    """The messages of one split, in an SQLite file, that know their way to the root.

    Rows are counted from 0 in the order in which the messages came. What is kept in memory is
    bounded, whatever the number of messages. Several processes may read one file, each with a
    `Forest` of its own.
    """

    def __init__(self, path: Path):
        address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        self._database = sqlite3.connect(address, uri=True)
        files = self._database.execute("SELECT name FROM files ORDER BY file")
        self._files = [_name(name) for (name,) in files]
        (last,) = self._database.execute("SELECT max(row) FROM messages").fetchone()
        self._length = 0 if last is None else last + 1
        self._place = lru_cache(CACHED)(self._read_place)
        self._best_rank = lru_cache(CACHED)(self._read_best_rank)

    @classmethod
    def write(
        cls,
        path: Path,
        messages: Iterable[TreeMessage],
        on_duplicate: Callable[[TreeMessage], None],
    ) -> "Forest":
        """Write messages to a file, which is whole or not there, and open it.

        Args:
            on_duplicate: Called with each message whose id was seen before; the first one stays.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        beside = path.with_name(path.name + ".partial")
        with storage(path):
            try:
                with beside.open("wb"):
                    pass  # SQLite takes an empty file as a database, and would add to an old one
                with closing(sqlite3.connect(beside, isolation_level=None)) as database:
                    _fill(database, messages, on_duplicate)
                with beside.open("rb+") as file:
                    os.fsync(file.fileno())
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
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
        found = self._database.execute(query, (name,)).fetchone()
        if found is None:
            return None
        *values, depth, root = found
        return _Place(self._message(values), depth or 0, root or 0)

    def _above(self, message: TreeMessage) -> _Place | None:
        """Return the place of a message's parent, if it has a whole path."""
        place = self._place(message.parent) if message.parent is not None else None
        return place if place is not None and place.depth else None

    def path(self, message: TreeMessage) -> list[TreeMessage]:
        """Return the messages from the root to this one; none where there is no whole path.

        Raises:
            RowError: The path has more than 1,000 messages.
        """
        path = [message]
        place = self._above(message)
        if message.parent is not None and place is None:
            return []
        if place is not None and place.depth >= LONGEST:
            raise RowError(f"thread longer than {LONGEST:,} messages")
        while place is not None:
            path.append(place.message)
            place = self._above(place.message)
        return path[::-1]

    def group(self, message: TreeMessage) -> str:
        """Return which tree the message stands in."""
        place = None if message.tree else self._above(message)
        if place is None:
            return message.tree or message.id
        query = "SELECT id FROM messages WHERE row = ?"
        return self._database.execute(query, (place.root,)).fetchone()[0]

    def sample(self, reply: TreeMessage, lang: str, *, best: bool) -> Conversation:
        """Return the reply with its path from the root.

        Args:
            lang: Of every message on the path, or `all`.
            best: Whether every reply on the path has to be one that no wanted sibling is ranked
                before.

        Raises:
            Filtered: The path has a message that is not wanted.
            RowError: It is an orphan, or the path is too long, or no conversation.
        """
        path = self.path(reply)
        if not path:
            raise RowError(ORPHAN)
        reason = unwanted(path, lang)
        if reason:
            raise Filtered(reason)
        if best and not all(self._is_best(m, lang) for m in path if m.role == "assistant"):
            raise Filtered("not the best-ranked reply")
        return to_conversation(path)

    def _is_best(self, reply: TreeMessage, lang: str) -> bool:
        """Return whether no sibling is ranked before a wanted reply.

        A sibling has the same path up to its parent, so only the sibling itself can be unwanted.
        """
        return reply.parent is None or reply.rank <= self._best_rank(reply.parent, lang)

    def _read_best_rank(self, parent: str, lang: str) -> float:
        return min((rank for _, rank in self._ranked(parent, lang)), default=math.inf)

    def _ranked(self, parent: str, lang: str) -> Iterator[tuple[int, float]]:
        """Yield row and rank of the wanted replies to a message."""
        query = (
            "SELECT row, rank FROM messages WHERE parent = ? AND role = 'assistant' "
            f"AND NOT deleted AND NOT failed_review AND ? IN (lang, '{ALL}')"
        )
        return self._database.execute(query, (parent, lang))

    def reference(
        self, lang: str, first: int, last: int
    ) -> Iterator[tuple[TreeMessage, list[TreeMessage]]]:
        """Yield the paths that the reference project evaluates on, by the message that ends them.

        It takes the path of every message and cuts it to an even number of messages, so where a
        reply was answered its path comes once more for each answer. Deleted messages and those
        that failed review stay in; threads longer than 1,000 messages are left out. On OASST1's
        English validation split: 1,831 paths.

        Args:
            lang: Of every message on the path, or `all`.
            first: The row of the first message whose path is taken.
            last: The row of the first one that is not.
        """
        for message in self.messages(first, last):
            try:
                path = self.path(message)
            except RowError:
                continue
            if len(path) >= 2 and all_in(path, lang):
                yield message, path[: len(path) // 2 * 2]

    def pairs(self, lang: str, first: int, last: int) -> Iterator[RankedPair]:
        """Yield what comes of the human ranks of the replies to each user message.

        A user message counts if its own path is wanted, and at least one reply to it. The pair is
        the reply with the lowest rank against the one with the highest, among the wanted ones.
        With no rank to tell two replies apart, or the same rank at the top or the bottom, there
        is `Filtered` in the pair's stead; where a text cannot be used, another `RowError`.

        Args:
            lang: Of every message on the path, or `all`.
            first: The row of the first user message.
            last: The row of the first one that is left to another call.
        """
        for prompter in self._among(first, last, "AND role = 'user'"):
            ranked = list(self._ranked(prompter.id, lang))
            path = self._wanted_path(prompter, lang) if ranked else []
            if path:
                try:
                    yield RankedPair(prompter, self._best_against_worst(path, ranked))
                except RowError as error:
                    yield RankedPair(prompter, error)

    def _wanted_path(self, message: TreeMessage, lang: str) -> list[TreeMessage]:
        try:
            path = self.path(message)
        except RowError:
            return []
        return [] if unwanted(path, lang) else path

    def _best_against_worst(
        self, path: Sequence[TreeMessage], ranked: Iterable[tuple[int, float]]
    ) -> Preference:
        order = sorted((rank, row) for row, rank in ranked if rank < math.inf)
        if len(order) < 2:
            raise Filtered("no ranked sibling")
        if order[0][0] == order[1][0] or order[-2][0] == order[-1][0]:
            raise Filtered("rank tie")
        best, worst = (next(self.messages(row, row + 1)) for _, row in (order[0], order[-1]))
        return Preference(prompt_of(path), best.text, worst.text)


def _name(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")


def _fill(
    database: sqlite3.Connection,
    messages: Iterable[TreeMessage],
    on_duplicate: Callable[[TreeMessage], None],
) -> None:
    # The file has another name until it is whole, so nothing in it needs to outlive a crash.
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
    # A file's name need not be UTF-8, and what is no Unicode text is no TEXT to SQLite.
    names = ((number, name.encode("utf-8", "surrogatepass")) for name, number in files.items())
    database.executemany("INSERT INTO files VALUES (?, ?)", names)
    database.execute("CREATE INDEX replies ON messages (parent)")
    database.execute(_PLACES)
    database.execute("COMMIT")
