"""Where to run, and in which precision."""

import os

import torch

from gpt2chat.core.config.settings import Device, Precision
from gpt2chat.core.errors import HardwareError


def pick_device(name: Device) -> torch.device:
    """Return the device to run on; `auto` is a GPU if there is one.

    Raises:
        HardwareError: The device asked for is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise HardwareError("--device cuda: PyTorch sees no GPU. Without --device the CPU is used.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise HardwareError("--device mps: PyTorch sees none. Without --device the CPU is used.")
    return torch.device(name)


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process of a run: of several GPUs each process has its own."""
    rank = os.environ.get("LOCAL_RANK")
    if device.type != "cuda" or rank is None:
        return device
    return torch.device("cuda", int(rank))


def device_name(device: torch.device) -> str:
    """Return the device for people: the GPU's name, or how many CPU threads there are."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def pick_autocast(precision: Precision, device: torch.device) -> bool:
    """Return whether to run in bf16 autocast; `auto` does where the device is fast at it.

    Raises:
        HardwareError: bf16 is asked for on a GPU that cannot do it.
    """
    if precision == "fp32":
        return False
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not able:
            raise HardwareError("--precision bf16: this GPU has none. Use --precision fp32.")
        return able
    if device.type == "cpu" and precision == "auto":
        # Without these instructions bf16 is emulated, and slower than float32.
        try:
            return torch.cpu.get_capabilities().get("avx512_bf16", False)
        except AttributeError:  # torch 2.11
            return False
    return precision == "bf16"
