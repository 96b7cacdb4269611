"""Trackers that get a run's metrics beside metrics.jsonl: TensorBoard, trackio, Weights & Biases.

They are transformers' own callbacks; the packages come with `pip install gpt2chat[trackers]`.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from gpt2chat.core.errors import ConfigError


def require_trackers(names: tuple[str, ...]) -> None:
    """Refuse a tracker that is not installed, before anything is done for the run.

    Raises:
        ConfigError: Its package is not there.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"--report-to {name}: it is not installed. Type pip install {name}.")


def tracker_callbacks(names: tuple[str, ...], out: Path, leads: bool) -> list[Any]:
    """Return the callbacks; TensorBoard's files go into the run folder.

    Args:
        leads: Whether this is the process of the run that writes.
    """
    from transformers.integrations.integration_utils import (
        TensorBoardCallback,
        TrackioCallback,
        WandbCallback,
    )

    os.environ.setdefault("WANDB_PROJECT", "gpt2chat")
    callbacks: list[Any] = []
    for name in names if leads else ():
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            callbacks.append(TensorBoardCallback(SummaryWriter(str(out / "tensorboard"))))
        else:
            callbacks.append(TrackioCallback() if name == "trackio" else WandbCallback())
    return callbacks
