"""The choice between a compiled and a plain model."""

import pytest
import torch

from gpt2chat.core.errors import HardwareError
from gpt2chat.core.model.compiling import WORTH, pick_compile

CPU = torch.device("cpu")


def test_auto_compiles_neither_on_a_cpu_nor_for_a_short_run():
    assert pick_compile("off", CPU, 10**12) is False
    assert pick_compile("auto", CPU, 10**12) is False
    assert pick_compile("auto", torch.device("cuda"), WORTH - 1) is False


def test_without_a_compiler_compiling_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HardwareError) as caught:
        pick_compile("on", CPU, 1)
    assert caught.value.setting == "compile"
