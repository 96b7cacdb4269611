"""Where to run, and in which precision."""

import pytest
import torch

from gpt2chat.core.errors import HardwareError
from gpt2chat.core.model.device import own_device, pick_autocast, pick_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(HardwareError, match="sees no GPU"):
        pick_device("cuda")


def test_each_process_of_a_run_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device(gpu) == gpu
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(gpu) == torch.device("cuda", 3)
    assert own_device(cpu) == cpu


def test_fp32_is_never_autocast():
    assert pick_autocast("fp32", torch.device("cpu")) is False
    assert pick_autocast("bf16", torch.device("cpu")) is True
