"""Collect the subcommands, and turn an error into one line and an exit code."""

import errno
import gc
import io
import os
import re
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gpt2chat import __version__
from gpt2chat.commands.chat import chat
from gpt2chat.commands.eval import evaluate
from gpt2chat.commands.export import export
from gpt2chat.commands.prepare import prepare
from gpt2chat.commands.runs import runs
from gpt2chat.commands.serve import serve
from gpt2chat.commands.telegram import telegram
from gpt2chat.commands.train import orpo, sft
from gpt2chat.core.errors import (
    ConfigError,
    Gpt2ChatError,
    HardwareError,
    Interrupted,
    StorageError,
)
from gpt2chat.options import Command, command
from gpt2chat.threads import exit_without_waiting

NO_MEMORY = "Out of memory. Close other programs, or give the program more."
DELETED = "The working directory was deleted. Change to another one."


class Subcommands(TyperGroup):
    """Turns an error that the user can act on into one line and an exit code."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the subcommands, each with the whole first sentence of its help."""
        # Click cuts the sentences to what fits one line.
        rows = [
            (name, (command.help or "").partition("\n\n")[0].replace("\n", " "))
            for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        with errors_in_one_line():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: Any) -> Any:
        with errors_in_one_line():
            return super().invoke(ctx)


@contextmanager
def errors_in_one_line() -> Generator[None]:
    """Print an error that the user can act on, and leave with its exit code."""
    try:
        if not working_directory_exists():
            raise ConfigError(DELETED)
        yield
        return
    except KeyboardInterrupt:
        error: Gpt2ChatError = Interrupted("Interrupted; nothing was changed.")
    except typer.TyperException as usage:
        similar: list[str] = getattr(usage, "possibilities", None) or []
        message = usage.message if similar else usage.format_message()
        # pydantic, which reads the few flags that are not settings, says "Input should be …".
        message = re.sub(r"Invalid value for '(.+?)': Input should", r"\1 must", message)
        message = message if message.endswith((".", "?")) else f"{message}."
        nearest = f" Did you mean {' or '.join(similar)}?" if similar else ""
        error = ConfigError(message + nearest)
    except Gpt2ChatError as raised:
        error = raised
    except OSError as problem:
        if not working_directory_exists():
            error = StorageError(DELETED)
        # The core's errors name the file they are about. Without a name it is our own output.
        elif problem.filename is None and problem.errno in (errno.ENOSPC, errno.EDQUOT):
            error = StorageError(f"Cannot write the output: {problem.strerror}.")
            # Python writes the rest of the buffer as it ends, and would fail once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        elif problem.errno == errno.ENOMEM:
            error = HardwareError(NO_MEMORY)
        else:
            raise
    except (MemoryError, ImportError) as problem:
        # What the loader says where no room is left for a library.
        if isinstance(problem, ImportError) and "map segment" not in str(problem):
            raise
        error = HardwareError(NO_MEMORY)
    from gpt2chat.report import show_error

    show_error(error)
    if os.environ.get("RANK", "0") != "0":
        # Only the first of several processes prints, and torchrun ends it as soon as another one
        # has ended: leave it the time.
        time.sleep(2)
    raise typer.Exit(error.exit_code) from error


def working_directory_exists() -> bool:
    """Return whether the working directory still exists; relative paths depend on it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


app = typer.Typer(
    cls=Subcommands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # Lines wider than this are harder to read, however wide the terminal is.
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 160},
)


def show_version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        typer.echo(f"gpt2chat {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Turn GPT-2 into a chatbot, from raw public data to a conversation in the terminal.

    Run them in this order: prepare, sft, orpo, eval, chat. Each finds what the one before it wrote.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


for name, function in {
    "prepare": prepare,
    "sft": sft,
    "orpo": orpo,
    "eval": evaluate,
    "chat": chat,
    "serve": serve,
    "export": export,
    "telegram": telegram,
}.items():
    app.command(name, cls=Command)(command(function, name))
app.command(cls=Command)(runs)


def main() -> None:
    """Run the program and leave with its exit code."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent process closed it
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that is not UTF-8 shows a question mark; it does not end the program.
            stream.reconfigure(errors="replace")
    # No progress bars and no advice from inside the libraries. They read these variables as they
    # are imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        sys.exit(app())
    except SystemExit as leaving:
        exit_without_waiting(leaving.code)
        raise
    finally:
        # As it ends, Python traverses all objects once more: a second, with those of torch.
        gc.freeze()
