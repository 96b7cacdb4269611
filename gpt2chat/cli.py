"""Which subcommands exist; the one place an error becomes an exit code."""

import gc
import io
import os
import sys
import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gpt2chat import __version__
from gpt2chat.commands.chat import chat
from gpt2chat.commands.eval import evaluate
from gpt2chat.commands.orpo import orpo
from gpt2chat.commands.prepare import prepare
from gpt2chat.commands.sft import sft
from gpt2chat.core.errors import Gpt2ChatError, Interrupted
from gpt2chat.threads import end_beside_work


class Subcommands(TyperGroup):
    """Turns an error that the user can act on into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            error: Gpt2ChatError = Interrupted("Interrupted; nothing was changed.")
        except Gpt2ChatError as raised:
            error = raised
        from gpt2chat.report import show_error

        show_error(error)
        let_the_first_speak()
        raise typer.Exit(error.exit_code) from error


def let_the_first_speak() -> None:
    """Wait, as one of several processes: the first alone speaks, and torchrun ends it as soon as
    another has ended."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(2)


app = typer.Typer(
    cls=Subcommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        typer.echo(f"gpt2chat {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Turn GPT-2 into a chatbot, from raw public data to a conversation in the terminal.

    In this order: prepare, sft, orpo, eval, chat. Each finds what the one before it wrote.
    """


app.command()(prepare)
app.command()(sft)
app.command()(orpo)
app.command("eval")(evaluate)
app.command()(chat)


def main() -> None:
    """Run the program and leave with its exit code."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the program
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that is not UTF-8 shows a question mark; it does not end the program.
            stream.reconfigure(errors="replace")
    try:
        sys.exit(app())
    except SystemExit as leaving:
        end_beside_work(leaving.code)
        raise
    finally:
        # Python looks through all objects once more as it ends: a second, with torch among them.
        gc.freeze()
