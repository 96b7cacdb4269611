"""metrics.jsonl of a run: one JSON object a line."""

import json
import math
from pathlib import Path
from typing import Any

from gpt2chat.core.files import reading


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl without nulls; a last one that was cut off is left out.

    Raises:
        CheckpointError: Another line is not what `json_line` writes.
    """
    if not path.exists():
        return []
    with reading(path):
        text = path.read_text("utf-8")
        lines: list[dict[str, Any]] = []
        # Whatever stands after the last line break was being written when the run was killed.
        for number, line in enumerate(text.split("\n")[:-1], 1):
            values = json.loads(line)
            sound = isinstance(values, dict) and isinstance(values.get("step"), int)
            if not sound or not all(isinstance(v, int | float | None) for v in values.values()):
                raise ValueError(f"line {number} is not a line of metrics")
            lines.append({name: value for name, value in values.items() if value is not None})
    return lines


def json_line(values: dict[str, Any]) -> str:
    """Return a line of a metrics.jsonl; what is not finite, for which JSON has no word, is null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
