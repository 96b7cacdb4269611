"""What `prepare` leaves out and why: counted, and broken records kept aside."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.records import Record
from gpt2chat.core.shapes import Filtered

EVERY = 500
"""Records between two calls that say how far a source is."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `prepare` is, or what it picked."""

    source: str
    records: int
    """Read of this source so far."""
    advance: int = 0
    """Of these, since the last call."""
    note: str = ""
    """One line for the user; empty where only the number is told."""


Listener = Callable[[Progress], None]


class Journal:
    """Counts by source and reason, and the records that could not be used, written as they come."""

    def __init__(self, rejected: IO[str], *, strict: bool, listener: Listener):
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.noted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.notes: list[str] = []
        self._rejected = rejected
        self._strict = strict
        self._listener = listener
        self._read: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self._first_bad: dict[str, str] = {}

    def say(self, source: str, note: str) -> None:
        """Tell the user what was picked."""
        self.notes.append(note)
        self._listener(Progress(source, self._read[source], note=note))

    def drop(self, source: str, reason: str, number: int = 1) -> None:
        """Count what is left out."""
        self.dropped[source][reason] += number

    def reject(self, source: str, record: Record, error: RowError) -> None:
        """Count a record, and keep it aside unless it is sound and only not wanted.

        Raises:
            DataError: Records must all be usable (`--strict`).
        """
        self.drop(source, error.reason)
        if isinstance(error, Filtered):
            return
        problem = f"{record.where}: {error.reason}"
        if self._strict:
            raise DataError(f"{problem}. Mend it, or leave out --strict to go on without it.")
        self._bad[record.file] += 1
        self._first_bad.setdefault(record.file, problem)
        text = record.text or json.dumps(record.value, default=str)
        row = {"source": source, "file": record.file, "line": record.line}
        self._rejected.write(json.dumps({**row, "reason": error.reason, "text": text}) + "\n")

    def sound(self, source: str, file: str, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records of one file that are not broken.

        Raises:
            DataError: The file has no record, or after the last, every one of it was rejected.
        """
        number = 0
        for record in records:
            number += 1
            self._read[source] += 1
            if number % EVERY == 0:
                self._listener(Progress(source, self._read[source], EVERY))
            if record.problem:
                self.reject(source, record, RowError(record.problem))
            else:
                yield record
        self._listener(Progress(source, self._read[source], number % EVERY))
        if number == 0:
            raise DataError(f"{file} is empty. Give a file with records, or leave it out.")
        if self._bad[file] == number:
            raise DataError(
                f"{file}: none of its {number:,} records can be used. {self._first_bad[file]}."
            )
