"""Write the result of an evaluation as one page that needs nothing else: no script, no network."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2chat.core.files import write_text
from gpt2chat.core.runs import METRICS
from gpt2chat.report.console import printable

if TYPE_CHECKING:
    from gpt2chat.core.evaluation.results import Evaluation, ModelResult
    from gpt2chat.core.evaluation.statistics import Estimate

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1d1d1b, #e8e6e1);
  --paper: light-dark(#fff, #161615); --faint: light-dark(#6b6a66, #a09d96);
  --line: light-dark(#dddbd5, #3a3936); --c0: light-dark(#0b62a8, #6cb4f5);
  --c1: light-dark(#b3500c, #f0a46a); --c2: light-dark(#2f7d32, #7fce83);
  --c3: light-dark(#8a2d86, #df94dc); }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere } h2 { margin-top: 2.5rem }
p, li { max-width: 46rem } .faint, caption { color: var(--faint); font-size: .875rem }
code { overflow-wrap: anywhere; font-size: .875rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
caption { text-align: start; padding-bottom: .5rem }
th, td { border-top: 1px solid var(--line); padding: .35rem .75rem .35rem 0; vertical-align: top;
  text-align: start; font-variant-numeric: tabular-nums }
th { font-weight: 500; min-width: 11rem } thead :is(th, td) { border: 0 }
thead th { overflow-wrap: anywhere }
td { min-width: 9rem } td svg { display: block; width: 9rem; height: 1.1rem }
summary { cursor: pointer } details p { margin: .25rem 0; font-size: .875rem; color: var(--faint) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: 1.5rem } figure { margin: 0 } figure svg { width: 100%; height: auto }
svg text { fill: var(--faint); font: 11px system-ui, sans-serif }
.axis { stroke: var(--line); fill: none } .answers { display: grid; gap: 1rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)) }
.answer { border-inline-start: 3px solid var(--line); padding-inline-start: .75rem }
.answer p { white-space: pre-wrap; overflow-wrap: anywhere; margin: .25rem 0 }
.question { margin-top: 1.5rem; border-top: 1px solid var(--line); padding-top: .5rem }
body:has(#shades:checked) .answer span {
  background: color-mix(in srgb, var(--c1) calc(100% * var(--doubt)), transparent) }
@media print { :root { color-scheme: light } body { max-width: none; font-size: 10pt; padding: 0 }
  .wide { overflow: visible } tr, figure, .question { break-inside: avoid } label { display: none }
  th, td { min-width: 0 } }
"""
COLOURS = 4
"""Colours for models; further models use them again."""


def write_page(result: "Evaluation", path: Path, command: str) -> None:
    """Write the page.

    Args:
        command: The command line that gave the result.

    Raises:
        StorageError: The page cannot be written.
    """
    # escape: names, data and replies are texts of others.
    names = [escape(printable(model.model)) for model in result.models]
    head = "".join(
        f'<th scope="col"><svg viewBox="0 0 10 10" width="10" height="10" aria-hidden="true">'
        f'<circle cx="5" cy="5" r="5" fill="{_colour(at)}"/></svg> {name}</th>'
        for at, name in enumerate(names)
    )
    first = result.settings.data[0]
    body: list[str] = []
    for data in result.settings.data:
        columns = [model.further.get(data, model.figures) for model in result.models]
        if columns[0]:
            body.append(_table(f"Figures on {data}, {result.split} split", head, columns))
    for data in result.settings.data if result.differences else ():
        columns = [pair.further.get(data, pair.figures) for pair in result.differences]
        if columns[0]:
            title = f"{result.models[0].model} minus the other, sample by sample, on {data}"
            versus = "".join(
                f'<th scope="col">{escape(printable(pair.against))}</th>'
                for pair in result.differences
            )
            body.append(_table(title, versus, columns, signed=True))
    costs = [("parameters", *(f"{model.parameters:,}" for model in result.models))]
    for label, kind in (("prompt tokens per second", "prefill"), ("tokens per second", "decode")):
        speeds = [model.speed and getattr(model.speed, kind) for model in result.models]
        if any(speeds):
            texts = (
                f"{s.median:,.1f} ({s.low:,.1f} to {s.high:,.1f})" if s else "" for s in speeds
            )
            costs.append((label, *texts))
    rows = "".join(
        f'<tr><th scope="row">{label}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for label, *cells in costs
    )
    body.append(
        f'<h2>Size and speed</h2><div class="wide"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    if plots := "".join(_plots(result.models)):
        body.append(f'<h2>Plots</h2><div class="plots">{plots}</div>')
    if any(model.replies for model in result.models):
        body += [
            "<h2>Answers</h2>",
            '<p><label><input type="checkbox" id="shades"> Shade each token by its improbability; '
            "its probability is shown where you point</label></p>",
            *_answers(result, names),
        ]
    samples = result.samples
    counts = (
        f"On {first}: {samples.replies:,} replies of {samples.reply_tokens:,} tokens, "
        f"{samples.conversations:,} reference conversations, {samples.pairs:,} pairs."
    )
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    hashes = "".join(
        f"<li>{name}: <code>{model.sha256}</code></li>"
        for name, model in zip(names, result.models, strict=True)
    )
    notes = "".join(f"<li>{escape(printable(note))}</li>" for note in result.notes)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {names[0]}</title><style>{STYLE}</style></head><body>
<h1>Evaluation of {names[0]}{f" against {', '.join(names[1:])}" if names[1:] else ""}</h1>
<p class="faint">{escape(result.finished)}; {escape(result.precision)} on {escape(result.device)}.
Bars and brackets: {escape(result.interval)}.</p>
{"".join(body)}
<h2>How this was measured</h2>
<p><code>{escape(printable(command))}</code></p>
<p>{escape(printable(counts))} Select a figure's name in the tables for its definition.</p>
<ul class="faint">{notes}<li>versions: {escape(versions)}</li>
<li>held-out data: <code>{result.data_sha256}</code></li>{hashes}</ul>
</body></html>
"""
    write_text(path, page)


def _colour(at: int) -> str:
    return f"var(--c{at % COLOURS})"


def _table(
    title: str, head: str, columns: "Sequence[Mapping[str, Estimate]]", *, signed: bool = False
) -> str:
    """Return a table of figures; below each value a bar of its interval, in one scale per row."""
    from gpt2chat.core.evaluation.figures import describe

    rows: list[str] = []
    for name, first in columns[0].items():
        figure = describe(name)
        estimates = [column[name] for column in columns]
        ends = [e for each in estimates for e in (each.low, each.high, each.value) if e is not None]
        # With 0 in the scale of a difference, its bar shows on which side the interval lies.
        low, high = min([*ends, 0.0] if signed else ends), max([*ends, 0.0] if signed else ends)
        style = f"{'+' if signed else ','}.{figure.digits}f"
        cells: list[str] = []
        for at, each in enumerate(estimates):
            mark = " *" if signed and each.excludes_zero else ""
            bar = ""
            # A perplexity can be infinite, and a row of equal values has no scale.
            if each.low is not None and each.high is not None and 0 < high - low < float("inf"):
                zero, x1, x2, x = (
                    round(6 + 148 * (value - low) / (high - low), 1)
                    for value in (0.0, each.low, each.high, each.value)
                )
                axis = f'<line class="axis" x1="{zero}" x2="{zero}" y1="0" y2="16"/>'
                bar = (
                    f'<svg viewBox="0 0 160 16" aria-hidden="true">{axis if signed else ""}'
                    f'<line x1="{x1}" x2="{x2}" y1="8" y2="8" stroke="{_colour(at)}" '
                    f'stroke-width="3"/><circle cx="{x}" cy="8" r="4.5" fill="{_colour(at)}"/>'
                    "</svg>"
                )
            cells.append(f"<td>{escape(each.text(style))}{mark}{bar}</td>")
        better = {"lower": " ↓", "higher": " ↑", "": ""}[figure.better]
        rows.append(
            f'<tr><th scope="row"><details><summary>{escape(printable(figure.label))}{better}'
            f"</summary><p>{escape(figure.meaning)}</p></details>"
            f'<span class="faint">{first.samples:,} {figure.unit}, {first.groups:,} groups</span>'
            f"</th>{''.join(cells)}</tr>"
        )
    key = "↓ lower is better, ↑ higher is better"
    key += "; * the interval of the difference excludes 0" if signed else ""
    return (
        f'<h2>{escape(printable(title))}</h2><div class="wide"><table><caption>{key}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _plot(
    title: str, lines: "Sequence[tuple[int, Sequence[tuple[float, float]]]]", unit: str
) -> str:
    """Return a figure of lines, each with the place of its model and its points."""
    points = [point for _, line in lines for point in line]
    (left, right), (low, high) = ((min(each), max(each)) for each in zip(*points, strict=True))

    def place(x: float, y: float) -> str:
        # Equal values have no scale, so their line is in the middle.
        across = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return f"{44 + 340 * across:.1f},{204 - 190 * up:.1f}"

    paths = "".join(
        f'<polyline points="{" ".join(place(x, y) for x, y in line)}" fill="none" '
        f'stroke="{_colour(at)}" stroke-width="2"/>'
        for at, line in lines
    )
    return (
        f'<figure><svg viewBox="0 0 400 232" role="img" aria-label="{escape(title)}">'
        f'<path class="axis" d="M44 10V204H390"/>{paths}<text x="40" y="18" text-anchor="end">'
        f'{high:.3g}</text><text x="40" y="204" text-anchor="end">{low:.3g}</text>'
        f'<text x="44" y="222">{left:.3g}</text><text x="388" y="222" text-anchor="end">'
        f"{right:.3g} {escape(unit)}</text></svg><figcaption>{escape(title)}</figcaption></figure>"
    )


def _plots(models: "Sequence[ModelResult]") -> Iterator[str]:
    """Yield a plot of the models' calibration, and one of each run's training loss."""
    from gpt2chat.core.training.metrics import read_lines

    lines = [
        (at, [(point.confidence, point.accuracy.value) for point in model.calibration])
        for at, model in enumerate(models)
        if model.calibration
    ]
    if lines:
        title = "Calibration: share of pairs in which a model is right, by how sure it is"
        yield _plot(title, lines, "(confidence)")
    for at, model in enumerate(models):
        # A model that is not a run, such as one of the Hub, has no metrics.
        file = Path(model.model) / METRICS
        steps = read_lines(file) if file.is_file() else []
        line = [(float(step["step"]), float(step["loss"])) for step in steps if "loss" in step]
        if len(line) > 1:
            # A page needs no more points than pixels.
            few = list(itertools.islice(line, 0, None, max(1, len(line) // 300)))
            yield _plot(f"Training loss of {printable(model.model)}", [(at, few)], "steps")


def _answers(result: "Evaluation", names: Sequence[str]) -> Iterator[str]:
    """Yield each prompt with the models' answers side by side."""
    for at, prompt in enumerate(result.prompts):
        answers: list[str] = []
        for place, (name, model) in enumerate(zip(names, result.models, strict=True)):
            if model.replies is None:
                continue
            reply = model.replies.texts[at]
            tokens = "".join(
                f'<span style="--doubt:{0.6 * (1 - chance):.2f}" title="{chance:.3f}">'
                f"{escape(printable(token))}</span>"
                for token, chance in zip(reply.tokens, reply.probabilities, strict=True)
            )
            end = "" if reply.end == "end of turn" else f", cut by the {reply.end}"
            answers.append(
                f'<div class="answer" style="border-color:{_colour(place)}">'
                f'<span class="faint">{name}{end}</span><p>{tokens}</p></div>'
            )
        yield (
            f'<div class="question"><strong>{escape(printable(prompt))}</strong>'
            f'<div class="answers">{"".join(answers)}</div></div>'
        )
