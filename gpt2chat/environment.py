"""Set up the process for torch: environment variables that it reads as it is imported, warnings.

The command line calls this before it imports torch. The core does nothing of the kind: a library
leaves its process alone.
"""

import os
import warnings

from gpt2chat.core.kernelcache import keep_kernels


def prepare_for_training() -> None:
    """Let OpenMP's threads sleep soon when they wait, and bound PyTorch's cache of kernels.

    By default a waiting thread spins, and takes the core from the program that it waits for: with
    two busy programs on two cores a step took a hundred times as long (docs/log.md).
    """
    wait_briefly()
    # A step has about a hundred shapes, forward and backward. With 64 kernels it was a fifth
    # slower (docs/log.md).
    keep_kernels(256)
    hide_advice()


def prepare_for_chat() -> None:
    """Do the same for generation, which meets a new shape with nearly every prompt."""
    wait_briefly()
    keep_kernels(32)
    hide_advice()


def hide_advice() -> None:
    """Hide what PyTorch's compiler advises its programmers to do; a user can do nothing about it.

    TensorFloat32 would make float32 inexact, which a user who asks for `fp32` wants exact.
    """
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    warnings.filterwarnings("ignore", r"\s*Online softmax is disabled", UserWarning)


def wait_briefly() -> None:
    """Let OpenMP's threads sleep after 1,000 rounds of spinning, unless the user has set this."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
