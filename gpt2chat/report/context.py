"""Show the prompt that the model reads next, for `/context`."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpt2chat.core.text.wording import plural
from gpt2chat.report.console import err, note, printable, sign

if TYPE_CHECKING:
    from gpt2chat.core.chat.window import Layout, Part

PLACEHOLDER = "(your next message)"


def show_context(layout: "Layout") -> None:
    """Print the prompt part by part, each with its tokens, and what leaves the window next."""
    if layout.left:
        note(f"Outside the window: the chat's oldest {plural(layout.left, 'message')}.")
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    # The oldest exchange leaves first, but system prompt and document stay: there may be several
    # stretches of either kind, and each gets a heading.
    leaving = False
    for part in layout.parts:
        if part.leaves != leaving:
            leaving = part.leaves
            dashes = sign("┄", "-") * 3
            title = "leaves next" if leaving else "stays"
            table.add_row("", Text(f"{dashes} {title} {dashes}", style="dim"))
        text = Text.assemble(_text(part), style="dim" if part.leaves else "")
        table.add_row(Text(f"{part.tokens:,}", style="dim"), text)
    err.print(table)
    note(f"{layout.tokens:,} of {layout.window:,} tokens, and {layout.reserve:,} for the reply.")
    if layout.room is None:
        note("/retry answers the latest message.")
    elif any(part.leaves for part in layout.parts):
        room = plural(layout.room, "token")
        note(f"A message of more than {room} pushes the oldest exchange out.")
    else:
        note(f"A message may have up to {plural(layout.room, 'token')}.")


def _text(part: "Part") -> Text:
    """Return the text of a part, with control tokens by name and in colour."""
    text = Text()
    for at, span in enumerate(part.spans):
        if part.unwritten and at == len(part.spans) - 1:
            text.append(PLACEHOLDER, style="italic dim")
        text.append(printable(span.text), style="cyan" if span.control else "")
    return text
