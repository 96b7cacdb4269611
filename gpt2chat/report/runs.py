"""Print a table of runs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpt2chat.report.console import note, out, printable, show_json

if TYPE_CHECKING:
    from gpt2chat.core.runs import RunSummary


def show_runs(runs: "Sequence[RunSummary]", folder: Path, *, json: bool) -> None:
    """Print a table of runs, and below it what is wrong with damaged ones."""
    if json:
        show_json([asdict(run) for run in runs])
        return
    if not runs:
        note(f"There are no runs in {folder}.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("run", "command", "model", "data"):
        table.add_column(name, overflow="fold")
    for name in ("loss", "validation"):
        table.add_column(name, justify="right")
    table.add_column("state", no_wrap=True)
    for run in runs:
        state = run.state
        if run.state == "unfinished":
            state += f" at step {run.step:,}" if run.step is not None else ", no checkpoint"
        texts = (str(run.folder), run.command, run.model, run.data)
        losses = ("" if loss is None else f"{loss:.3f}" for loss in (run.loss, run.validation_loss))
        # Text, not str: names of files may look like rich's markup.
        table.add_row(*(Text(printable(text or "")) for text in (*texts, *losses, state)))
    out.print(table)
    for run in runs:
        if run.problem:
            note(run.problem)
