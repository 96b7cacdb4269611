"""Choose the device to run on, and the precision."""

import os

import torch

from gpt2chat.core.config.settings import Device, Precision
from gpt2chat.core.errors import HardwareError


def pick_device(name: Device) -> torch.device:
    """Return the device to run on; `auto` is a GPU if there is one.

    Raises:
        HardwareError: This machine does not have the device.
    """
    # Never an Apple GPU: nothing has been measured on one.
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise HardwareError(
            'PyTorch finds no CUDA GPU. Install its driver, or use `device="cpu"`.',
            setting="device",
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise HardwareError('PyTorch finds no Apple GPU. Use `device="cpu"`.', setting="device")
    return torch.device(name)


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process of a run: each process has a GPU of its own."""
    rank = os.environ.get("LOCAL_RANK")  # torchrun and accelerate set it
    if device.type != "cuda" or rank is None:
        return device
    return torch.device("cuda", int(rank))


def device_name(device: torch.device) -> str:
    """Return a description of the device: the GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def pick_autocast(precision: Precision, device: torch.device) -> bool:
    """Return whether to compute in bf16 autocast; `auto` does if the device is fast at it.

    Raises:
        HardwareError: `precision` is "bf16", which the GPU does not support.
    """
    if precision == "fp32":
        return False
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not supported:
            raise HardwareError(
                'This GPU does not support bf16. Use `precision="fp32"`.', setting="precision"
            )
        return supported
    if device.type == "cpu" and precision == "auto":
        # Without these instructions bf16 is emulated, and slower than float32.
        try:
            return torch.cpu.get_capabilities().get("avx512_bf16", False)
        except AttributeError:  # torch 2.11 does not have the function
            return False
    return precision == "bf16"
