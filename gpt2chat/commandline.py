"""Turn the core's Python wording into what a user types on the command line."""

import ast
import re
import shlex
from functools import cache

from gpt2chat.core.config.chat import ChatConfig
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.config.export import ExportConfig
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.core.config.settings import settings_of
from gpt2chat.core.config.telegram import TelegramConfig
from gpt2chat.core.config.training import OrpoConfig, SftConfig

COMMANDS = {
    "prepare": "prepare",
    "sft": "sft",
    "orpo": "orpo",
    "evaluate": "eval",
    "chat": "chat",
    "serve": "serve",
    "export": "export",
    "list_runs": "runs",
}
"""Public functions that are subcommands, with the subcommands' names."""
CONFIGS = {
    "prepare": PrepareConfig,
    "sft": SftConfig,
    "orpo": OrpoConfig,
    "evaluate": EvalConfig,
    "chat": ChatConfig,
    "serve": ServeConfig,
    "export": ExportConfig,
    "telegram": TelegramConfig,
}
"""The settings classes of the functions that have one."""


@cache
def known_settings() -> frozenset[str]:
    """Return the names of all settings of all commands."""
    return frozenset(name for config in CONFIGS.values() for name in settings_of(config))


def to_command_line(text: str) -> str:
    """Return a message with its settings as flags and its calls as commands.

    `lr` becomes --lr, `lr=0.1` becomes --lr 0.1, and `sft(lr=0.1)` becomes gpt2chat sft --lr 0.1.
    A call "in 2 processes" gets torchrun as its launcher, and one "in 2 processes under FSDP"
    accelerate. Anything else between backticks stays as it is: it may be a quoted file name.
    """
    pattern = r"`([^`]+)`(?: in (\d+) process(?:es)?( under FSDP)?)?"
    return re.sub(pattern, _as_typed, text)


def _as_typed(match: re.Match[str]) -> str:
    """Return a setting, its value or a call as the user types it; anything else unchanged."""
    code, processes, sharded = match.groups()
    launcher = f"torchrun --nproc-per-node {processes} -m " if processes else ""
    if sharded:
        launcher = "accelerate launch --config_file FILE -m "
    if code in known_settings():
        return launcher + flag(code)
    # Python's own parser, so that quotes, numbers and placeholders need no rules of ours.
    try:
        tree = ast.parse(code if "(" in code else f"settings({code})", mode="eval").body
    except SyntaxError:
        return match[0]
    match tree:
        case ast.Call(func=ast.Name(id=function), args=[], keywords=keywords):
            pass
        case _:
            return match[0]
    words: list[str] = []
    for keyword in keywords:
        setting = str(keyword.arg)
        if setting not in known_settings():
            return match[0]
        match keyword.value:
            case ast.Constant(value=bool(value)):
                words.append(flag(setting, negated=not value))
            case ast.Constant(value=value):
                words.append(f"{flag(setting)} {shlex.quote(str(value))}")
            case placeholder:  # such as FILE
                words.append(f"{flag(setting)} {ast.unparse(placeholder)}")
    if function == "settings":
        return launcher + " ".join(words)
    if function not in COMMANDS:
        return match[0]
    return launcher + " ".join(["gpt2chat", COMMANDS[function], *words])


def flag(setting: str, *, negated: bool = False) -> str:
    """Return the flag of a setting: --max-length for max_length, --no-merge for merge, negated."""
    return ("--no-" if negated else "--") + setting.replace("_", "-")
