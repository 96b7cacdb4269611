"""`gpt2chat runs`."""

from pathlib import Path
from typing import Annotated

import typer

from gpt2chat import options


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of run folders, or one run.")] = Path(
        "runs"
    ),
    json: options.Json = False,
) -> None:
    """List runs: what each was made from, its losses, and whether it is finished."""
    from gpt2chat.core.runs import list_runs
    from gpt2chat.report import show_runs

    show_runs(list_runs(folder), folder, json=json)
