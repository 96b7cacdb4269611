"""Print the result of an export: the proof, the files and the next step."""

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from gpt2chat.report.console import out, say, show_json

if TYPE_CHECKING:
    from gpt2chat.core.export.export import Export

NEXT = {
    "gguf": "Next: llama-server -m {file}",
    "ollama": "Next: ollama create {name} -f {folder}/Modelfile",
}
"""How to use an export, by format."""


def show_export(result: "Export", *, json: bool) -> None:
    """Print how close the export is to its original, and its files with their sizes."""
    if json:
        show_json(asdict(result))
        return
    from gpt2chat.core.export.proof import proof_rows

    heads, *rows = proof_rows(result.proofs)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for head in heads[1:]:
        table.add_column(escape(head), justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)
    out.print()
    for name, size in result.files:
        say(f"{size / 1e6:10,.1f} MB  {name}")
    if result.path is None:
        say(f"Uploaded: {result.uploaded}" if result.uploaded else "Nothing was uploaded.")
        return
    folder = shlex.quote(str(result.path))
    say(f"Written: {folder}")
    # Of a GGUF export, that is the model: its other files are short texts.
    largest = max(result.files, key=lambda file: file[1])[0]
    if result.format in NEXT:
        name = shlex.quote(result.path.resolve().name)
        say(NEXT[result.format].format(file=f"{folder}/{largest}", name=name, folder=folder))
