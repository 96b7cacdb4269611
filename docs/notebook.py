"""Run gpt2chat.ipynb in an empty folder, and store its outputs: python docs/notebook.py"""

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).with_name("gpt2chat.ipynb")


def tidied(notebook: Any) -> Any:
    """Return a notebook with what a page needs: no times of execution, no progress bars."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            outputs: list[Any] = []
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    continue  # progress, and advice of libraries
                if outputs and output.output_type == outputs[-1].output_type == "stream":
                    # A streamed reply comes in pieces, which GitHub shows one below the other.
                    outputs[-1].text += output.text
                    continue
                if "text/html" in output.get("data", {}):
                    output.data.pop("text/plain", None)  # the same as one long line
                outputs.append(output)
            cell.outputs = outputs
    return notebook


def main() -> None:
    """Run all cells, each with as much time as it takes."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does
    notebook: Any = nbformat.read(PAGE, 4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=None, resources=resources).execute()
    nbformat.write(tidied(notebook), PAGE)


if __name__ == "__main__":
    main()
