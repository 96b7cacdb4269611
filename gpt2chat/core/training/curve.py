"""Draw the curves of a run: the loss, and for ORPO what it does to the pairs."""

from pathlib import Path
from typing import Any

from gpt2chat.core.files import storage
from gpt2chat.core.training.metrics import read_lines

TRAINING, VALIDATION, SAVED = "tab:blue", "tab:orange", "tab:green"
LABELS = {
    "loss": "loss (nats per token)",
    "orpo loss": "NLL + β · odds ratio loss\n(nats)",
    "accuracy": "preference accuracy\n(share of pairs)",
    "margin": "margin\n(nats per token)",
}
"""Names and units of the axes."""
NOTE = (
    "Training is measured with dropout, on rows as they come, before each step learns from them. "
    "Validation is\nmeasured without dropout, on the same held-out samples each time. So the two "
    "differ from the first step on."
)


def draw(metrics: Path, picture: Path, *, title: str, saved_step: int | None) -> None:
    """Draw a metrics.jsonl over its steps: training, and validation if there was any.

    A thin line is each step; the thick one is a running mean over a twentieth of the run.

    Args:
        saved_step: Step whose weights are saved, to be marked; None to mark none.

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
        axes.plot(steps, values, color=TRAINING, alpha=0.3, linewidth=0.8)
        smooth = running_mean(values, max(1, len(values) // 20))
        axes.plot(steps, smooth, color=TRAINING, label="training")
        held_out = {line["step"]: line[f"eval_{name}"] for line in lines if f"eval_{name}" in line}
        if held_out:
            axes.plot(*zip(*held_out.items(), strict=True), "o-", color=VALIDATION,
                      label="validation")  # fmt: skip
        if saved_step is not None:
            axes.axvline(saved_step, color=SAVED, linestyle="--", linewidth=1,
                         label=f"saved weights: step {saved_step}")  # fmt: skip
        axes.set_ylabel(LABELS["orpo loss" if name == "loss" and len(panels) > 1 else name])
        axes.grid(alpha=0.3)
    # The font lacks most other letters, and matplotlib would warn about each.
    figure.suptitle(title.encode("ascii", "replace").decode(), parse_math=False)
    grid[0, 0].legend()
    grid[-1, 0].set_xlabel("optimizer step")
    if any("eval_loss" in line for line in lines):
        figure.supxlabel(NOTE, fontsize=8, color="0.4", ha="left", x=0.02)
    with storage(picture):
        figure.savefig(picture, dpi=120)


def running_mean(values: list[float], width: int) -> list[float]:
    """Return the mean of each value and up to `width` - 1 before it."""
    means: list[float] = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - width) : end]
        means.append(sum(window) / len(window))
    return means
