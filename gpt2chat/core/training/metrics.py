"""metrics.jsonl of a run: one JSON object a line."""

import json
import math
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl without nulls, a last one that was cut off left out."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(text)
            except ValueError:
                break
            lines.append({name: value for name, value in values.items() if value is not None})
    return lines


def json_line(values: dict[str, Any]) -> str:
    """Return a line of a metrics.jsonl; what is not finite, for which JSON has no word, is null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
