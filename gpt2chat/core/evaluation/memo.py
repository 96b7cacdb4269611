"""Keep what an evaluation has computed, so that it continues where it was interrupted."""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from gpt2chat.core.errors import StorageError
from gpt2chat.core.files import make_folder, reading, storage
from gpt2chat.core.model.names import ModelFolder


class Memo:
    """A file of computed losses and replies, each under a key.

    A key says everything that its content depends on, so no content is ever out of date: other
    weights, samples or settings have other keys. Each call opens the file anew. That takes a
    millisecond, lets several processes share the file, and leaves nothing to close after Ctrl-C.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of the keys that the file has.

        Raises:
            StorageError: The file is not a memo.
        """
        if not self.path.exists():
            return {}
        with storage(self.path), closing(self._open()) as database:
            # One query for each key: SQLite limits the number of values in one statement.
            query = "SELECT content FROM memo WHERE key = ?"
            rows = ((key, database.execute(query, (key,)).fetchone()) for key in keys)
            return {key: row[0] for key, row in rows if row is not None}

    def add(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write keys with their contents: all of them or, if the program is killed, none.

        Raises:
            StorageError: The disk is full, the folder cannot be written, or the file is not a memo.
        """
        with storage(self.path):
            make_folder(self.path.parent)
            with closing(self._open()) as database, database:
                # Another process may have computed the same meanwhile.
                database.executemany("INSERT OR REPLACE INTO memo VALUES (?, ?)", contents)

    def _open(self) -> sqlite3.Connection:
        # Another process may be writing; to write a batch takes far less than a minute.
        database = sqlite3.connect(self.path, timeout=60)
        try:
            database.execute("CREATE TABLE IF NOT EXISTS memo (key TEXT PRIMARY KEY, content BLOB)")
        except sqlite3.DatabaseError as error:
            database.close()
            if isinstance(error, sqlite3.OperationalError):  # such as a full disk
                raise
            raise StorageError(
                f"{self.path} exists, but no evaluation wrote it. Move it away, or choose another "
                "file with `out`.",
                setting="out",
            ) from error
        return database


def key_of(*facts: object) -> str:
    """Return the key of what depends on these facts and on nothing else."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def model_sha256(model: ModelFolder) -> str:
    """Return a hash of a model's weights and settings, and of those of an adapter's base."""
    digest = hashlib.sha256()
    for folder in model.lineage:
        # No other file matters: weights are read from safetensors only, and gpt2chat encodes text
        # itself.
        files = [*folder.path.glob("*config.json"), *folder.path.glob("*.safetensors")]
        for path in sorted(files):
            with reading(path), path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()
