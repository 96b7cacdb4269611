"""A limit that is too low is one line before the work, not an abort in the middle of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from gpt2chat.core.limits import require_address_space

resource = pytest.importorskip("resource", reason="Windows has no such limit")


def test_without_a_limit_everything_may_start():
    require_address_space(2**62)


@pytest.mark.parametrize("megabytes", [400, 600, 800])
def test_prepare_in_too_little_address_space_is_one_line(megabytes: int, tmp_path: Path):
    limit = megabytes * 2**20
    process = subprocess.run(
        [sys.executable, "-m", "gpt2chat", "prepare", "--sample"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert process.returncode == 5
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
