"""Whether to compile."""

import pytest
import torch

from gpt2chat.core.errors import HardwareError
from gpt2chat.core.model.compiling import WORTH, pick_compile

CPU = torch.device("cpu")


def test_compiling_is_automatic_only_where_it_earns_its_wait():
    assert pick_compile("off", CPU, 10**12) is False
    assert pick_compile("auto", CPU, 10**12) is False
    assert pick_compile("auto", torch.device("cuda"), WORTH - 1) is False


def test_without_a_compiler_compiling_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HardwareError, match=r"C\+\+ compiler"):
        pick_compile("on", CPU, 1)
