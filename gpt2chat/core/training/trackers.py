"""Send the metrics of a run to TensorBoard, trackio or Weights & Biases.

The callbacks are transformers' own; the packages come with `pip install gpt2chat[trackers]`.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from gpt2chat.core.errors import ConfigError


def require_trackers(names: tuple[str, ...]) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        ConfigError: A package is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"The tracker {name} is not installed. Run pip install {name}.", setting="report_to"
            )


def tracker_callbacks(names: tuple[str, ...], out: Path, leader: bool) -> list[Any]:
    """Return the callbacks of the trackers. TensorBoard's files go into the run folder.

    Args:
        leader: Whether this is the process of the run that writes.
    """
    from transformers.integrations.integration_utils import (
        TensorBoardCallback,
        TrackioCallback,
        WandbCallback,
    )

    os.environ.setdefault("WANDB_PROJECT", "gpt2chat")
    callbacks: list[Any] = []
    for name in names if leader else ():
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            callbacks.append(TensorBoardCallback(SummaryWriter(str(out / "tensorboard"))))
        else:
            callbacks.append(TrackioCallback() if name == "trackio" else WandbCallback())
    return callbacks
