"""Count the records of one part, and list those that cannot be used."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import REPORTED_TEXT, Record
from gpt2chat.core.inputs.shapes import Filtered


@dataclass(slots=True)
class Tally:
    """The counts of one part, and its lines of `dropped.jsonl`."""

    source: str
    file: str
    """The file or files that the records come from."""
    records: int = 0
    bad: int = 0
    """Records that cannot be used, without those that are filtered on purpose."""
    first_bad: str = ""
    """File, line and reason of the first such record."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    noted: Counter[str] = field(default_factory=Counter[str])
    unused: Counter[str] = field(default_factory=Counter[str])
    """Number of used records with an unused field, by the field's name."""
    lines: list[str] = field(default_factory=list[str])
    """Lines of `dropped.jsonl`, which are cleared when the part is written: they may be long."""

    def drop(self, record: Record, error: RowError, *, whole: bool = True) -> None:
        """Count a record that is dropped, and list it unless it is filtered on purpose.

        Args:
            whole: Whether nothing of the record is used; False if only some replies are lost.
        """
        self.dropped[error.reason] += 1
        if isinstance(error, Filtered):
            return
        self.bad += whole
        self.first_bad = self.first_bad or f"{record.where}: {error.reason}"
        text = record.text or json.dumps(record.value, default=str)
        self.lines.append(
            dropped_line(self.source, record.file, record.line, error.reason, text[:REPORTED_TEXT])
        )


def dropped_line(source: str, file: str, line: int, reason: str, text: str, **more: Any) -> str:
    """Return one line of `dropped.jsonl`.

    Args:
        text: The record that cannot be used, or the reply that is dropped.
        more: `reply`, the number of the reply in its record, and `like`, the place of the row that
            it resembles.
    """
    row = {"source": source, "file": file, "line": line, "reason": reason, "text": text}
    return json.dumps(row | more) + "\n"
