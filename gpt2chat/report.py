"""All that is printed; the only importer of rich.

`out` is stdout: the result, nothing else. `err` is stderr: notes, progress, errors.
"""

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gpt2chat.core.errors import Gpt2ChatError

if TYPE_CHECKING:
    from gpt2chat.core.callbacks import Step
    from gpt2chat.core.evaluate import Evaluation, ModelResult
    from gpt2chat.core.generate import Reply
    from gpt2chat.core.journal import Progress as Reading
    from gpt2chat.core.prepare import PrepareResult, Shown
    from gpt2chat.core.speed import Spread
    from gpt2chat.core.statistics import Estimate
    from gpt2chat.core.training import TrainResult

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def show_error(error: Gpt2ChatError) -> None:
    """Print what the user can act on: one line, never wrapped in colour codes when piped."""
    err.print("[red]error:[/red] ", end="")
    err.print(str(error), markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print one line about what was picked, or is being done."""
    err.print(text, markup=False, style="dim", soft_wrap=True)


def show_json(value: Any) -> None:
    """Print a result for other programs to read."""
    out.print(json.dumps(value, indent=2, default=str), markup=False, soft_wrap=True)


@contextmanager
def prepare_progress() -> Generator[Callable[["Reading"], None]]:
    """Print what is picked, with one live line below it where stderr is a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task("prepare", total=None, line="looking for the sources")
        began = time.monotonic()

        def listen(reading: "Reading") -> None:
            if reading.note:
                note(reading.note)
            speed = progress.tasks[task].completed / max(time.monotonic() - began, 1e-3)
            line = f"{reading.source}: {reading.records:,} records · {speed:,.0f} a second"
            progress.update(task, advance=reading.advance, line=line)

        yield listen


def show_prepare(result: "PrepareResult", *, json: bool) -> None:
    """Print the rows of each source, what was left out and why, and what to type next."""
    if json:
        show_json(asdict(result))
        return
    manifest = result.manifest
    table = Table("source", "for", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("train", "validation", "dropped"):
        table.add_column(title, justify="right")
    counts = [(source, kind) for kind, sources in manifest.counts.items() for source in sources]
    empty = [(source, "-") for source in manifest.dropped if source not in dict(counts)]
    for source, kind in [*counts, *empty]:
        rows = manifest.counts.get(kind, {}).get(source, {})
        dropped = 0 if kind == "reference" else sum(manifest.dropped.get(source, {}).values())
        figures = (rows.get("train", 0), rows.get("validation", 0), dropped)
        table.add_row(Text(source), kind, *(f"{figure:,}" for figure in figures))
    out.print(table)
    for source, reasons in manifest.dropped.items():
        listed = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
        out.print(Text(f"dropped from {source}: {listed}", style="dim"), soft_wrap=True)
    for source, remarks in manifest.noted.items():
        listed = ", ".join(f"{number:,} {remark}" for remark, number in remarks.items())
        out.print(Text(f"kept of {source}: {listed}", style="dim"), soft_wrap=True)
    for kind in ("sft", "preference"):
        tokens = manifest.tokens[kind]["train"]
        if tokens["trained"]:
            line = f"{kind}: {tokens['trained']:,} tokens to train, {tokens['prompt']:,} of prompts"
            out.print(line)
    command = "sft" if manifest.rows("sft", "train") else "orpo --model MODEL"
    option = "" if str(result.out) == "data" else f" --data {result.out}"
    out.print(
        f"Written: {result.out}. Next: gpt2chat {command}{option}", markup=False, soft_wrap=True
    )


def show_samples(samples: "Sequence[Shown]", *, json: bool) -> None:
    """Print samples with what is trained in green and what is not in grey."""
    console = err if json else out
    for sample in samples:
        heading = f"{sample.id}: {sample.tokens:,} tokens, {sample.trained_tokens:,} trained"
        console.print(Text(f"\n{heading}", style="bold"))
        text = Text(_printable(sample.untrained), style="bright_black")
        text.append(_printable(sample.trained), style="green")
        console.print(text, soft_wrap=True)


def _printable(text: str) -> str:
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


@contextmanager
def training_progress(what: str) -> Generator[Callable[["Step"], None]]:
    """Show one live line on stderr while a run trains; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None, line="loading model and data")

        def on_step(step: "Step") -> None:
            progress.update(task, completed=step.step, total=step.steps, line=step_line(step))

        yield on_step


def step_line(step: "Step") -> str:
    """Return what the live line says of a step."""
    parts = [f"{step.step}/{step.steps}", f"epoch {step.epoch:.2f}", f"loss {step.loss:.3f}"]
    if step.validation_loss is not None:
        parts.append(f"validation {step.validation_loss:.3f}")
    if "accuracy" in step.metrics:
        parts.append(f"accuracy {step.metrics['accuracy']:.2f}")
    parts.append(f"{step.tokens_per_second:,.0f} tokens/s")
    minutes, seconds = divmod(round(step.seconds_left), 60)
    parts.append(f"{minutes}:{seconds:02} left")
    return " · ".join(parts)


def show_training(result: "TrainResult", *, json: bool) -> None:
    """Print what a finished run did, and what to type next."""
    if json:
        show_json(asdict(result))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    unit = "samples" if result.command == "sft" else "pairs"
    left_out = f" ({result.left_out:,} longer than --max-length left out)" * bool(result.left_out)
    table.add_row("trained on", f"{result.samples:,} {unit}, {result.epochs:g} epochs{left_out}")
    speed = result.tokens / result.seconds
    table.add_row("tokens", f"{result.tokens:,} in {result.seconds:,.0f} s ({speed:,.0f} a second)")
    table.add_row("training loss", f"{result.loss:.4f} (mean of the last tenth of the steps)")
    if result.validation_loss is not None:
        kept = f"{result.validation_loss:.4f}, at step {result.best_step:,} of {result.steps:,}"
        table.add_row("validation loss", f"{kept}: those weights are kept")
    if "accuracy" in result.validation:
        accuracy = f"{result.validation['accuracy']:.3f} of the held-out pairs"
        table.add_row("preference accuracy", accuracy)
    table.add_row("written", str(result.out))
    out.print(table)
    following = {"sft": "gpt2chat orpo", "orpo": "gpt2chat eval --ppl"}[result.command]
    note(f"Next: {following}, or gpt2chat chat")


@contextmanager
def evaluation_progress() -> Generator[Callable[[int, int, str], None]]:
    """Show a bar on stderr for what is being measured; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("loading model and data", total=None)
        shown = ""

        def on_progress(done: int, total: int, what: str) -> None:
            nonlocal shown
            if what != shown:
                # Anew, so that the time left is not guessed from the pace of something else.
                progress.reset(task, description=escape(what))
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
    out.print(f"Below each figure: {result.interval}.", soft_wrap=True)
    out.print(REFERENCE, soft_wrap=True)
    note(f"written: {result.written}")


def _columns(title: str, names: list[str]) -> Table:
    table = Table(title=escape(title), box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("")
    for name in names:
        table.add_column(escape(name), justify="right")
    return table


def _add_figures(table: Table, figures: list[dict[str, "Estimate"]], *, signed: bool) -> None:
    from gpt2chat.core.figures import FIGURES

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
        prompt = f"prefill of {speeds[0].prompt}, tokens/s\n{runs}"
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


def show_reply(pieces: Iterable[str]) -> None:
    """Write a reply to stdout as it comes, and a line break after it, also after Ctrl-C."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        for text in visible(pieces):
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


def visible(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text without white space at its ends and without control characters.

    A model can write escape sequences; they must not act on the terminal.
    """
    begun, held = False, ""
    for piece in pieces:
        kept = (char for char in piece if char in "\n\t" or unicodedata.category(char) != "Cc")
        text = held + "".join(kept)
        text = text if begun else text.lstrip()
        shown = text.rstrip()
        held = text[len(shown) :]
        if shown:
            begun = True
            yield shown


def show_speed(reply: "Reply", *, interrupted: bool = False) -> None:
    """Print how long a reply is, why it ended if not by itself, and how fast it came."""
    parts = [f"{len(reply.ids):,} tokens"]
    if interrupted:
        parts.append("stopped by Ctrl-C")
    elif not reply.stopped:
        parts.append("cut at the limit")
    if reply.tokens_per_second:
        parts.append(f"{reply.tokens_per_second:,.0f} tokens/s")
    note(", ".join(parts))


def show_commands(rows: Sequence[tuple[str, str]]) -> None:
    """Print what can be typed in a chat and what it does."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for usage, meaning in rows:
        table.add_row(Text(usage), Text(meaning, style="dim"))
    err.print(table)


def show_text(text: str) -> None:
    """Print a text as it is, but for control characters, on stderr."""
    err.print(Text("".join(visible([text])), style="dim"), soft_wrap=True)


def show_prompt() -> None:
    """Ask for a message where stdout is no terminal."""
    err.print("> ", end="", style="bold")
