"""Keep chats, updates and unsent messages in SQLite, so that a killed bot continues where it was.

An update is stored before Telegram is told that it arrived. Its answer, the changed chat and the
mark that it is done are one transaction. What a message says is then written by an edit, which may
be repeated: see outgoing.py.
"""

import json
import os
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from gpt2chat.core.errors import ConfigError, DataError
from gpt2chat.core.files import storage
from gpt2chat.core.text.conversations import Conversation, parse_messages
from gpt2chat.telegram.incoming import Incoming

VERSION = 1
SCHEMA = """
create table updates (
    id integer primary key, chat integer not null, user integer not null, date integer not null,
    body text not null, stored integer not null, message integer,
    tries integer not null default 0, done integer not null default 0,
    refused integer not null default 0
);
create index waiting on updates (chat, id) where not done;
create index of_user on updates (user, date);
create table outbox (
    id integer primary key, chat integer not null, thread integer not null, answers integer,
    text text not null, buttons text not null, message integer
);
create index unsent on outbox (chat, id);
create table chats (
    chat integer not null, thread integer not null, system text, model text not null,
    turns text not null, retries integer not null, primary key (chat, thread)
);
create table replies (
    id integer primary key, chat integer not null, thread integer not null, prompt text not null,
    text text not null, cut integer not null, model text not null, seed integer not null,
    rating text not null default ''
);
create index of_chat on replies (chat);
create table members (id integer primary key);
create table notes (name text primary key, value text not null);
"""
KEEP_UPDATES = 2 * 24 * 60 * 60
"""Seconds for which answered updates are known. Telegram repeats none that is older than a day."""
KEEP_REPLIES = 10_000
"""Replies that can still be rated; older ones are forgotten."""
OTHER_FILE = "Give another file as `state`."


@dataclass
class ChatState:
    """What the bot knows of a chat, or of one topic of a group."""

    system: str | None = None
    """The chat's own system prompt."""
    model: str = ""
    """Name of the model that answers; empty for the first one."""
    turns: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The messages, as `{"role": …, "content": …}`, with `"cut": true` where a reply was cut."""
    retries: int = 0
    """Number of retries of the latest message."""


@dataclass(frozen=True, kw_only=True)
class Rateable:
    """A reply with all that a row of feedback needs."""

    id: int = 0
    prompt: Conversation
    text: str
    cut: bool
    model: str
    seed: int = 0
    rating: str = ""
    """`good`, `bad`, or empty before it is rated."""


@dataclass(frozen=True, kw_only=True)
class Unsent:
    """A text on its way to a chat, at most as long as a message may be."""

    id: int = 0
    chat: int
    thread: int
    answers: int | None
    """Number of the message that this one replies to."""
    text: str
    buttons: tuple[tuple[str, str], ...] = ()
    """Labels and data of the buttons below the message."""
    message: int | None = None
    """Number of the message that will say it; None before there is one."""


class Store:
    """All that the bot remembers. One thread uses it."""

    def __init__(self, path: Path):
        """Open the file, or create it for the user's eyes only.

        Raises:
            StorageError: The file cannot be written.
            ConfigError: Another bot uses the file.
            DataError: The file is something else, or was written by a newer version.
        """
        self.path = path
        with storage(path, OTHER_FILE):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        # `_writing` begins and ends transactions itself. Another bot that holds the file will not
        # let go of it, so waiting is no use.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            # The file belongs to one process: two bots would both answer.
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma journal_mode = wal")
            # Each commit reaches the disk, so that a power cut is no worse than a kill.
            self._db.execute("pragma synchronous = full")
            (version,) = self._db.execute("pragma user_version").fetchone()
            if version == 0:
                self._db.executescript(f"begin; {SCHEMA} pragma user_version = {VERSION}; commit;")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            text = f"Another bot uses {path}. Stop it, or give another file as `state`."
            raise ConfigError(text, setting="state") from error
        except sqlite3.DatabaseError as error:
            text = f"{path} is not a file of the bot: {error}. {OTHER_FILE}"
            raise DataError(text, setting="state") from error
        if version > VERSION:
            text = f"{path} was written by a newer gpt2chat. Update it, or give another file."
            raise DataError(text, setting="state")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """Make all changes within the context, or none of them."""
        with storage(self.path, OTHER_FILE):
            self._db.execute("begin immediate")
            try:
                yield self._db
                self._db.execute("commit")
            except BaseException:
                # Whatever was raised: no transaction can begin within one that is still open.
                self._db.execute("rollback")
                raise

    def _rows(self, query: str, *values: object) -> list[Any]:
        return self._db.execute(query, values).fetchall()

    def add(self, updates: Iterable[Incoming]) -> set[int]:
        """Store updates that are not known yet; return the chats that have something to answer."""
        chats: set[int] = set()
        now = int(time.time())
        with self._writing() as db:
            for update in updates:
                body = json.dumps(asdict(update), ensure_ascii=False)
                added = db.execute(
                    "insert or ignore into updates (id, chat, user, date, body, stored) "
                    "values (?, ?, ?, ?, ?, ?)",
                    (update.update, update.chat, update.user, update.date, body, now),
                )
                if added.rowcount:
                    chats.add(update.chat)
            db.execute("delete from updates where done and stored < ?", (now - KEEP_UPDATES,))
            db.execute(
                "delete from replies where id <= (select max(id) from replies) - ?",
                (KEEP_REPLIES,),
            )
        return chats

    def busy_chats(self) -> list[int]:
        """Return the chats with unsent messages or unanswered updates, the longest wait first."""
        waiting = self._rows(
            "select chat from (select chat, 0 as id from outbox "
            "union all select chat, id from updates where not done) group by chat order by min(id)"
        )
        return [chat for (chat,) in waiting]

    def next_update(self, chat: int) -> tuple[Incoming, int | None, int] | None:
        """Return a chat's oldest unanswered update.

        Returns:
            The update, the message that was sent for its answer, if any, and how often the model
            has begun to answer it.
        """
        rows = self._rows(
            "select body, message, tries from updates where chat = ? and not done "
            "order by id limit 1",
            chat,
        )
        if not rows:
            return None
        ((body, message, tries),) = rows
        return Incoming(**json.loads(body)), message, tries

    def tried(self, update: Incoming, times: int = 1) -> None:
        """Note that the model begins to answer an update, or take that back."""
        with self._writing() as db:
            db.execute("update updates set tries = tries + ? where id = ?", (times, update.update))

    def begun(self, update: Incoming, message: int) -> None:
        """Note the message that will hold the answer to an update."""
        with self._writing() as db:
            db.execute("update updates set message = ? where id = ?", (message, update.update))

    def answer(
        self,
        update: Incoming,
        texts: Sequence[Unsent],
        state: ChatState | None = None,
        *,
        refused: bool = False,
    ) -> None:
        """Mark an update as done, together with its answer and the chat after it.

        Args:
            texts: What will be sent. The first one goes into the message that was sent for it.
            state: The chat's new state; None if it is unchanged.
            refused: Whether the update does not count for the rate limit.
        """
        with self._writing() as db:
            ((message,),) = self._rows("select message from updates where id = ?", update.update)
            # What was said is in the chat now; the update is kept for its number.
            db.execute(
                "update updates set done = 1, body = '', refused = ? where id = ?",
                (refused, update.update),
            )
            for at, unsent in enumerate(texts):
                db.execute(
                    "insert into outbox (chat, thread, answers, text, buttons, message) "
                    "values (?, ?, ?, ?, ?, ?)",
                    (
                        *(unsent.chat, unsent.thread, unsent.answers, unsent.text),
                        json.dumps(unsent.buttons),
                        None if at else message,
                    ),
                )
            if state is not None:
                turns = json.dumps(state.turns, ensure_ascii=False)
                db.execute(
                    "insert or replace into chats (chat, thread, system, model, turns, retries) "
                    "values (?, ?, ?, ?, ?, ?)",
                    (
                        *(update.chat, update.thread, state.system, state.model),
                        *(turns, state.retries),
                    ),
                )

    def recent(self, update: Incoming) -> tuple[int, int]:
        """Return how many messages a user wrote in the minute before one, and how many of them
        were refused. The time is Telegram's, so a bot that was down does not refuse what came
        meanwhile."""
        ((answered, refused),) = self._rows(
            "select count(*) filter (where not refused), count(*) filter (where refused) "
            "from updates where user = ? and date > ? and date <= ? and id < ?",
            *(update.user, update.date - 60, update.date, update.update),
        )
        return answered, refused

    def outbox(self, chat: int) -> Unsent | None:
        """Return the next text that has not been sent to a chat."""
        rows = self._rows("select * from outbox where chat = ? order by id limit 1", chat)
        for number, chat, thread, answers, text, buttons, message in rows:
            labels = tuple((str(label), str(data)) for label, data in json.loads(buttons))
            return Unsent(
                id=number,
                chat=chat,
                thread=thread,
                answers=answers,
                text=text,
                buttons=labels,
                message=message,
            )
        return None

    def sent(self, unsent: Unsent, message: int | None) -> None:
        """Note the message that a text will be written into; None if it was deleted."""
        with self._writing() as db:
            db.execute("update outbox set message = ? where id = ?", (message, unsent.id))

    def delivered(self, unsent: Unsent) -> None:
        """Forget a text that has been sent, or cannot be."""
        with self._writing() as db:
            db.execute("delete from outbox where id = ?", (unsent.id,))

    def gone(self, chat: int) -> None:
        """Drop all that was to be sent to a chat which the bot may not write to any more."""
        with self._writing() as db:
            db.execute("delete from outbox where chat = ?", (chat,))
            db.execute("update updates set done = 1, body = '' where chat = ?", (chat,))

    def moved(self, chat: int, new: int) -> None:
        """Give all of a group to the number that it got as a supergroup."""
        with self._writing() as db:
            # The bot may have met the supergroup already, before it heard of the move.
            db.execute("update or replace chats set chat = ? where chat = ?", (new, chat))
            # A supergroup numbers its messages anew, so those that were sent cannot be edited.
            db.execute("update outbox set chat = ?, message = null where chat = ?", (new, chat))
            db.execute("update replies set chat = ? where chat = ?", (new, chat))
            db.execute("insert or ignore into members select ? from members where id = ?",
                       (new, chat))  # fmt: skip
            waiting = self._rows("select id, body from updates where chat = ? and not done", chat)
            for number, body in waiting:
                fields = {**json.loads(body), "chat": new}
                db.execute(
                    "update updates set chat = ?, body = ?, message = null where id = ?",
                    (new, json.dumps(fields, ensure_ascii=False), number),
                )

    def chat(self, update: Incoming) -> ChatState:
        """Return the state of the chat that an update belongs to."""
        rows = self._rows(
            "select system, model, turns, retries from chats where chat = ? and thread = ?",
            *(update.chat, update.thread),
        )
        for system, model, turns, retries in rows:
            return ChatState(system, model, json.loads(turns), retries)
        return ChatState()

    def add_reply(self, update: Incoming, reply: Rateable) -> int:
        """Keep a reply for its rating, and return its number.

        It stands alone if the program ends before `answer`: then nobody can rate it.
        """
        prompt = json.dumps(reply.prompt.as_dicts(), ensure_ascii=False)
        with self._writing() as db:
            added = db.execute(
                "insert into replies (chat, thread, prompt, text, cut, model, seed) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(update.chat, update.thread, prompt, reply.text, reply.cut),
                    *(reply.model, reply.seed),
                ),
            )
        return cast(int, added.lastrowid)

    def reply(self, update: Incoming, number: int) -> Rateable | None:
        """Return a reply in the update's chat; None if it is not known any more."""
        return next(self._replies("id = ? and chat = ?", number, update.chat), None)

    def rated(self, update: Incoming, reply: Rateable) -> list[Rateable]:
        """Return the other replies to the same prompt that have been rated."""
        prompt = json.dumps(reply.prompt.as_dicts(), ensure_ascii=False)
        found = self._replies("chat = ? and prompt = ? and rating != ''", update.chat, prompt)
        return [other for other in found if other.id != reply.id]

    def _replies(self, where: str, *values: object) -> Iterator[Rateable]:
        names = "id, prompt, text, cut, model, seed, rating"
        for number, prompt, text, cut, model, seed, rating in self._rows(
            f"select {names} from replies where {where}", *values
        ):
            yield Rateable(
                id=number,
                prompt=parse_messages(prompt),
                text=text,
                cut=bool(cut),
                model=model,
                seed=seed,
                rating=rating,
            )

    def rate(self, ratings: dict[int, str]) -> None:
        """Note the ratings of replies."""
        with self._writing() as db:
            for number, rating in ratings.items():
                db.execute("update replies set rating = ? where id = ?", (rating, number))

    def is_member(self, *numbers: int) -> bool:
        """Return whether one of some users and chats has joined."""
        return any(self._rows("select 1 from members where id = ?", each) for each in numbers)

    def join(self, number: int) -> None:
        """Let a user or a chat talk to the bot from here on."""
        with self._writing() as db:
            db.execute("insert or ignore into members (id) values (?)", (number,))

    def code(self, drawn: str) -> str:
        """Return the code by which users join: the one drawn at the first start."""
        with self._writing() as db:
            db.execute("insert or ignore into notes (name, value) values ('code', ?)", (drawn,))
        ((code,),) = self._rows("select value from notes where name = 'code'")
        return code
