"""Report the progress of `prepare`, and add up the tallies of all parts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt2chat.core.data.tally import Tally
from gpt2chat.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of `prepare`, or a note about it."""

    source: str
    records: int
    """Records of this source that have been read."""
    advance: int = 0
    """Records read since the last call."""
    note: str = ""
    """One line for the user; empty if only the numbers changed."""
    done: float = -1.0
    """Share of all input that has been read; negative if unknown."""


MOST_FIELDS = 50
"""Most names of unused fields in a source's report: every record may have different ones."""
OTHER_FIELDS = "other fields"
Listener = Callable[[Progress], None]


class Journal:
    """Counts by source and reason, added up from the tallies of all parts."""

    def __init__(self, *, strict: bool, listener: Listener | None):
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.noted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.unused: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.notes: list[str] = []
        self._strict = strict
        self._listener = listener
        self._read: Counter[str] = Counter()
        self._files: dict[str, Tally] = {}

    def _report(self, progress: Progress) -> None:
        if self._listener is not None:
            self._listener(progress)

    def say(self, source: str, note: str) -> None:
        """Report a note to the user."""
        self.notes.append(note)
        self._report(Progress(source, self._read[source], note=note))

    def read(self, source: str, tallies: Sequence[Tally], done: float) -> None:
        """Report records that have been read, and that `add` will count later."""
        records = self._read[source] + sum(tally.records for tally in tallies)
        self._report(Progress(source, records, done=done))

    def drop(self, source: str, reason: str, number: int = 1) -> None:
        """Count rows that are left out."""
        if number:
            self.dropped[source][reason] += number

    def add(self, tally: Tally, done: float) -> None:
        """Add the tally of one part.

        Raises:
            DataError: With `strict`, a record cannot be used.
        """
        if tally.first_bad and self._strict:
            raise DataError(
                f"{tally.first_bad}. Fix it, or leave out `strict` to continue without it."
            )
        self.dropped[tally.source].update(tally.dropped)
        unused = self.unused[tally.source]
        unused.update(tally.unused)
        if len(unused) > MOST_FIELDS:
            names = [name for name, _ in unused.most_common() if name != OTHER_FIELDS]
            for name in names[MOST_FIELDS - 1 :]:
                unused[OTHER_FIELDS] += unused.pop(name)
        self._read[tally.source] += tally.records
        if tally.records:
            total = self._files.setdefault(tally.file, Tally(tally.source, tally.file))
            total.records += tally.records
            total.bad += tally.bad
            total.first_bad = total.first_bad or tally.first_bad
        read = self._read[tally.source]
        self._report(Progress(tally.source, read, tally.records, done=done))

    def require_usable(self) -> None:
        """Raise DataError if no record of a file can be used."""
        for file, total in self._files.items():
            if total.records == total.bad:
                number = total.records
                which = (
                    f"none of its {number:,} records can" if number > 1 else "its one record cannot"
                )
                raise DataError(f"{file}: {which} be used. {total.first_bad}.")
