"""Parse JSON whose nesting is bounded, so that no later step can run out of stack."""

import json
from typing import Any, cast

DEEPEST = 100
"""Most levels of lists and objects. Python's own limit varies with the depth of the call stack."""


class NestedTooDeep(ValueError):
    """The JSON has more than `DEEPEST` levels."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        NestedTooDeep: The value has more than `DEEPEST` levels.
        ValueError: The text is not JSON, or has a number of more than 4,300 digits.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise NestedTooDeep("nested too deep") from None
    # Few records have enough brackets to be too deep; only those are walked.
    if text.count("[") + text.count("{") > DEEPEST and is_too_deep(value):
        raise NestedTooDeep("nested too deep")
    return value


def is_too_deep(value: object) -> bool:
    """Return whether a value has more than `DEEPEST` levels of lists and objects."""
    # Level by level: a recursive walk would run out of the stack that it is to protect.
    level = [value]
    for _ in range(DEEPEST):
        inner: list[object] = []
        for outer in level:
            if isinstance(outer, dict):
                inner.extend(cast(dict[str, object], outer).values())
            elif isinstance(outer, list):
                inner.extend(cast(list[object], outer))
        level = [one for one in inner if isinstance(one, dict | list)]
        if not level:
            return False
    return True
