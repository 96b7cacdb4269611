"""The environment is the command line's to set; importing the library changes none of it."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from gpt2chat.environment import prepare_for_chat, prepare_for_training

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


@pytest.mark.parametrize("prepare", [prepare_for_chat, prepare_for_training])
def test_the_advice_of_pytorchs_compiler_stays_off_the_terminal(
    prepare: Callable[[], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "environ", {})
    with warnings.catch_warnings():
        prepare()
        warnings.warn("TensorFloat32 tensor cores for float32 matrix multi...", stacklevel=1)
        warnings.warn("\nOnline softmax is disabled on the fly since ...", stacklevel=1)
        with pytest.raises(UserWarning, match="anything else"):
            warnings.warn("anything else", stacklevel=1)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["core.training.train", "core.generation.loading"])
def test_importing_the_core_sets_no_variable(module: str):
    code = (
        f"import os; before = dict(os.environ); import gpt2chat.{module}; "
        f"print([name for name in {NAMES} if os.environ.get(name) != before.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
