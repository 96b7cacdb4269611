"""Count what is read, dropped and noted: in a chunk, and added up in a run."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import REPORTED_TEXT, Record
from gpt2chat.core.inputs.shapes import Filtered

Numbers = defaultdict[str, Counter[str]]
NUMBERS = ("dropped", "noted", "unused", "records", "bad")
MOST_FIELDS = 50
"""Most names of unused fields that are counted for a source: every record may have others."""
OTHER_FIELDS = "other fields"


def _numbers() -> Numbers:
    return defaultdict(Counter)


@dataclass(slots=True)
class Counts:
    """Numbers by source, and for each source by reason, remark, field or file."""

    dropped: Numbers = field(default_factory=_numbers)
    """Records, samples and pairs that were left out, by reason."""
    noted: Numbers = field(default_factory=_numbers)
    """Rows with a remark, by remark."""
    unused: Numbers = field(default_factory=_numbers)
    """Used records with an unused field, by the field's name."""
    records: Numbers = field(default_factory=_numbers)
    """Records that were read, by file."""
    bad: Numbers = field(default_factory=_numbers)
    """Records of which nothing can be used, without those filtered on purpose, by file."""
    first_bad: dict[str, str] = field(default_factory=dict[str, str])
    """Place and reason of the first such record of each file."""
    lines: list[str] = field(default_factory=list[str])
    """Lines of `dropped.jsonl`. They may be long, so a run does not add them up."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Counts":
        """Return counts that were stored as JSON."""
        counts = cls(first_bad=values["first_bad"])
        for name in NUMBERS:
            for source, numbers in values[name].items():
                getattr(counts, name)[source].update(numbers)
        return counts

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return {name: getattr(self, name) for name in (*NUMBERS, "first_bad")}

    def drop(self, source: str, record: Record, error: RowError, *, whole: bool = True) -> None:
        """Count a record that is dropped, and list it unless it is filtered on purpose.

        Args:
            whole: Whether nothing of the record is used; False if only some replies are lost.
        """
        self.dropped[source][error.reason] += 1
        if not isinstance(error, Filtered):
            self.bad[source][record.file] += whole
            self.first_bad.setdefault(record.file, f"{record.where}: {error.reason}")
            # A cell of a table may be a date or bytes, which JSON does not have.
            text = (record.text or json.dumps(record.value, default=str))[:REPORTED_TEXT]
            line = dropped_line(source, record.file, record.line, error.reason, text)
            self.lines.append(line)

    def add(self, other: "Counts") -> None:
        """Add the numbers of another chunk."""
        for name in NUMBERS:
            for source, numbers in getattr(other, name).items():
                getattr(self, name)[source].update(numbers)
        # Chunks are added in order, so an entry that is there already is the earlier one.
        self.first_bad = {**other.first_bad, **self.first_bad}
        for unused in self.unused.values():
            if len(unused) > MOST_FIELDS:
                names = [name for name, _ in unused.most_common() if name != OTHER_FIELDS]
                for name in names[MOST_FIELDS - 1 :]:
                    unused[OTHER_FIELDS] += unused.pop(name)


def dropped_line(source: str, file: str, line: int, reason: str, text: str, **more: Any) -> str:
    """Return one line of `dropped.jsonl`.

    Args:
        text: The record that cannot be used, or the reply that is dropped.
        more: `reply`, the number of the reply in its record, and `like`, the place of the row that
            it resembles.
    """
    row = {"source": source, "file": file, "line": line, "reason": reason, "text": text}
    return json.dumps(row | more) + "\n"
