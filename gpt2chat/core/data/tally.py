"""What becomes of the records of one part: counted, and the unusable ones kept aside."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import KEPT_TEXT, Record
from gpt2chat.core.inputs.shapes import Filtered


@dataclass(slots=True)
class Tally:
    """Counts of one part, and its unusable records as lines of `dropped.jsonl`."""

    source: str
    file: str
    """Which the records come from."""
    records: int = 0
    bad: int = 0
    """Records that are unusable, not only unwanted."""
    first_bad: str = ""
    """Where the first of these stands, and why it is unusable."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    noted: Counter[str] = field(default_factory=Counter[str])
    unused: Counter[str] = field(default_factory=Counter[str])
    """Records that were used without one of their fields, by its name."""
    lines: list[str] = field(default_factory=list[str])
    """Lines of `dropped.jsonl`, until the part is written: they may be long."""

    def drop(self, record: Record, error: RowError, *, whole: bool = True) -> None:
        """Count a record, and keep it aside unless it is sound and only not wanted.

        Args:
            whole: Nothing of the record is used; False where only some of its replies are lost.
        """
        self.dropped[error.reason] += 1
        if isinstance(error, Filtered):
            return
        self.bad += whole
        self.first_bad = self.first_bad or f"{record.where}: {error.reason}"
        text = record.text or json.dumps(record.value, default=str)
        self.lines.append(
            dropped_line(self.source, record.file, record.line, error.reason, text[:KEPT_TEXT])
        )


def dropped_line(source: str, file: str, line: int, reason: str, text: str, **more: Any) -> str:
    """Return one line of `dropped.jsonl`.

    Args:
        text: The record that cannot be used, or the reply that is dropped.
        more: `reply`, the number of that reply in its record, and `like`, where the row that it
            resembles is.
    """
    row = {"source": source, "file": file, "line": line, "reason": reason, "text": text}
    return json.dumps(row | more) + "\n"
