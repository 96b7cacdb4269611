"""What `prepare` tells while it works, and what it counts over all parts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt2chat.core.data.tally import Tally
from gpt2chat.core.errors import DataError


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
    done: float = -1.0
    """Share of all input that has been read; negative where that is not known."""


MOST_FIELDS = 50
"""Names of fields that are reported of a source; records may have names of their own each."""
OTHER_FIELDS = "other fields"
Listener = Callable[[Progress], None]


class Journal:
    """Counts by source and reason, from the tallies of all parts in order."""

    def __init__(self, *, strict: bool, listener: Listener):
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.noted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.unused: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.notes: list[str] = []
        self._strict = strict
        self._listener = listener
        self._read: Counter[str] = Counter()
        self._files: dict[str, Tally] = {}

    def say(self, source: str, note: str) -> None:
        """Tell the user what was picked."""
        self.notes.append(note)
        self._listener(Progress(source, self._read[source], note=note))

    def read(self, source: str, tallies: Sequence[Tally], done: float) -> None:
        """Tell how much has been read of records that are counted later, with their tallies."""
        records = self._read[source] + sum(tally.records for tally in tallies)
        self._listener(Progress(source, records, done=done))

    def drop(self, source: str, reason: str, number: int = 1) -> None:
        """Count what is left out."""
        if number:
            self.dropped[source][reason] += number

    def add(self, tally: Tally, done: float) -> None:
        """Add what became of one part's records.

        Raises:
            DataError: Records must all be usable (`strict`), and one is not.
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
            whole = self._files.setdefault(tally.file, Tally(tally.source, tally.file))
            whole.records += tally.records
            whole.bad += tally.bad
            whole.first_bad = whole.first_bad or tally.first_bad
        read = self._read[tally.source]
        self._listener(Progress(tally.source, read, tally.records, done=done))

    def require_usable(self) -> None:
        """Raise DataError where every record of a file is unusable."""
        for file, whole in self._files.items():
            if whole.records == whole.bad:
                raise DataError(
                    f"{file}: none of its {whole.records:,} records can be used. {whole.first_bad}."
                )
