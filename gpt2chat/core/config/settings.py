"""What all settings share: their kinds, their rules, their TOML."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from gpt2chat.core.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "fp32"]
Compile = Literal["auto", "on", "off"]


def require(condition: bool, rule: str, value: object) -> None:
    """Raise ConfigError with the rule and the value that breaks it."""
    if not condition:
        raise ConfigError(f"{rule}, not {value}.")


def to_toml(settings: Any) -> str:
    """Return a flat config as TOML that `--config` reads back. None has no line."""
    lines: list[str] = []
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if value is not None:
            plain = str(value) if isinstance(value, Path) else value
            # JSON's strings, numbers, booleans and arrays are TOML as they stand, but for two
            # things: TOML has no surrogate pairs, and no DEL.
            text = json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{entry.name} = {text}")
    return "\n".join(lines) + "\n"
