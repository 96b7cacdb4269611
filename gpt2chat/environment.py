"""Set environment variables that torch reads as it is imported.

The command line calls this before it imports torch. A library must leave its process alone, so the
core sets none of them.
"""

import os

from gpt2chat.core.kernelcache import keep_kernels


def prepare_for_training() -> None:
    """Let OpenMP's threads sleep soon when they wait, and bound what PyTorch keeps of kernels.

    By default a waiting thread spins, and takes its core from the program that it waits for: with
    two busy programs on two cores a step took a hundred times as long (docs/log.md).
    """
    wait_briefly()
    # A step has some hundred shapes, forward and backward: with 64 it was a fifth slower
    # (docs/log.md).
    keep_kernels(256)


def prepare_for_chat() -> None:
    """Do the same for generation, which meets a new shape with nearly every prompt."""
    wait_briefly()
    keep_kernels(32)


def wait_briefly() -> None:
    """Let OpenMP's threads sleep after a thousand rounds of waiting, unless the user decides it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
