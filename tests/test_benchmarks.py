"""The benchmarks run; what they measure is no test's business."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2chat import __version__

ROOT = Path(__file__).parent.parent
FEW = (
    "--model starter --prompts 8 --new 3 --prefill 12 --batches 1 2 --batch-new 2 --repeats 1 "
    "--replies 2 --no-write --device cpu --ways gpt2chat transformers-fp32"
)


def test_the_tables_name_the_version_where_there_is_no_git(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("PATH", "")
    assert importlib.import_module("page").commit() == __version__


@pytest.mark.slow
def test_decode_prints_a_figure_of_every_task_for_each_way():
    command = [sys.executable, "benchmarks/decode.py", *FEW.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    for title in ("gpt2chat", "transformers, float32"):
        single, batch = [row for row in rows if row[0] == title]
        assert [re.fullmatch(r"[\d,.]+×?", cell) for cell in single[1:] + batch[1:]].count(
            None
        ) == 0
        assert (len(single), len(batch)) == (6, 5)
    assert any(row[0] == "float32" and float(row[1].split()[0]) > 1 for row in rows)
