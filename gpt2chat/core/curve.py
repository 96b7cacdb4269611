"""The loss curve of a run, as a picture."""

import json
from pathlib import Path
from typing import Any

from gpt2chat.core.files import storage


def draw(metrics: Path, picture: Path) -> None:
    """Draw training and validation loss over the steps of a metrics.jsonl.

    The thin line is each step; the thick one a running mean over a twentieth of the run.

    Raises:
        StorageError: The picture cannot be written.
    """
    # No pyplot: it would look for a display.
    from matplotlib.figure import Figure

    lines: list[dict[str, Any]] = [
        json.loads(text) for text in metrics.read_text(encoding="utf-8").splitlines()
    ]
    training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    validation = [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    steps, losses = [step for step, _ in training], [loss for _, loss in training]
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8)
    axes.plot(
        steps,
        running_mean(losses, max(1, len(losses) // 20)),
        color="tab:blue",
        label="training",
    )
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="tab:orange", label="validation")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    with storage(picture):
        figure.savefig(picture, dpi=120)


def running_mean(values: list[float], width: int) -> list[float]:
    """Return the mean of each value and up to `width` - 1 before it."""
    means: list[float] = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - width) : end]
        means.append(sum(window) / len(window))
    return means
