"""Send the metrics of a run to TensorBoard, trackio or Weights & Biases.

The callbacks are transformers' own; the packages come with `pip install gpt2chat[trackers]`.
"""

import os
from pathlib import Path
from typing import Any


def tracker_callbacks(names: tuple[str, ...], out: Path, leader: bool) -> list[Any]:
    """Return the trackers' callbacks. TensorBoard's files go into the run folder.

    Args:
        leader: This is the process of the run that writes. The others get no callbacks.
    """
    from transformers.integrations.integration_utils import (
        TensorBoardCallback,
        TrackioCallback,
        WandbCallback,
    )

    # Otherwise Weights & Biases files the run under "huggingface".
    os.environ.setdefault("WANDB_PROJECT", "gpt2chat")
    callbacks: list[Any] = []
    for name in names if leader else ():
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            callbacks.append(TensorBoardCallback(SummaryWriter(str(out / "tensorboard"))))
        else:
            callbacks.append(TrackioCallback() if name == "trackio" else WandbCallback())
    return callbacks
