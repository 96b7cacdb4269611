"""A chat of 500 turns: what has left the window is kept as its text, and nothing else grows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import TURNS

GROWTH = 2 << 20
"""Bytes that the process may grow by in its last 200 turns; a fifth of that is usual. One prompt
of a full window is 18 KiB as a list of ids, and 256 KiB as keys and values: kept of each turn, that
would be 3.5 or 50 MiB."""
OVERHEAD = 64
"""Bytes that a message may take in addition to its text."""


@pytest.mark.slow
def test_500_turns_take_no_more_memory_than_their_text(tmp_path: Path):
    process = subprocess.run(
        [sys.executable, "-m", "tests.soak", str(tmp_path / "chats")],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    assert "left the window" in process.stderr
    found = json.loads(process.stderr.splitlines()[-1])
    assert found["growth"] < GROWTH
    assert found["most_used"] <= found["window"]
    assert found["turns"] == 2 * TURNS
    assert found["pickled"] < found["text"] + OVERHEAD * 2 * TURNS
    assert found["saved"]
