"""The choice between a compiled and a plain model."""

import pytest
import torch

from gpt2chat.core.errors import HardwareError
from gpt2chat.core.model.compiling import WORTH, kernels_for, pick_compile

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


def test_kernels_that_fail_are_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch):
    kernels_for.cache_clear()
    cuda = torch.device("cuda", 7)
    assert kernels_for(cuda) is None  # not asked for
    monkeypatch.setenv("GPT2CHAT_TRITON", "on")
    assert kernels_for(CPU) is None
    kernels_for.cache_clear()
    # There is no such GPU here; without Triton its import fails.
    with pytest.warns(RuntimeWarning, match="kernels are not used"):
        assert kernels_for(cuda) is None
    kernels_for.cache_clear()
