"""The choice of device and precision."""

import pytest
import torch

from gpt2chat.core.errors import HardwareError
from gpt2chat.core.model.device import own_device, pick_autocast, pick_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_an_error_of_the_device_setting():
    with pytest.raises(HardwareError) as refusal:
        pick_device("cuda")
    assert refusal.value.setting == "device"


def test_each_process_of_a_run_uses_its_own_gpu(monkeypatch: pytest.MonkeyPatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device(gpu) == gpu
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(gpu) == torch.device("cuda", 3)
    assert own_device(cpu) == cpu


def test_fp32_is_never_autocast():
    assert pick_autocast("fp32", torch.device("cpu")) is False
    assert pick_autocast("bf16", torch.device("cpu")) is True
