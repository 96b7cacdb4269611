"""Build a command's flags from its settings class, and read settings from `--config`."""

import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand

from gpt2chat.commandline import flag, to_command_line
from gpt2chat.core.config.settings import (
    Setting,
    Settings,
    check_values,
    settings_from,
    settings_of,
)
from gpt2chat.core.errors import ConfigError

Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel="Output"),
]
Given: TypeAlias = Mapping[str, str]
"""The settings that the user gave, each with the flag that sets it, or the file of `--config`."""


class Command(TyperCommand):
    """Lists flags under the headings of their settings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags, each section under its heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            name, text = parameter.get_help_record(ctx) or ("", "")
            if parameter.default is False:
                # --no-x is of use only against a file of settings, so the help leaves it out.
                name = name.partition(" / ")[0]
            for alias in parameter.opts[1:]:
                # Next to the flag, Hugging Face's long names would fill the column.
                if alias.startswith("--") and parameter.opts[0].startswith("--"):
                    name = name.replace(f", {alias}", "")
            heading = getattr(parameter, "rich_help_panel", None) or "General"
            # Click breaks lines at spaces and hyphens; other characters hold these together.
            text = re.sub(
                r"--[a-z-]+|\[default: [^]]*\]",
                lambda match: match[0].translate(_UNBREAKABLE),
                text,
            )
            sections.setdefault(heading, []).append((name, text))
        # One width for all sections, so that the texts form one column.
        width = max(20, min(30, formatter.width // 3))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows], width)
        formatter.buffer[:] = [part.translate(_BREAKABLE) for part in formatter.buffer]


_UNBREAKABLE = str.maketrans({" ": "\xa0", "-": "\u2011"})
_BREAKABLE = str.maketrans({"\xa0": " ", "\u2011": "-"})


def command(run: Callable[..., None], name: str) -> Callable[..., None]:
    """Return the Typer command of a function whose first parameter is a settings class.

    Its flags are the settings, the function's own flags and `--config`. A function with a parameter
    `given` receives a `Given`.
    """
    function = inspect.signature(run, eval_str=True)
    first, *others = function.parameters.values()
    config_type: type[Settings] = first.annotation
    known = settings_of(config_type)
    own_flags = [parameter for parameter in others if parameter.name != "given"]

    def body(context: typer.Context, **values: Any) -> None:
        path = values["config"]
        file = read_settings(name, path, config_type) if path is not None else {}
        flags: dict[str, Any] = {}
        for entry in known.values():
            # By where it came from, not by its value: `--lr 2e-4` overrides a file although 2e-4 is
            # the default.
            if "COMMANDLINE" in str(context.get_parameter_source(entry.name)):
                value = values[entry.name]
                if entry.kind is not bool:
                    value = tuple(value) if entry.is_list else entry.parse(value)
                flags[entry.name] = value
        settings = settings_from(config_type, {**file, **flags})
        extra = {parameter.name: values[parameter.name] for parameter in own_flags}
        if "given" in function.parameters:
            extra["given"] = dict.fromkeys(file, f"--config {path}") | {n: f"`{n}`" for n in flags}
        run(settings, **extra)

    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *map(_parameter, known.values()),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own_flags),
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    "--config",
                    metavar="FILE",
                    help="TOML file of settings, such as the run.toml of a run, or the name of a "
                    "preset. Flags override it.",
                ),
            ],
        ),
    ]
    # Typer reads both, and click the name and the text.
    body.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    body.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    body.__name__, body.__doc__ = name, run.__doc__
    return body


def _parameter(entry: Setting) -> inspect.Parameter:
    """Return a setting as a parameter that Typer turns into a flag.

    Typer passes text, except for switches: the settings class knows the types and reports errors.
    """
    names = [flag(entry.name)]
    aliases = [flag(alias) if len(alias) > 1 else f"-{alias}" for alias in entry.aliases]
    default: Any = None if entry.default in (None, ()) else str(entry.default)
    if entry.is_list and entry.default:
        default = list(map(str, entry.default))
    annotation: Any = list[str] | None if entry.is_list else str | None
    kinds: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH"}
    metavar = f"[{'|'.join(entry.choices)}]" if entry.choices else kinds.get(entry.kind, "TEXT")
    metavar = entry.metavar or metavar
    if entry.kind is bool:
        names = [f"{flag(entry.name)}/{flag(entry.name, negated=True)}"]
        default, annotation, metavar = entry.default, bool, None
    text = to_command_line(entry.help) + " May be repeated." * entry.is_list
    if other_names := [alias for alias in aliases if alias.startswith("--")]:
        text += f" Also {', '.join(other_names)}."
    option = typer.Option(
        *names,
        *aliases,
        help=text,
        metavar=metavar,
        show_default=default not in (None, "", False),
        rich_help_panel=entry.section,
        autocompletion=(lambda: list(entry.choices)) if entry.choices else None,
    )
    return inspect.Parameter(
        entry.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[annotation, option],
    )


def read_settings(command: str, name: str, config_type: type[Settings]) -> dict[str, Any]:
    """Return the settings of the file that `--config` names.

    Raises:
        ConfigError: There is no such file and no such preset, it cannot be read, or it has a
            setting that is unknown, of the wrong type or out of range.
    """
    path = preset(command, Path(name))
    try:
        values = tomllib.loads(path.read_text("utf-8", errors="surrogateescape"))
    except OSError as error:
        text = f"Cannot read {path}: {error.strerror}. Check the path."
        raise ConfigError(text, setting="config") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.", setting="config") from error
    try:
        return check_values(config_type, values)
    except ConfigError as error:
        # In a file settings have their plain names. Backticks would turn these into flags.
        raise ConfigError(f"{path}: {str(error).replace('`', '')}", setting="config") from error


PRESETS = Path(__file__).parent / "presets"
"""Settings that come with the package, such as presets/sft/reference.toml."""


def preset(command: str, path: Path) -> Path:
    """Return the file that `--config` names: one of the user's, or a preset by its bare name.

    Raises:
        ConfigError: There is neither.
    """
    # A file of the same name comes first, and a mistyped path is reported as a file.
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    bundled = PRESETS / command / f"{path.name}.toml"
    if bundled.exists():
        return bundled
    names = sorted(file.stem for file in (PRESETS / command).glob("*.toml"))
    known = f"the presets of {command} are {', '.join(names)}" if names else "there are no presets"
    raise ConfigError(f"There is no file {path}, and {known}.", setting="config")
