"""Declare a setting once: its name, type, default, help and checks, for Python and the terminal.

A settings class is a frozen dataclass whose fields are made by `setting`. Everything else comes
from there: the flags and their help, the keywords of the Python functions, what a file of settings
may say, and the error where a value is wrong.
"""

import inspect
import json
import math
import os
import reprlib
import types
from collections.abc import Iterable, Mapping
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
"""No number is as large as this."""


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
        default: Its value where none is given. Without one, a subclass has to give one.
        help: What it does, in one or two sentences. Settings and calls are in backticks, as in
            the messages of errors.
        section: The heading it is listed under in the help.
        aliases: Other names that the command line accepts.
        metavar: What stands for the value in the help, such as "FILE".
        gt: The value must be greater than this. `ge` is "or equal", `lt` less, `le` less or equal.
    """
    bounds = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    metadata = {"help": help, "section": section, "aliases": aliases, "metavar": metavar}
    return field(default=default, metadata={**metadata, **bounds})


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known about one setting of a settings class."""

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
        """The values of a setting that has only a few; empty for any other."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def is_list(self) -> bool:
        """Whether it takes any number of values."""
        return get_origin(self.kind) is tuple

    def parse(self, text: str) -> Any:
        """Return the value that a text spells, checked.

        Raises:
            ConfigError: It spells none, or one out of range.
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
            ConfigError: It has another type, or is out of range.
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
            self.require(False, self._range(), value)
        finite = not isinstance(value, float) or math.isfinite(value)
        self.require(finite, "a finite number", value)
        # torch and numpy count with 64 bits.
        self.require(not number or value < LARGEST, f"below {LARGEST}", value)
        return value

    def require(self, condition: bool, rule: str, value: object) -> None:
        """Raise ConfigError with the rule and the value that breaks it, unless the rule holds."""
        if not condition:
            raise ConfigError(
                f"`{self.name}` must be {rule}, not {shown(value)}.", setting=self.name
            )

    def _convert(self, value: Any) -> Any:
        kind = self.kind
        # A bool is an int to Python, and `epochs = true` a mistake.
        if isinstance(value, bool) != (kind is bool):
            raise self._wrong_type(value)
        if kind is bool:
            return value
        if kind is int and isinstance(value, Integral):
            return int(value)
        if kind is float and isinstance(value, Real):
            return _float(value)
        if self.is_list and isinstance(value, list | tuple):
            return tuple(self._text(item) for item in value)
        text = self._text(value)
        if self.is_list:
            return (text,)
        # An empty path is the current folder to Python, and a NUL ends a name to the system.
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
            # What the system's file names hold; other surrogates can be written to no file.
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
        return ConfigError(f"`{self.name}` must be {rule}, not {shown(value)}.", setting=self.name)

    def _range(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"from {self.ge} to {self.le}"
        words = {"above": self.gt, "at least": self.ge, "below": self.lt, "at most": self.le}
        return " and ".join(f"{word} {end}" for word, end in words.items() if end is not None)


def shown(value: object) -> str:
    """Return a value as a message quotes it: in one line, and shortened if it is long."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return "that number"


def _float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A settings class's base: each value is checked, and brought to its type, when it is made."""

    def __post_init__(self) -> None:
        for name, entry in _own_settings(type(self)).items():
            # The dataclass is frozen for everyone else.
            object.__setattr__(self, name, entry.check(getattr(self, name)))
        self.check_together()

    def check_together(self) -> None:
        """Check what the type and range of a single setting cannot say.

        Raises:
            ConfigError: Two settings contradict each other, or one breaks a rule of its own.
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


def _inner_settings(config_type: type) -> dict[str, type]:
    """Return the settings classes that are fields of a settings class, by the field's name."""
    hints = get_type_hints(config_type)
    return {e.name: hints[e.name] for e in fields(config_type) if is_dataclass(hints[e.name])}


@cache
def settings_of(config_type: type) -> Mapping[str, Setting]:
    """Return all settings of a class by name, in order.

    Those of a class that it contains, such as the sampling of a chat, come as if they were its own.
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
    """Return the settings that names and values describe: keywords of Python, or a TOML file's.

    Raises:
        ConfigError: A name is unknown, or a value has the wrong type or is out of range.
    """
    values = check_values(config_type, values)
    own = {name: values[name] for name in _own_settings(config_type) if name in values}
    for name, inner in _inner_settings(config_type).items():
        own[name] = settings_from(inner, {n: values[n] for n in settings_of(inner) if n in values})
    return config_type(**own)


def check_values(config_type: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return some settings of a class, each checked by itself and in its own type.

    Raises:
        ConfigError: A name is unknown, or a value has the wrong type or is out of range.
    """
    known = settings_of(config_type)
    for name in values:
        if name not in known:
            raise ConfigError(_unknown(name, known))
    return {name: known[name].check(value) for name, value in values.items()}


def _unknown(name: str, known: Mapping[str, Setting]) -> str:
    """Return what to say of a name that no setting has; another program's name has ours."""
    names = {
        alias: entry.name for entry in known.values() for alias in (entry.name, *entry.aliases)
    }
    if name in names:
        return f"There is no setting {name}: it is `{names[name]}` here."
    similar = [names[alias] for alias in get_close_matches(name, names, n=1)]
    hint = f"Did you mean `{similar[0]}`?" if similar else f"The settings are {', '.join(known)}."
    return f"There is no setting {name}. {hint}"


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
    """Return a line on each setting of a class, for the docstring of a function that takes them."""
    lines = (f"{entry.name}: {entry.help}" for entry in settings_of(config_type).values())
    return "\n".join(lines)


def to_toml(settings: Settings) -> str:
    """Return settings as TOML that `settings_from` reads back. None has no line."""
    values = ((name, getattr(settings, name)) for name in _own_settings(type(settings)))
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values if value is not None)


def _toml(value: str | float | Path | Iterable[str]) -> str:
    plain = str(value) if isinstance(value, Path) else value
    # JSON's numbers, booleans, arrays and strings are TOML's, with two exceptions: JSON escapes an
    # emoji as two surrogates, which TOML does not know, and leaves U+007F as it is.
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
