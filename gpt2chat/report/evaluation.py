"""What `eval` prints."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gpt2chat.report.console import err, note, out, say, show_json

if TYPE_CHECKING:
    from gpt2chat.core.evaluation.evaluate import Evaluation, ModelResult
    from gpt2chat.core.evaluation.speed import Spread
    from gpt2chat.core.evaluation.statistics import Estimate


@contextmanager
def evaluation_progress() -> Generator[Callable[[int, int, str], None]]:
    """Show a bar on stderr for what is being measured; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("loading model and data", total=None)
        shown = ""

        def on_progress(done: int, total: int, what: str) -> None:
            nonlocal shown
            if what != shown:
                # Anew, so that the time left is not guessed from the pace of something else.
                progress.reset(task, description=what)
                shown = what
            progress.update(task, completed=done, total=total)

        yield on_progress


REFERENCE = (
    "Reference project's own figures, GPT-2 124M on its own GPU: perplexity 15.712 after SFT and "
    "12.889 after ORPO (comparable with the row \u201creference construction\u201d only), "
    "90.214 tokens/s."
)


def show_evaluation(result: "Evaluation", *, json: bool) -> None:
    """Print a column of figures for each model, and the differences between them."""
    for text in result.notes:
        note(text)
    if json:
        show_json(asdict(result))
        return
    limit = f", {result.limit:,} of each kind at most" if result.limit else ""
    where = f"{result.data}, {result.split} split{limit}"
    title = f"{where}; {result.precision} on {result.device}"
    table = _columns(title, [model.model for model in result.models])
    _add_figures(table, [model.figures for model in result.models], signed=False)
    table.add_section()
    for row in _costs(result.models):
        table.add_row(*row)
    out.print(table)
    if result.differences:
        title = f"{result.models[0].model} minus the other, sample by sample"
        table = _columns(title, [pair.against for pair in result.differences])
        _add_figures(table, [pair.figures for pair in result.differences], signed=True)
        if table.row_count:
            out.print()
            out.print(table)
    out.print()
    say(f"Below each figure: {result.interval}.")
    say(REFERENCE)
    note(f"written: {result.written}")


def _columns(title: str, names: list[str]) -> Table:
    table = Table(title=escape(title), box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("")
    for name in names:
        table.add_column(escape(name), justify="right")
    return table


def _add_figures(table: Table, figures: list[dict[str, "Estimate"]], *, signed: bool) -> None:
    from gpt2chat.core.evaluation.figures import FIGURES

    for name, figure in FIGURES.items():
        if name not in figures[0]:
            continue
        style = f"{'+' if signed else ','}.{figure.digits}f"
        first = figures[0][name]
        groups = f"{first.samples:,} {figure.unit}, {first.groups:,} groups"
        cells = [_estimate(columns[name], style) for columns in figures]
        table.add_row(f"{figure.label}\n[dim]{groups}[/dim]", *cells)


def _estimate(estimate: "Estimate", style: str) -> str:
    if estimate.low is None:
        return f"{estimate.value:{style}}"
    between = "\u2013" if estimate.low >= 0 and style[0] != "+" else " to "
    ends = f"{estimate.low:{style}}{between}{estimate.high:{style}}"
    return f"{estimate.value:{style}}\n[dim]{ends}[/dim]"


def _costs(models: "tuple[ModelResult, ...]") -> Generator[tuple[str, ...]]:
    """Yield rows of what the models cost and what their replies are like."""
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
        count = f"[dim]{replies[0].replies} generated replies[/dim]"
        yield f"replies that end\n{count}", *(f"{some.stopped:.3f}" for some in replies)
        yield "tokens in a reply, mean", *(f"{some.tokens:.1f}" for some in replies)
        yield "4-grams repeated in a reply", *(f"{some.repetition:.3f}" for some in replies)
        yield "distinct-2", *(f"{some.distinct_2:.3f}" for some in replies)


def _spread(spread: "Spread") -> str:
    return f"{spread.median:,.1f}\n[dim]{spread.low:,.1f}\u2013{spread.high:,.1f}[/dim]"
