"""Print samples for `prepare --show`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from gpt2chat.report.console import err, out, printable, sign

if TYPE_CHECKING:
    from gpt2chat.core.data.show import Shown

MOST_LINES = 60
"""Lines of an untrained part that are printed; of a longer one, its first 40 and last 20.

The end is what the reply answers; the trained part, which is to be checked, is printed whole."""
LAST_LINES = 20


def show_samples(samples: "Sequence[Shown]", *, json: bool) -> None:
    """Print samples: the untrained part in grey, a dividing line, and the trained part in green.

    With `json` they go to stderr.
    """
    # With `json`, stdout has the result of `prepare` alone.
    console = err if json else out
    line = sign("──", "--")
    for sample in samples:
        heading = f"{sample.id}: {sample.tokens:,} tokens, {sample.trained_tokens:,} trained"
        console.print(Text("\n" + printable(heading), style="bold"), soft_wrap=True)
        untrained = shortened(printable(sample.untrained))
        console.print(Text(untrained, style="bright_black"), soft_wrap=True)
        console.print(Text(f"{line} trained {line}", style="dim"))
        console.print(Text(printable(sample.trained), style="green"), soft_wrap=True)


def shortened(text: str) -> str:
    """Return a text without its last line break, and without its middle if it has many lines."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) > MOST_LINES:
        left_out = len(lines) - MOST_LINES
        lines[MOST_LINES - LAST_LINES : -LAST_LINES] = [f"[{left_out:,} lines are not shown]"]
    return "\n".join(lines)
