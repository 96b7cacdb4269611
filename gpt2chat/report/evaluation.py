"""Print the progress and the result of an evaluation."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gpt2chat.report.console import err, note, out, say, show_json, sign

if TYPE_CHECKING:
    from gpt2chat.core.evaluation.evaluate import Evaluation, ModelResult
    from gpt2chat.core.evaluation.speed import Spread
    from gpt2chat.core.evaluation.statistics import Estimate


LINE_SECONDS = 30.0
"""Time between two lines of progress where there is no terminal."""


@contextmanager
def evaluation_progress() -> Generator[Callable[[int, int, str], None]]:
    """Show a progress bar if stderr is a terminal, and otherwise print a line now and then."""
    # The names of models in the description may look like rich's markup.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("loading model and data", total=None)
        shown, printed = "", time.monotonic()

        def on_progress(done: int, total: int, what: str) -> None:
            nonlocal shown, printed
            is_due = time.monotonic() >= printed + LINE_SECONDS
            if not err.is_terminal and (what != shown or is_due):
                note(f"{what}: {done:,} of {total:,}")
                printed = time.monotonic()
            if what != shown:
                # Each kind of work has its own pace, from which rich estimates the time left.
                progress.reset(task, description=what)
                shown = what
            progress.update(task, completed=done, total=total)

        yield on_progress


REFERENCE = (
    "Reference project's own figures, GPT-2 124M on its own GPU: perplexity 15.712 after SFT and "
    "12.889 after ORPO (comparable with the row \u201creference construction\u201d only), "
    "90.214 tokens/s."
)
SHOWN_REPLIES = 3
"""Prompts whose replies are printed; the result file has all."""
MOST_CHARACTERS = 500
"""Printed length of each prompt and reply."""


def show_evaluation(result: "Evaluation", *, json: bool) -> None:
    """Print a column of figures per model, the differences between models, and their replies."""
    for text in result.notes:
        note(text)
    # Notes are on stderr, so stdout has the JSON alone.
    if json:
        show_json(asdict(result))
        return
    settings = result.settings
    limit = f", at most {settings.limit:,} of each kind" if settings.limit else ""
    first, *others = settings.data
    title = f"{first}, {result.split} split{limit}; {result.precision} on {result.device}"
    table = _columns(title, [model.model for model in result.models])
    _add_figures(table, [model.figures for model in result.models], signed=False)
    table.add_section()
    for row in _costs(result.models):
        table.add_row(*row)
    out.print(table)
    for data in others:
        table = _columns(f"{data}, {result.split} split", [model.model for model in result.models])
        _add_figures(table, [model.further[data] for model in result.models], signed=False)
        out.print()
        out.print(table)
    for data in settings.data if result.differences else ():
        on = f", on {data}" if others else ""
        table = _columns(
            f"{result.models[0].model} minus the other, sample by sample{on}",
            [pair.against for pair in result.differences],
        )
        figures = [pair.further.get(data, pair.figures) for pair in result.differences]
        _add_figures(table, figures, signed=True)
        if table.row_count:
            out.print()
            out.print(table)
    prompts = result.prompts[:SHOWN_REPLIES]
    if prompts:
        out.print()
        of_all = f"{len(prompts)} of {len(result.prompts)} prompts"
        say(f"Replies to {of_all}; {result.path} has all.")
    for at, prompt in enumerate(prompts):
        out.print()
        say(f"> {_shortened(prompt)}")
        for model in result.models:
            if model.replies is not None:
                reply = model.replies.texts[at]
                end = "" if reply.end == "end of turn" else f" [cut by the {reply.end}]"
                say(f"{model.model}: {_shortened(reply.text)}{end}")
    out.print()
    say(f"Below each figure: {result.interval}.")
    better = f"{sign('↓', 'v')} lower is better, {sign('↑', '^')} higher is better"
    say(f"{better}; * the interval of a difference excludes 0.")
    for model in result.models:
        accuracy = model.figures.get("preference_accuracy")
        longer = model.figures.get("preference_longer")
        if accuracy is not None and longer is not None and accuracy.value < 0.5 < longer.value:
            say(
                "Preference accuracy can be below 0.5 because the mean log-probability per token "
                f"favours the longer reply, good or bad: {model.model} prefers the longer one in "
                f"{longer.value:.0%} of the pairs of different length."
            )
            break  # the reason is the same for every model
    say(REFERENCE)
    note(f"written: {result.path}")


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} [\u2026]"


def _columns(title: str, names: list[str]) -> Table:
    # Names of models and folders may look like rich's markup, as in runs/[draft].
    table = Table(title=escape(title), box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("")
    for name in names:
        table.add_column(escape(name), justify="right")
    return table


def _add_figures(table: Table, columns: list[dict[str, "Estimate"]], *, signed: bool) -> None:
    # It imports torch, and this module is loaded before the settings are checked.
    from gpt2chat.core.evaluation.figures import describe

    arrows = {"lower": f" {sign('↓', 'v')}", "higher": f" {sign('↑', '^')}", "": ""}
    for name, first in columns[0].items() if columns else ():
        figure = describe(name)
        style = f"{'+' if signed else ','}.{figure.digits}f"
        groups = f"{first.samples:,} {figure.unit}, {first.groups:,} groups"
        cells = (_estimate(estimates[name], style, signed=signed) for estimates in columns)
        table.add_row(f"{figure.label}{arrows[figure.better]}\n[dim]{groups}[/dim]", *cells)


def _estimate(estimate: "Estimate", style: str, *, signed: bool) -> str:
    if estimate.low is None:
        return f"{estimate.value:{style}}"
    mark = " *" if signed and estimate.excludes_zero else ""
    # Between signed numbers a dash would read as a minus.
    between = "\u2013" if estimate.low >= 0 and not signed else " to "
    ends = f"{estimate.low:{style}}{between}{estimate.high:{style}}"
    return f"{estimate.value:{style}}{mark}\n[dim]{ends}[/dim]"


def _costs(models: "tuple[ModelResult, ...]") -> Generator[tuple[str, ...]]:
    """Yield rows on the models' size and speed, and on their generated replies."""
    context = models[0].flops_context
    yield "parameters", *(f"{model.parameters:,}" for model in models)
    flops = (f"{model.flops_per_token / 1e6:,.1f} million" for model in models)
    yield f"FLOPs per token\n[dim]context of {context:,} tokens[/dim]", *flops
    speeds = [model.speed for model in models if model.speed is not None]
    if speeds:
        runs = "[dim]median, lowest to highest[/dim]"
        prompt = f"prefill of {speeds[0].prompt}, tokens/s\n{speeds[0].precision}, {runs}"
        yield prompt, *(_spread(speed.prefill) for speed in speeds)
        decode = (_spread(speed.decode) if speed.decode else "-" for speed in speeds)
        yield f"decode, tokens/s\n{runs}", *decode
    replies = [model.replies for model in models if model.replies is not None]
    if replies:
        high = sign("↑", "^")
        count = f"[dim]{replies[0].replies} generated replies[/dim]"
        yield f"distinct-1 {high}\n{count}", *(f"{each.distinct_1:.3f}" for each in replies)
        yield f"distinct-2 {high}", *(f"{each.distinct_2:.3f}" for each in replies)


def _spread(spread: "Spread") -> str:
    return f"{spread.median:,.1f}\n[dim]{spread.low:,.1f}\u2013{spread.high:,.1f}[/dim]"
