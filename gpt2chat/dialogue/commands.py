"""Define the slash commands, and do what a typed line says."""

import difflib
from collections.abc import Callable
from typing import Literal, NamedTuple

from gpt2chat import report
from gpt2chat.core.errors import ConfigError, DataError, Gpt2ChatError
from gpt2chat.dialogue.compare import compare
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.settings import context, document, set_, show, system
from gpt2chat.dialogue.text import shortened, unquoted
from gpt2chat.dialogue.turns import bad, clear, edit, good, load, retry, save, undo

FAREWELL = ("bye", "quit", "exit")


class Command(NamedTuple):
    """A slash command."""

    usage: str
    """Name and argument, as /help shows them."""
    meaning: str
    """Line of /help."""
    run: Callable[[Dialogue, str], None]
    """Function of the dialogue and the argument. It raises Gpt2ChatError if it cannot do its work,
    and EOFError to leave the chat."""
    takes: Literal["nothing", "text", "file", "document", "setting", "model"] = "nothing"
    """Kind of the argument, for completion."""
    needs_model: bool = False
    aliases: tuple[str, ...] = ()
    instead: str = ""
    """Advice for a user who gives an argument to a command that takes none."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names, with the slash."""
        return (self.usage.split()[0], *self.aliases)


def show_help(_: Dialogue, _text: str) -> None:
    """List the commands and the keys."""
    rows = [(command.usage, command.meaning) for command in COMMANDS]
    report.show_rows([*rows, *KEYS])


def leave(_: Dialogue, _text: str) -> None:
    """Leave the chat."""
    raise EOFError


COMMANDS = (
    Command("/help", "show this list", show_help, aliases=("/?",)),
    Command("/clear", "forget all messages; system prompt and document stay", clear),
    Command("/retry", "get another reply to the latest message", retry, needs_model=True),
    Command("/undo", "take back the latest message, to edit it", undo),
    Command("/edit [TEXT]", "edit the latest reply, or replace it with TEXT", edit, "text"),
    Command(
        "/system [TEXT]", "show or change the system prompt, or `default`", system,
        "text",
    ),
    Command(
        "/document [TEXT]", "show or set a text to talk about, or @FILE, or `off`",
        document, "document",
    ),
    Command(
        "/context", "show the next prompt, and what leaves it first", context,
        instead="Type /document TEXT to set a document.",
    ),
    Command("/set [NAME VALUE]", "show or change how replies are sampled", set_, "setting"),
    Command("/show", "show the model, the settings, and where files are", show),
    Command("/save FILE", "save the chat as JSON, for /load and prepare --chat", save, "file"),
    Command("/load FILE", "continue a saved chat", load, "file"),
    Command("/good", "rate the latest reply as good, for prepare --feedback", good),
    Command("/bad", "rate it as bad; a better one then makes a pair", bad),
    Command(
        "/compare [TEXT]", "ask all models and vote; /compare MODEL loads another", compare,
        "model", needs_model=True,
    ),
    Command(
        "/exit", "leave, as do Ctrl-D, bye, quit and exit", leave, "text",
        aliases=("/bye", "/quit"),
    ),
)  # fmt: skip
KEYS = (
    ('""" … """', "a message of several lines; Alt-Enter adds a line"),
    ("Ctrl-C", "stop the reply, or drop the line"),
    ("Tab, Up, Ctrl-R", "complete, find earlier lines; Ctrl-L clears the screen"),
)


def take(dialogue: Dialogue, line: str) -> None:
    """Do what a typed line says. An error is one line on stderr, and the chat continues.

    Raises:
        EOFError: The user leaves.
        KeyboardInterrupt: Ctrl-C, before there was a reply to stop. The chat is unchanged.
        Gpt2ChatError: The model that answers cannot be loaded.
    """
    text = line.strip()
    if text.lower() in FAREWELL:
        raise EOFError
    if not text:
        return
    # A model to compare with may have failed to load while the user typed.
    # The first one's error ends the chat, where its reply is needed.
    for name in dialogue.models.names[1:]:
        loading = dialogue.models.loading(name)
        error = loading.exception() if loading.done() else None
        if isinstance(error, Gpt2ChatError):
            dialogue.models.remove(name)
            report.show_error(error)
    with dialogue.interrupt:
        try:
            if line.startswith("/"):
                _run_command(dialogue, text)
            else:
                dialogue.model()  # waits until it is loaded
                _reporting_errors(lambda: dialogue.ask(unquoted(text)))
        finally:
            dialogue.save()  # also after Ctrl-C: the text so far is part of the chat


def _run_command(dialogue: Dialogue, line: str) -> None:
    word, rest = (line.split(maxsplit=1) + ["", ""])[:2]
    command = next((command for command in COMMANDS if word.lower() in command.names), None)
    if command is None:
        names = [name for command in COMMANDS for name in command.names]
        longer = [name for name in names if len(word) > 1 and name.startswith(word.lower())]
        # The beginning of a command says more than a few letters in common: /ret is /retry.
        near = longer or difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.7)
        suggestion = f"Did you mean {near[0]}? " if near else ""
        advice = "Type /help, or a space before a message that begins with a slash."
        report.show_error(ConfigError(f"There is no command {word}. {suggestion}{advice}"))
        dialogue.draft = line if rest else ""  # a long line returns to the prompt
        return
    if rest and command.takes == "nothing":
        instead = command.instead or f"Leave out {shortened(rest, 40)}."
        report.show_error(ConfigError(f"{word.lower()} takes nothing. {instead}"))
        return
    if command.needs_model:
        dialogue.model()  # waits until it is loaded
    _reporting_errors(lambda: command.run(dialogue, unquoted(rest)))


def _reporting_errors(action: Callable[[], None]) -> None:
    """Print an error of an action and return, so that the chat continues."""
    try:
        action()
    except Gpt2ChatError as error:
        report.show_error(error)
    except BrokenPipeError:
        raise  # nobody reads stdout any more, so the chat ends
    except OSError as error:
        report.show_error(DataError(f"{error.filename or 'The file'}: {error.strerror}."))
