"""Declare a setting once: its name, type, default, help and checks, for Python and the terminal.

A settings class is a frozen dataclass whose fields are made by `setting`. The flags and their help,
the keywords of the Python functions, the keys of a settings file and the errors about values are
all made from these fields.
"""

import inspect
import json
import math
import os
import reprlib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from gpt2chat.core.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "fp32"]
Compile = Literal["auto", "on", "off"]
LARGEST = 2**63
"""Numbers must be below this: torch and numpy count with 64 bits."""


def setting(
    default: Any = MISSING,
    *,
    help: str,
    section: str,
    aliases: tuple[str, ...] = (),
    metavar: str | None = None,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> Any:
    """Return a dataclass field that is a setting.

    A subclass that gives the field another default, as in `lr: float = 1e-4`, inherits the rest.

    Args:
        default: The default value. If it is missing, a subclass must give one.
        help: What the setting does, in one or two sentences. Settings and calls are in backticks,
            as in the messages of errors.
        section: The heading in the help.
        aliases: Other names that the command line accepts.
        metavar: Placeholder for the value in the help, such as "FILE".
        gt: The value must be greater than this. The others are greater or equal, less, and less or
            equal.
    """
    bounds = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    metadata = {"help": help, "section": section, "aliases": aliases, "metavar": metavar}
    return field(default=default, metadata={**metadata, **bounds})


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a settings class."""

    name: str
    annotation: Any
    default: Any
    help: str
    section: str
    aliases: tuple[str, ...]
    metavar: str | None
    gt: float | None
    ge: float | None
    lt: float | None
    le: float | None

    @property
    def kind(self) -> Any:
        """The annotation without None: int for `int | None`."""
        if get_origin(self.annotation) in (types.UnionType, Union):
            return next(kind for kind in get_args(self.annotation) if kind is not types.NoneType)
        return self.annotation

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a setting with a fixed choice; empty for any other setting."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def is_list(self) -> bool:
        """Whether the setting takes any number of values."""
        return get_origin(self.kind) is tuple

    def parse(self, text: str) -> Any:
        """Return the value in a text, checked.

        Raises:
            ConfigError: The text is not such a value, or the value is out of range.
        """
        if self.kind not in (int, float):
            return self.check(text)
        try:
            return self.check(self.kind(text))
        except ValueError:
            raise self._wrong_type(text) from None

    def check(self, value: Any) -> Any:
        """Return a value in the setting's own type: a Path for a string, a tuple for a list.

        Raises:
            ConfigError: The value has the wrong type, or is out of range.
        """
        if value is None and self.annotation is not self.kind:
            return None
        value = self._convert(value)
        number = isinstance(value, int | float)
        if number and not (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        ):
            words = {"above": self.gt, "at least": self.ge, "below": self.lt, "at most": self.le}
            # "from 0 to 1" reads better than "at least 0 and at most 1".
            ends = " and ".join(f"{word} {end}" for word, end in words.items() if end is not None)
            is_closed = self.ge is not None and self.le is not None
            self.require(False, f"from {self.ge} to {self.le}" if is_closed else ends, value)
        # NaN passes no comparison above, but infinity does where there is no upper bound.
        finite = not isinstance(value, float) or math.isfinite(value)
        self.require(finite, "a finite number", value)
        self.require(not number or value < LARGEST, f"below {LARGEST}", value)
        return value

    def require(self, condition: bool, rule: str, value: object) -> None:
        """Raise ConfigError with the rule and the value that breaks it, unless the rule holds."""
        if not condition:
            raise ConfigError(
                f"`{self.name}` must be {rule}, not {quote(value)}.", setting=self.name
            )

    def _convert(self, value: Any) -> Any:
        kind = self.kind
        # In Python a bool is an int, but `epochs = true` is a mistake.
        if isinstance(value, bool) != (kind is bool):
            raise self._wrong_type(value)
        if kind is bool:
            return value
        if kind is int and isinstance(value, Integral):
            return int(value)
        if kind is float and isinstance(value, Real):
            try:
                return float(value)
            except OverflowError:  # A whole number of more than 308 digits.
                return math.inf
        if self.is_list and isinstance(value, list | tuple):
            return tuple(self._text(item) for item in value)
        text = self._text(value)
        if self.is_list:
            return (text,)
        # Python takes an empty path for the current folder, and the system ends a name at a NUL.
        if kind is Path and text and "\0" not in text:
            return Path(text)
        if kind is str or text in self.choices:
            return text
        raise self._wrong_type(value)

    def _text(self, value: Any) -> str:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(text, str):
            raise self._wrong_type(value)
        try:
            # Surrogates that stand for bytes of file names are fine; others cannot be written.
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            self.require(False, "valid Unicode", text)
        return text

    def _wrong_type(self, value: object) -> ConfigError:
        names: dict[Any, str] = {
            bool: "true or false", int: "a whole number", float: "a number", str: "text",
            Path: "a path",
        }  # fmt: skip
        if self.choices:
            rule = " or ".join(filter(None, [", ".join(self.choices[:-1]), self.choices[-1]]))
        else:
            rule = "a list of texts" if self.is_list else names[self.kind]
        return ConfigError(f"`{self.name}` must be {rule}, not {quote(value)}.", setting=self.name)


def quote(value: object) -> str:
    """Return a value as messages quote it: on one line, and shortened if it is long."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # Python does not print a whole number of more than 4,300 digits.
        return "that number"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings classes, which checks each value and converts it to its type."""

    def __post_init__(self) -> None:
        for name, entry in _own_settings(type(self)).items():
            # The dataclass is frozen; only this method may set a field.
            object.__setattr__(self, name, entry.check(getattr(self, name)))
        self.check_together()

    def check_together(self) -> None:
        """Check rules that involve several settings, or more than a type and a range.

        Raises:
            ConfigError: A rule is broken.
        """

    def require(self, name: str, condition: bool, rule: str) -> None:
        """Raise ConfigError with a setting's rule and value, unless the rule holds."""
        _own_settings(type(self))[name].require(condition, rule, getattr(self, name))


@cache
def _own_settings(config_type: type) -> Mapping[str, Setting]:
    """Return the settings of a class, without those of the settings it contains."""
    hints = get_type_hints(config_type)
    known: dict[str, Setting] = {}
    for entry in fields(config_type):
        if is_dataclass(hints[entry.name]):
            continue
        # Where a subclass only changes a default, as in `lr: float = 1e-4`, the rest is declared in
        # one of its bases.
        declared = (
            base.__dataclass_fields__[entry.name].metadata
            for base in config_type.__mro__
            if is_dataclass(base) and entry.name in base.__dataclass_fields__
        )
        known[entry.name] = Setting(
            name=entry.name,
            annotation=hints[entry.name],
            default=entry.default,
            **next(filter(None, declared)),
        )
    return known


@cache
def settings_of(config_type: type) -> Mapping[str, Setting]:
    """Return all settings of a class by name, in order.

    They include those of a settings class that it contains, such as the sampling of a chat.
    """
    hints, known = get_type_hints(config_type), dict[str, Setting]()
    for entry in fields(config_type):
        if is_dataclass(hints[entry.name]):
            known |= settings_of(hints[entry.name])
        else:
            known[entry.name] = _own_settings(config_type)[entry.name]
    return known


ConfigT = TypeVar("ConfigT", bound=Settings)


def settings_from(config_type: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Return a settings class made from names and values, such as keywords or a TOML file.

    Raises:
        ConfigError: A name is unknown, or a value has the wrong type or is out of range.
    """
    values = check_values(config_type, values)
    own = {name: values[name] for name in _own_settings(config_type) if name in values}
    hints = get_type_hints(config_type)
    for entry in fields(config_type):
        inner = hints[entry.name]
        if isinstance(inner, type) and issubclass(inner, Settings):
            inner_values = {name: values[name] for name in settings_of(inner) if name in values}
            own[entry.name] = settings_from(inner, inner_values)
    return config_type(**own)


def check_values(config_type: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return some settings of a class, each checked on its own and converted to its type.

    Raises:
        ConfigError: A name is unknown, or a value has the wrong type or is out of range.
    """
    known = settings_of(config_type)
    for name in values:
        if name in known:
            continue
        # The aliases, such as transformers' `learning_rate`, are for the command line only.
        names = {alias: e.name for e in known.values() for alias in (e.name, *e.aliases)}
        if name in names:
            raise ConfigError(f"There is no setting {name}: it is `{names[name]}` here.")
        similar = [names[alias] for alias in get_close_matches(name, names, n=1)]
        raise ConfigError(
            f"There is no setting {name}. "
            + (f"Did you mean `{similar[0]}`?" if similar else f"There are {', '.join(known)}.")
        )
    return {name: known[name].check(value) for name, value in values.items()}


def signature_of(config_type: type) -> inspect.Signature:
    """Return the signature of a function that takes the settings of a class as keywords."""
    return inspect.Signature(
        [
            inspect.Parameter(
                entry.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if entry.default is MISSING else entry.default,
                annotation=entry.annotation,
            )
            for entry in settings_of(config_type).values()
        ]
    )


def describe_settings(config_type: type) -> str:
    """Return a line about each setting, for the docstring of a function that takes them."""
    lines = (f"{entry.name}: {entry.help}" for entry in settings_of(config_type).values())
    return "\n".join(lines)


def to_toml(settings: Settings) -> str:
    """Return settings as TOML that `settings_from` reads back. A None is left out."""
    lines: list[str] = []
    for name in _own_settings(type(settings)):
        value = getattr(settings, name)
        if value is None:  # TOML has no word for it
            continue
        plain = str(value) if isinstance(value, Path) else value
        # JSON's numbers, booleans, arrays and strings are also TOML's, with two exceptions: JSON
        # may escape an emoji as two surrogates, which TOML forbids, and it does not escape U+007F.
        toml = json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
        lines.append(f"{name} = {toml}\n")
    return "".join(lines)
