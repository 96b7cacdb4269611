"""The bound on compiled kernels: set before PyTorch reads it, unless the user sets it."""

import os
import subprocess
import sys

import pytest

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("from gpt2chat.environment import prepare_for_chat as f; f()", "32"),
        ("from gpt2chat.environment import prepare_for_training as f; f()", "256"),
    ],
)
@pytest.mark.parametrize("own", [None, "7"])
def test_each_command_bounds_the_kernels_unless_the_user_does(
    code: str, count: str, own: str | None
):
    code += f"; import os; print(*(os.environ[name] for name in {NAMES}))"
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    if own:
        environment |= dict.fromkeys(NAMES, own)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [own or count] * 2
