"""Decide whether to compile the model or to use own kernels, and count the compiled graphs."""

import os
import shutil
import warnings
from functools import cache
from types import ModuleType

import torch

from gpt2chat.core.config.settings import Compile
from gpt2chat.core.errors import HardwareError

WORTH = 20_000_000
"""Tokens from which compiling is worth the wait. It takes 25 to 50 s on an H100, in which compiled
GPT-2 124M reads 12 to 23 million tokens. Its speed there without compiling is not measured yet."""


def pick_compile(name: Compile, device: torch.device, tokens: int) -> bool:
    """Return whether to compile; `auto` compiles on a GPU if the run is long enough.

    On a CPU `auto` never compiles: measured, that makes steps slower (docs/measurements.md).

    Args:
        tokens: Tokens of the whole run; 0 in a chat, where somebody waits for each.

    Raises:
        HardwareError: `name` is "on", and there is no compiler for this device.
    """
    if name == "off":
        return False
    able = able_to_compile(device)
    # On a GPU whose compiler is missing, `auto` trains more slowly, and "on" is refused below.
    if name == "auto":
        return able and device.type == "cuda" and tokens >= WORTH
    if not able:
        needed = "Triton" if device.type == "cuda" else "a C++ compiler such as g++"
        raise HardwareError(
            f'`compile="on"` needs {needed}, which is not installed. Install it, or leave out '
            "`compile`.",
            setting="compile",
        )
    return True


def able_to_compile(device: torch.device) -> bool:
    """Return whether there is a compiler for the device."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return has_triton()
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))


@cache
def kernels_for(device: torch.device) -> ModuleType | None:
    """Return the module of Triton kernels if they are wanted and work on the device, else None.

    No GPU has run them yet, so they are used only where the environment variable GPT2CHAT_TRITON
    is `on`, and only after their results have been compared with PyTorch's.
    """
    if device.type != "cuda" or os.environ.get("GPT2CHAT_TRITON") != "on":
        return None
    try:
        from gpt2chat.core.model import triton_kernels

        triton_kernels.check(device)
    except Exception as error:  # of Triton, CUDA and compilers: more kinds than can be listed
        warnings.warn(f"The Triton kernels are not used: {error}", RuntimeWarning, stacklevel=2)
        return None
    return triton_kernels


def compiled_graphs() -> int:
    """Return how many graphs PyTorch has compiled in this process; a run needs one."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]
