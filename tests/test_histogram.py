"""The picture of `prepare --stats`."""

import struct
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from gpt2chat.core.data.histogram import COLOURS, draw_lengths, lengths_figure
from gpt2chat.core.data.shards import LENGTH_BINS, Lengths


def lengths(**rows: int) -> Lengths:
    """Return lengths of so many rows a source: half of them short, half filling the window."""
    return {
        name: {side: [n - n // 2, *[0] * (LENGTH_BINS - 2), n // 2] for side in ("prompt", "reply")}
        for name, n in rows.items()
    }


FOUND = {
    "sft": {"train": lengths(oasst1=3000, alpaca=1000), "validation": lengths(oasst1=40)},
    "preference": {"train": lengths(ultrafeedback=500), "validation": {}},
    "reference": {"validation": lengths(oasst1=60)},
}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def tops(axes: Any) -> list[float]:
    """Return how high the bars are stacked."""
    bars: dict[float, float] = {}
    for patch in axes.patches:
        if hasattr(patch, "get_height"):
            bars[patch.get_x()] = max(
                bars.get(patch.get_x(), 0), patch.get_y() + patch.get_height()
            )
    return [bars[place] for place in sorted(bars)]


def test_the_same_lengths_give_the_same_png(tmp_path: Path):
    for name in ("a.png", "b.png"):
        draw_lengths(FOUND, 1024, tmp_path / name)
    picture = (tmp_path / "a.png").read_bytes()
    assert picture == (tmp_path / "b.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"Software" not in picture
    width, height = struct.unpack(">II", picture[16:24])
    assert width == 1200
    assert 600 < height < 2000


def test_each_kind_with_rows_has_two_panels_and_the_sources_have_one():
    panels: list[Any] = lengths_figure(FOUND, 1024).axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == [
        "sft: prompts of 4,000 training samples",
        "sft: replies of 4,000 training samples",
        "preference: prompts of 500 training pairs",
        "preference: longer replies of 500 training pairs",
        "reference: prompts of 60 validation samples",
        "reference: replies of 60 validation samples",
        "rows by source, validation paler",
    ]
    assert all(axes.get_xlabel() in ("tokens, in bins of 64", "rows") for axes in panels)
    assert tops(panels[0]) == [2000, *[0] * (LENGTH_BINS - 2), 2000]
    assert [text.get_text() for text in panels[-1].texts] == [
        *("3,000 + 40 validation", "1,000", "500", "60 validation")
    ]


def test_the_validation_rows_are_a_line_as_large_as_the_training_rows():
    panels: list[Any] = lengths_figure(FOUND, 1024).axes
    (line,) = (patch for patch in panels[0].patches if hasattr(patch, "get_data"))
    values, edges, _ = line.get_data()
    assert sum(values) == 4000
    assert (edges[0], edges[1], edges[-1]) == (0, 64, 1024)


NAMES = ("_hidden", "$x$ and $y$", "会話.jsonl", "two\nlines", *map(str, range(8)))


@pytest.mark.parametrize("number", [1, len(COLOURS), len(NAMES)])
def test_the_legend_names_every_source(number: int, tmp_path: Path):
    found = {"sft": {"train": lengths(**dict.fromkeys(NAMES[:number], 10))}}
    figure = lengths_figure(found, 1024)
    assert legend(figure)[:-1] == [name.replace("\n", " ") for name in NAMES[:number]]
    # Warnings are errors here: of a glyph that the font lacks, of labels with an underscore.
    draw_lengths(found, 1024, tmp_path / "a.png")


def test_a_long_name_loses_its_middle():
    found = {"sft": {"train": lengths(**{"begin" + "x" * 200 + "end.jsonl": 10})}}
    (name, _) = legend(lengths_figure(found, 1024))
    assert len(name) == 32
    assert name.startswith("begin")
    assert name.endswith("end.jsonl")
    assert "…" in name


def test_no_two_sources_look_alike():
    found = {"sft": {"train": lengths(**{f"s{n}": 10 for n in range(28)})}}
    figure = lengths_figure(found, 1024)
    handles: list[Any] = figure.legends[0].get_patches()
    looks = {(patch.get_facecolor(), patch.get_hatch()) for patch in handles}
    assert len(looks) == 28
