"""The benchmarks run; what they measure is no test's business."""

import importlib
import json
import os
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


@pytest.mark.slow
def test_the_run_for_a_gpu_measures_every_kind_of_section_in_a_dry_run(
    tiny_data: Path, tmp_path: Path
):
    # Of sections that differ in a setting only, one is enough here; a user's dry run has them all.
    sections = ["sft", "decode", "orpo", "trl-sft-tuned", "transformers", "tests", "batches",
                "steps", "lengths", "sizes", "kernels"]  # fmt: skip
    command = [
        sys.executable, "benchmarks/gpu.py", "--dry-run", "--data", str(tiny_data),
        "--out", str(tmp_path), "--sections", *sections,
    ]  # fmt: skip
    # No network, and no model to download.
    environment = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(row["section"] for row in results)) == ["machine", *sections]
    # Only a GPU, or Triton's interpreter, could run the kernels.
    assert {row["section"] for row in results if "failed" in row} == {"sizes"}
    speeds = [row["tokens/s"] for row in results if "tokens/s" in row]
    assert len(speeds) > 10
    assert min(speeds) > 0
    (tests,) = [row["result"] for row in results if row["section"] == "tests"]
    assert re.fullmatch(r"[1-9]\d* collected", tests)
    assert "### Decoding one reply" in (tmp_path / "tables.md").read_text()


def test_a_run_for_a_gpu_skips_what_does_not_fit_into_its_minutes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu = importlib.import_module("gpu")
    asked = gpu.Asked(minutes=0.1, out=tmp_path, data=tmp_path, sections=["sft"], dry_run=False)
    gpu.run_all(asked)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["section"], row["failed"][:8]) for row in rows] == [
        ("machine", "skipped:"), ("sft", "skipped:"),
    ]  # fmt: skip
