"""The curves of a run, as a picture: the loss, and for ORPO what it does to the pairs."""

from pathlib import Path
from typing import Any

from gpt2chat.core.files import storage
from gpt2chat.core.training.metrics import read_lines

TRAINING, VALIDATION = "tab:blue", "tab:orange"
PAIRS = {"accuracy": "reward accuracy", "margin": "margin (nats per token)"}
"""What is drawn below an ORPO run's loss."""
ORPO_LOSS = "loss (NLL + β · odds ratio loss)"


def draw(metrics: Path, picture: Path) -> None:
    """Draw a metrics.jsonl over its steps: training, and validation where there was any.

    A thin line is each step; the thick one a running mean over a twentieth of the run.

    Raises:
        StorageError: The picture cannot be written.
    """
    # No pyplot: it would look for a display.
    from matplotlib.figure import Figure

    lines = read_lines(metrics)
    pairs = [name for name in PAIRS if any(name in line for line in lines)]
    figure = Figure(figsize=(8, 4.5 + 2 * len(pairs)), layout="constrained")
    ratios = [3.0] + [1.5] * len(pairs)
    panels: Any = figure.subplots(1 + len(pairs), sharex=True, squeeze=False, height_ratios=ratios)
    for axes, name in zip(panels[:, 0], ["loss", *pairs], strict=True):
        _draw_line(axes, lines, name)
        axes.set_ylabel(PAIRS.get(name, ORPO_LOSS if pairs else "loss (nats per token)"))
        axes.grid(alpha=0.3)
    panels[0, 0].legend()
    panels[-1, 0].set_xlabel("optimizer step")
    with storage(picture):
        figure.savefig(picture, dpi=120)


def _draw_line(axes: Any, lines: list[dict[str, Any]], name: str) -> None:
    steps = [line["step"] for line in lines if name in line]
    values = [line[name] for line in lines if name in line]
    axes.plot(steps, values, color=TRAINING, alpha=0.3, linewidth=0.8)
    smooth = running_mean(values, max(1, len(values) // 20))
    axes.plot(steps, smooth, color=TRAINING, label="training")
    held_out = [(line["step"], line[f"eval_{name}"]) for line in lines if f"eval_{name}" in line]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", color=VALIDATION, label="validation")


def running_mean(values: list[float], width: int) -> list[float]:
    """Return the mean of each value and up to `width` - 1 before it."""
    means: list[float] = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - width) : end]
        means.append(sum(window) / len(window))
    return means
