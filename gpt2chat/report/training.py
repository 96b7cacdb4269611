"""What `sft` and `orpo` print."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from gpt2chat.report.console import err, note, out, show_json

if TYPE_CHECKING:
    from gpt2chat.core.callbacks import Step
    from gpt2chat.core.training import TrainResult


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
    table.add_row("written", Text(str(result.out)))
    out.print(table)
    following = {"sft": "gpt2chat orpo", "orpo": "gpt2chat eval --ppl"}[result.command]
    note(f"Next: {following}, or gpt2chat chat")
