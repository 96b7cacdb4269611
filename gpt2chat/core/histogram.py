"""Histograms of the data, as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2chat.core.shards import LENGTH_BINS, Lengths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"sft": "SFT", "preference": "preferences", "reference": "reference set"}
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
"""Okabe and Ito's colours, which the colour-blind can tell apart."""


def draw_lengths(lengths: dict[str, dict[str, Lengths]], window: int, picture: Path) -> None:
    """Draw how many training rows have prompts and replies of which length, by source.

    The same lengths give the same bytes.

    Args:
        lengths: As in the manifest, by kind and split.
        window: Tokens that the bars share out.
    """
    figure = lengths_figure(lengths, window)
    figure.savefig(picture, dpi=120, metadata={"Software": None})


def lengths_figure(lengths: dict[str, dict[str, Lengths]], window: int) -> "Figure":
    """Return the picture: a row of panels for each kind that has training rows."""
    # No pyplot: it would look for a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    kinds = [kind for kind, splits in lengths.items() if splits.get("train")]
    sources = list(dict.fromkeys(name for kind in kinds for name in lengths[kind]["train"]))
    colours = {name: PALETTE[n % len(PALETTE)] for n, name in enumerate(sources)}
    figure = Figure(figsize=(9, 0.6 + 3 * max(len(kinds), 1)), layout="constrained")
    panels: Any = figure.subplots(max(len(kinds), 1), 2, squeeze=False)
    for row, kind in zip(panels, kinds, strict=False):
        for axes, part in zip(row, ("prompt", "reply"), strict=True):
            _stack(axes, lengths[kind]["train"], part, window, colours)
            axes.set(title=f"{NAMES[kind]}: {part}", xlabel="tokens", ylabel="training rows")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    handles, labels = _legend(panels)
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    return figure


def _stack(axes: Any, lengths: Lengths, part: str, window: int, colours: dict[str, str]) -> None:
    width = window / LENGTH_BINS
    places = [number * width for number in range(LENGTH_BINS)]
    below = [0] * LENGTH_BINS
    for source, bars in lengths.items():
        axes.bar(
            places,
            bars[part],
            width,
            below,
            align="edge",
            color=colours[source],
            label=source,
            edgecolor="white",
            linewidth=0.4,
        )
        below = [low + more for low, more in zip(below, bars[part], strict=True)]
    axes.set_xlim(0, window)
    axes.set_xticks([window * quarter / 4 for quarter in range(5)])
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _legend(panels: Any) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
