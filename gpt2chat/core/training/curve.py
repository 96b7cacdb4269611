"""Draw the curves of a run: the loss and, for ORPO, preference accuracy and margin."""

import statistics
from pathlib import Path
from typing import Any

from gpt2chat.core.files import storage
from gpt2chat.core.training.metrics import read_lines

TRAINING_COLOUR, VALIDATION_COLOUR, SAVED_COLOUR = "tab:blue", "tab:orange", "tab:green"
AXIS_LABELS = {
    "loss": "loss (nats per token)",
    "orpo loss": "NLL + β · odds ratio loss\n(nats)",
    "accuracy": "preference accuracy\n(share of pairs)",
    "margin": "margin\n(nats per token)",
}
"""Names and units of the axes."""
NOTE = (
    "Training is measured with dropout, on each batch before the step learns from it. "
    "Validation is\nmeasured without dropout, on the same held-out samples each time. So the two "
    "differ from the first step on."
)


def draw(metrics: Path, picture: Path, *, title: str, saved_step: int | None) -> None:
    """Draw the training and validation metrics of a metrics.jsonl over the steps.

    A thin line is each step; the thick one is a running mean over a twentieth of the run.

    Args:
        saved_step: Mark this step as the one whose weights are saved; None draws no mark.

    Raises:
        StorageError: The picture cannot be written.
    """
    # pyplot would look for a display.
    from matplotlib.figure import Figure

    lines = read_lines(metrics)
    panels = ["loss", *(name for name in ("accuracy", "margin") if any(name in x for x in lines))]
    figure = Figure(figsize=(8, 4.8 + 2 * (len(panels) - 1)), layout="constrained")
    heights = [3.0] + [1.5] * (len(panels) - 1)
    grid: Any = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)
    for axes, name in zip(grid[:, 0], panels, strict=True):
        steps = [line["step"] for line in lines if name in line]
        values = [line[name] for line in lines if name in line]
        axes.plot(steps, values, color=TRAINING_COLOUR, alpha=0.3, linewidth=0.8)
        width = max(1, len(values) // 20)
        ends = range(1, len(values) + 1)
        smooth = [statistics.fmean(values[max(0, end - width) : end]) for end in ends]
        axes.plot(steps, smooth, color=TRAINING_COLOUR, label="training")
        held_out = {line["step"]: line[f"eval_{name}"] for line in lines if f"eval_{name}" in line}
        if held_out:
            axes.plot(*zip(*held_out.items(), strict=True), "o-", color=VALIDATION_COLOUR,
                      label="validation")  # fmt: skip
        if saved_step is not None:
            axes.axvline(saved_step, color=SAVED_COLOUR, linestyle="--", linewidth=1,
                         label=f"saved weights: step {saved_step}")  # fmt: skip
        axes.set_ylabel(AXIS_LABELS["orpo loss" if name == "loss" and len(panels) > 1 else name])
        axes.grid(alpha=0.3)
    # The font lacks most other letters, and matplotlib would warn about each.
    figure.suptitle(title.encode("ascii", "replace").decode(), parse_math=False)
    grid[0, 0].legend()
    grid[-1, 0].set_xlabel("optimizer step")
    if any("eval_loss" in line for line in lines):
        figure.supxlabel(NOTE, fontsize=8, color="0.4", ha="left", x=0.02)
    with storage(picture):
        figure.savefig(picture, dpi=120)
