"""Draw histograms of the data as a picture."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2chat.core.data.shards import LENGTH_BINS, Lengths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette without black, which any kind of colour vision can distinguish.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
HATCHES = ("", "///", "...", "xxx")
"""Hatches, so that more sources than colours can be distinguished."""
NAME_LENGTH = 32
"""Most characters of a source's name."""
LEGEND_LENGTH = 120
"""Characters per line of the legend."""

KindLengths = Mapping[str, Mapping[str, Lengths]]
"""Lengths by kind and split."""


def draw_lengths(lengths: KindLengths, window: int, picture: Path) -> None:
    """Draw how long prompts and replies are, and how many rows each source has, as a PNG.

    The same lengths give the same bytes.

    Args:
        lengths: By kind and split, as in the manifest.
        window: Longest sample, in tokens.
        picture: The file to write.
    """
    figure = lengths_figure(lengths, window)
    with warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes. The user cannot change that here.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        # Without matplotlib's version in the file, whose bytes would change with it.
        figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})


def lengths_figure(lengths: KindLengths, window: int) -> "Figure":
    """Return the picture: two panels for each kind that has rows, and one for the sources."""
    # Not pyplot, which would look for a display.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = {kind: splits for kind, splits in lengths.items() if any(map(rows, splits.values()))}
    bars = [
        (source, kind)
        for kind, splits in kinds.items()
        for source in dict.fromkeys(source for split in splits.values() for source in split)
    ]
    styles: dict[str, dict[str, Any]] = {
        source: {
            "facecolor": COLOURS[number % len(COLOURS)],
            "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)],
            "edgecolor": "white",
            "linewidth": 0,
        }
        for number, source in enumerate(dict.fromkeys(source for source, _ in bars))
    }
    labels = [*map(_short_name, styles), "validation, scaled to training"]
    widths = [len(label) + 8 for label in labels]
    columns = len(labels) if sum(widths) <= LEGEND_LENGTH else LEGEND_LENGTH // max(widths)
    # In inches: the histograms, the bars of the sources, and a line of the legend.
    heights = [*(2.6 for _ in kinds), 1 + 0.3 * len(bars)]
    legend_height = 0.3 * -(-len(labels) // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06)
    figure = Figure(figsize=(10, sum(heights) + legend_height), layout=layout)
    grid: Any = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    edges = [window * number / LENGTH_BINS for number in range(LENGTH_BINS + 1)]
    for line, (kind, splits) in enumerate(kinds.items()):
        # Training rows are bars, and validation rows a line; without training rows, bars.
        split = "train" if rows(splits.get("train", {})) else "validation"
        validation = splits.get("validation", {}) if split == "train" else {}
        for column, (side, noun) in enumerate((("prompt", "prompts"), ("reply", "replies"))):
            axes: Any = figure.add_subplot(grid[line, column])
            tops = [0] * LENGTH_BINS
            for source, sides in splits[split].items():
                axes.bar(
                    edges[:-1], sides[side], edges[1], bottom=tops, align="edge", **styles[source]
                )
                tops = [low + high for low, high in zip(tops, sides[side], strict=True)]
            # Validation is mostly small: unscaled, its line would lie at the bottom.
            if rows(validation):
                scale = sum(tops) / rows(validation)
                sums = zip(*(sides[side] for sides in validation.values()), strict=True)
                line_tops = [scale * sum(bar) for bar in sums]
                axes.stairs(line_tops, edges, color="black", linewidth=1.2)
            longer = "longer " if (kind, side) == ("preference", "reply") else ""
            name = "training" if split == "train" else split
            items = "pairs" if kind == "preference" else "samples"
            title = f"{kind}: {longer}{noun} of {sum(tops):,} {name} {items}"
            axes.set_title(title, fontsize=10, loc="left")
            label = f"tokens, in bins of {window / LENGTH_BINS:g}"
            axes.set(xlabel=label, ylabel="rows", xlim=(0, window))
            axes.set_xticks(edges[::4])
            axes.set_xticklabels([*(f"{edge:,.0f}" for edge in edges[:-1:4]), f"{window:,}+"])
            _finish(axes, axes.yaxis)
    axes = figure.add_subplot(grid[len(kinds), :])
    longest = 1
    for place, (source, kind) in enumerate(bars):
        train, held_out = (
            sum(kinds[kind].get(split, {}).get(source, {"prompt": []})["prompt"])
            for split in ("train", "validation")
        )
        axes.barh(place, train, **styles[source])
        axes.barh(place, held_out, left=train, alpha=0.45, **styles[source])
        figures = " + ".join(f"{number:,}" for number in (train, held_out) if number)
        text, end = figures + " validation" * bool(held_out), (train + held_out, place)
        axes.annotate(text, end, (5, 0), textcoords="offset points", fontsize=8, va="center")
        longest = max(longest, train + held_out)
    axes.set_yticks(range(len(bars)))
    for label in axes.set_yticklabels([f"{_short_name(source)}, {kind}" for source, kind in bars]):
        label.set_parse_math(False)  # A name may contain dollar signs.
    axes.invert_yaxis()
    axes.set(xlabel="rows", xlim=(0, 1.25 * longest))
    axes.set_title("rows by source, validation paler", fontsize=10, loc="left")
    _finish(axes, axes.xaxis)
    handles: list[Any] = [Patch(**style) for style in styles.values()]
    handles.append(Line2D([], [], color="black", linewidth=1.2))
    legend = figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def rows(lengths: Lengths) -> int:
    """Return the number of rows of all sources."""
    return sum(sum(sides["prompt"]) for sides in lengths.values())


def _short_name(source: str) -> str:
    """Return a source's name on one line, without the middle of a long one."""
    name = " ".join(source.split())
    half = NAME_LENGTH // 2
    return name if len(name) <= NAME_LENGTH else f"{name[: half - 1]}…{name[-half:]}"


def _finish(axes: Any, numbers: Any) -> None:
    """Add thousands separators to an axis of numbers, and a grid behind the bars."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    numbers.set_major_locator(MaxNLocator(nbins=5, integer=True))
    numbers.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    numbers.grid(visible=True, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
