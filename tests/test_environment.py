"""The environment is the command line's to set; importing the library changes none of it."""

import os
import subprocess
import sys

import pytest

from gpt2chat.environment import prepare_for_training

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_sleep_soon_unless_the_user_decides(
    own: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "environ", own)
    prepare_for_training()
    assert own.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize("module", ["core.training.train", "core.generation.loading"])
def test_importing_the_core_sets_no_variable(module: str):
    code = (
        f"import os; before = dict(os.environ); import gpt2chat.{module}; "
        f"print([name for name in {NAMES} if os.environ.get(name) != before.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
