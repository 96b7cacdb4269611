"""A run that is killed at any moment resumes, or starts again, and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FINISHED = ["metrics.jsonl", "model.safetensors", "result.json", "run.toml"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("flags", [[], ["overwrite"]])
def test_a_run_killed_at_any_change_of_its_folder_finishes_with_its_files_alone(
    flags: list[str], tmp_path: Path
):
    command = [sys.executable, "-m", "tests.killed", str(tmp_path), *flags]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent
    )
    assert process.returncode == 0, process.stderr
    kills = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(kills) > 80
    for kill in kills:
        assert (kill["again"], kill["names"]) == (0, FINISHED), kill
