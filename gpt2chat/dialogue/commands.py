"""The commands: their names, what follows them, and what they do."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from gpt2chat import report
from gpt2chat.dialogue.compare import compare
from gpt2chat.dialogue.settings import context, document, set_, show, system
from gpt2chat.dialogue.turns import bad, clear, edit, good, load, retry, save, undo

if TYPE_CHECKING:
    from gpt2chat.dialogue.dialogue import Dialogue


class Command(NamedTuple):
    """A word with a slash before it."""

    usage: str
    """Its name, and what may follow."""
    meaning: str
    """For /help, in one line."""
    run: Callable[["Dialogue", str], None]
    """Raises Gpt2ChatError where it cannot be done, and EOFError to leave."""
    takes: Literal["nothing", "text", "file", "document", "setting", "model"] = "nothing"
    """What may stand after it, and be completed."""
    needs_model: bool = False
    aliases: tuple[str, ...] = ()
    instead: str = ""
    """What to type where something stands after it that it does not take."""

    @property
    def name(self) -> str:
        """Its first name, with the slash."""
        return self.usage.split()[0]

    @property
    def names(self) -> tuple[str, ...]:
        """All of its names."""
        return (self.name, *self.aliases)


def show_help(_: "Dialogue", _text: str) -> None:
    """List what can be typed."""
    rows = [(command.usage, command.meaning) for command in COMMANDS]
    report.show_rows([*rows, *KEYS])


def leave(_: "Dialogue", _text: str) -> None:
    """Leave the chat."""
    raise EOFError


COMMANDS = (
    Command("/help", "this list", show_help, aliases=("/?",)),
    Command("/clear", "forget all messages; system prompt and document stay", clear),
    Command("/retry", "another reply to the latest message", retry, needs_model=True),
    Command("/undo", "take back the latest message, to write it again", undo),
    Command("/edit [TEXT]", "change the latest reply in the prompt, or to TEXT", edit, "text"),
    Command(
        "/system [TEXT]", "show or change the system prompt; or `default`", system,
        "text",
    ),
    Command(
        "/document [TEXT]", "show or set a text to talk about; or @FILE, or `off`",
        document, "document",
    ),
    Command(
        "/context", "the prompt that comes next, and what leaves it first", context,
        instead="Type /document TEXT to set a document.",
    ),
    Command("/set [NAME VALUE]", "show or change sampling, and `markdown`", set_, "setting"),
    Command("/show", "model, settings, and where things are kept", show),
    Command("/save FILE", "write the chat as JSON, for /load and prepare --chat", save, "file"),
    Command("/load FILE", "go on with a saved chat", load, "file"),
    Command("/good", "note the latest reply, for prepare --feedback", good),
    Command("/bad", "the same; /retry and /good or /edit then make a pair", bad),
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
