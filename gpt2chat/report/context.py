"""Show the prompt that the model reads next, for `/context`."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpt2chat.core.text.wording import plural
from gpt2chat.report.console import err, note, printable, sign

if TYPE_CHECKING:
    from gpt2chat.core.chat.window import Layout, Part

YOURS = "(your next message)"


def show_context(layout: "Layout") -> None:
    """Print the prompt part by part, each with its tokens, and what leaves the window next."""
    if layout.left:
        note(f"Out of the window: the oldest {layout.left:,} of the chat's messages.")
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    leaving = False
    for part in layout.parts:
        if part.leaves != leaving:
            leaving = part.leaves
            table.add_row("", Text(_line("leaves next" if leaving else "stays"), style="dim"))
        text = Text.assemble(_text(part), style="dim" if part.leaves else "")
        table.add_row(Text(f"{part.tokens:,}", style="dim"), text)
    err.print(table)
    note(f"{layout.tokens:,} of {layout.window:,} tokens, and {layout.reserve:,} for the reply.")
    note(_outlook(layout))


def _line(text: str) -> str:
    dashes = sign("┄", "-") * 3
    return f"{dashes} {text} {dashes}"


def _text(part: "Part") -> Text:
    """Return the text of a part, with control tokens by name and in colour."""
    text = Text()
    for at, span in enumerate(part.spans):
        if part.unwritten and at == len(part.spans) - 1:
            text.append(YOURS, style="italic dim")
        text.append(printable(span.text), style="cyan" if span.control else "")
    return text


def _outlook(layout: "Layout") -> str:
    if layout.room is None:
        return "/retry answers the latest message."
    room = plural(layout.room, "token")
    if any(part.leaves for part in layout.parts):
        return f"A message of more than {room} pushes the oldest exchange out."
    return f"A message may have up to {room}."
