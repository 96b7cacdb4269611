"""What becomes of the records of one part: counted, and the unusable ones kept aside."""

import json
from collections import Counter
from dataclasses import dataclass, field

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import KEPT_TEXT, Record
from gpt2chat.core.inputs.shapes import Filtered


@dataclass(slots=True)
class Tally:
    """Counts of one part, and its unusable records as lines of `rejected.jsonl`."""

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
    rejected: list[str] = field(default_factory=list[str])

    def reject(self, record: Record, error: RowError, *, whole: bool = True) -> None:
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
        self.rejected.append(
            rejected_line(self.source, record.file, record.line, error.reason, text[:KEPT_TEXT])
        )


def rejected_line(source: str, file: str, line: int, reason: str, text: str = "") -> str:
    """Return one line of `rejected.jsonl`; its text where the record cannot be used at all."""
    row = {"source": source, "file": file, "line": line, "reason": reason, "text": text}
    return json.dumps(row) + "\n"
