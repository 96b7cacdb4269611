"""The notebook runs from top to bottom, and its stored outputs are those of a whole run."""

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient: pip install '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install '.[dev]'")

PAGE = Path(__file__).parent.parent / "docs" / "gpt2chat.ipynb"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def html(notebook: Any) -> str:
    """Return the tables among a notebook's outputs."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.get("data", {}).get("text/html", "") for output in outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Jupyter's own libraries
def test_the_notebook_runs_on_a_smaller_model_and_less_data(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook: Any = nbformat.read(PAGE, 4)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    # As papermill would: the values of the cell, and nothing else, are other ones.
    parameters.source = (
        f"SAMPLE, MODEL, EPOCHS = True, {str(tiny_folder)!r}, 1\nSAMPLES, PAIRS, HELD_OUT = 4, 2, 2"
    )
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1200, resources=resources).execute()
    assert (tmp_path / "runs" / "orpo" / "eval.json").exists()
    assert html(notebook).count("<table") >= 4


def test_the_stored_outputs_are_those_of_one_whole_run():
    cells = code_cells(nbformat.read(PAGE, 4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not re.search(r"/tmp/|/home/|/root/|Warning", str(outputs))
