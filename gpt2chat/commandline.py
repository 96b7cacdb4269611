"""Turn the core's Python wording into what a user types on the command line."""

import ast
import re
import shlex
from functools import cache

from gpt2chat.core.config.chat import ChatConfig
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.config.settings import settings_of
from gpt2chat.core.config.training import OrpoConfig, SftConfig

COMMANDS = {
    "prepare": "prepare",
    "sft": "sft",
    "orpo": "orpo",
    "evaluate": "eval",
    "chat": "chat",
    "list_runs": "runs",
}
"""The subcommand of each public function that has one."""
CONFIGS = {
    "prepare": PrepareConfig,
    "sft": SftConfig,
    "orpo": OrpoConfig,
    "evaluate": EvalConfig,
    "chat": ChatConfig,
}
"""The settings of the same functions."""


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

    def command_line(match: re.Match[str]) -> str:
        code, processes, sharded = match.groups()
        line = _translated(code)
        if line is None:
            return match[0]
        if sharded:
            return f"accelerate launch --config_file FILE -m {line}"
        return f"torchrun --nproc-per-node {processes} -m {line}" if processes else line

    return re.sub(r"`([^`]+)`(?: in (\d+) process(?:es)?( under FSDP)?)?", command_line, text)


def _translated(code: str) -> str | None:
    if code in known_settings():
        return flag(code)
    try:
        tree = ast.parse(code if "(" in code else f"settings({code})", mode="eval").body
    except SyntaxError:
        return None
    match tree:
        case ast.Call(func=ast.Name(id=function), args=[], keywords=keywords):
            pass
        case _:
            return None
    if any(keyword.arg not in known_settings() for keyword in keywords):
        return None
    words = [_typed(str(keyword.arg), keyword.value) for keyword in keywords]
    if function == "settings":
        return " ".join(words)
    return " ".join(["gpt2chat", COMMANDS[function], *words]) if function in COMMANDS else None


def flag(setting: str, *, negated: bool = False) -> str:
    """Return the flag of a setting: --max-length for max_length, --no-merge for merge, negated."""
    return ("--no-" if negated else "--") + setting.replace("_", "-")


def _typed(setting: str, value: ast.expr) -> str:
    match value:
        case ast.Constant(value=True):
            return flag(setting)
        case ast.Constant(value=False):
            return flag(setting, negated=True)
        case ast.Constant(value=constant):
            return f"{flag(setting)} {shlex.quote(str(constant))}"
        case _:
            # A placeholder such as FILE.
            return f"{flag(setting)} {ast.unparse(value)}"
