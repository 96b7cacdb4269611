"""The examples of docs/python.md run as they are printed."""

import re
import shutil
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


def examples(heading: str) -> list[str]:
    """Return the Python blocks under a heading of the page, with its subheadings."""
    text = PAGE.read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_the_examples_of_a_chat_run_in_order(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(tiny_folder, tmp_path / "runs" / "orpo")
    monkeypatch.chdir(tmp_path)
    blocks = examples("Talk with a model")
    assert len(blocks) > 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.replace("seed=1", "seed=1, max_new_tokens=8"), names)
    assert (tmp_path / "comet.json").exists()
    assert (tmp_path / "feedback.jsonl").exists()


@pytest.mark.slow
def test_the_examples_of_training_run_in_order(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in examples("Prepare, train and measure"):
        # The same calls on a smaller model and less data.
        small = block.replace('model="starter"', 'model="tiny"').replace(
            "limit=100", "limit=4, generations=0"
        )
        exec(small.replace("epochs=1", "epochs=1, limit=8, evals=1, eval_samples=4"), names)
    assert (tmp_path / "runs" / "orpo" / "eval.json").exists()
