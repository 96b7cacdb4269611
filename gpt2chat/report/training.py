"""Print the progress, the plan and the result of `sft` and `orpo`."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.table import Table
from rich.text import Text

from gpt2chat.core.data.shards import read_manifest
from gpt2chat.core.errors import DataError
from gpt2chat.core.text.tokens import WINDOW
from gpt2chat.core.text.wording import plural
from gpt2chat.report.console import clock, err, note, out, show_json

if TYPE_CHECKING:
    from gpt2chat.core.training.callbacks import Step
    from gpt2chat.core.training.plan import Plan
    from gpt2chat.core.training.train import TrainResult


NARROWEST_BAR, WIDEST_BAR = 8, 40
"""Columns."""


class _Bar(BarColumn):
    """A bar as wide as the text leaves room for, or no bar."""

    def render(self, task: Task) -> Any:
        return Text() if (self.bar_width or 0) < NARROWEST_BAR else super().render(task)


@contextmanager
def training_progress(
    what: str,
) -> Generator[tuple[Callable[["Step"], None], Callable[[], None], Callable[[], None]]]:
    """Show one live line on stderr while a run trains; nothing if stderr is not a terminal.

    Yields:
        Three functions: to call after each step, at the first Ctrl-C, and before each validation.
    """
    bar = _Bar(bar_width=WIDEST_BAR)
    columns = (TextColumn("{task.description}"), bar, TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None, line="loading model and data")

        def on_step(step: "Step") -> None:
            # The text comes first. The bar gets what is left, and goes if that is too little.
            room = err.width - len(f"{what}  ")
            line = step_line(step, room)
            bar.bar_width = min(WIDEST_BAR, room - len(line))
            progress.update(task, completed=step.step, total=step.steps, line=line)

        def on_interrupt() -> None:
            note("Stopping after this step; press Ctrl-C again to stop now.")

        def on_validate() -> None:
            progress.update(task, line="validating")

        yield on_step, on_interrupt, on_validate


def step_line(step: "Step", room: int) -> str:
    """Return the text of the live line: as many figures as fit, the most important first.

    Args:
        room: Columns for the text.
    """
    parts = [f"{step.step}/{step.steps}", f"loss {step.loss:.3f}"]
    parts.append(f"{clock(step.seconds_left)} left")
    if step.validation_loss is not None:
        parts.append(f"validation {step.validation_loss:.3f}")
    if "accuracy" in step.metrics:
        parts.append(f"accuracy {step.metrics['accuracy']:.2f}")
    parts.append(f"{step.tokens_per_second:,.0f} tokens/s")
    parts.append(f"{step.utilisation:.0%} used")
    parts.append(f"epoch {step.epoch:.2f}")
    # Cut off by the terminal, the line would end in the middle of a figure.
    while len(parts) > 1 and len(" · ".join(parts)) > room:
        parts.pop()
    return " · ".join(parts)


def note_positions(data: Path, max_length: int) -> None:
    """Print a note if --max-length adds positions to the model that no sample reaches."""
    try:
        longest = read_manifest(data).window
    except DataError:
        return  # the run reports it
    # GPT-2 has learned WINDOW positions; only further ones are stretched from them.
    if max_length > max(longest, WINDOW):
        note(
            f"--max-length {max_length} stretches the model's positions, and no sample of {data} "
            f"is longer than {longest}: prepare it with --max-length {max_length} too."
        )


def show_plan(plan: "Plan", *, json: bool) -> None:
    """Print what a run needs: its steps, memory and time."""
    if json:
        show_json(asdict(plan))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    unit = "samples" if plan.command == "sft" else "pairs"
    left_out = f" ({plan.left_out:,} longer than --max-length left out)" * bool(plan.left_out)
    trainable = f", of which {plan.trainable:,} are trained" * (plan.trainable < plan.parameters)
    table.add_row("model", f"{plan.model}, {plan.parameters:,} parameters{trainable}")
    table.add_row("data", f"{plan.samples:,} {unit}{left_out}")
    tokens = f"{plan.epoch_tokens:,} in an epoch, {plan.trained_tokens:,} of them trained"
    table.add_row("tokens", tokens)
    fill = plan.epoch_tokens / plan.sequences / plan.sequence_tokens
    size = f"at most {plan.sequence_tokens:,} tokens, {fill:.0%} full"
    table.add_row("sequences", f"{plan.sequences:,}, {size}")
    processes = f", {plan.processes} processes" * (plan.processes > 1)
    table.add_row("steps", f"{plan.steps:,} on {plan.device}{processes}")
    memory = f"{plan.memory / 2**30:.1f} GiB at the peak, {plan.available / 2**30:.1f} were free"
    table.add_row("memory", memory)
    compiled = ", compiling included" * (plan.graphs > 0)
    pace = f"{plan.tokens_per_second:,.0f} tokens/s, {plan.utilisation:.0%} used"
    table.add_row("time", f"{clock(plan.seconds)} at {pace}, estimated from two steps")
    table.add_row("before that", f"{plan.warm_up:.1f} s for the first step{compiled}")
    out.print(table)
    note("Nothing was trained or written. Leave out --dry-run to start.")


def show_training(result: "TrainResult", *, json: bool) -> None:
    """Print the figures of a finished run, and the next step."""
    if json:
        show_json(asdict(result))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    unit = "samples" if result.command == "sft" else "pairs"
    left_out = f" ({result.left_out:,} longer than --max-length left out)" * bool(result.left_out)
    epochs = plural(result.epochs, "epoch")
    table.add_row("trained on", f"{result.samples:,} {unit}, {epochs}{left_out}")
    used = f"{result.utilisation:.0%} of a matrix product's speed"
    table.add_row("tokens", f"{result.tokens:,} in {clock(result.seconds)}")
    table.add_row("speed", f"{result.tokens_per_second:,.0f} tokens/s on {result.device}, {used}")
    if result.steps < result.planned_steps:
        early = f"{result.steps:,} of {result.planned_steps:,}: the validation loss stopped falling"
        table.add_row("steps", early)
    table.add_row("training loss", f"{result.loss:.4f} (mean of the last tenth of the steps)")
    if result.validation_loss is not None:
        best = f"{result.validation_loss:.4f}, at step {result.best_step:,} of {result.steps:,}"
        table.add_row("validation loss", f"{best}; these weights were saved")
    if "accuracy" in result.validation:
        accuracy = f"{result.validation['accuracy']:.3f} of the held-out pairs"
        if result.validation["accuracy"] < 0.5:
            accuracy += (
                "; below 0.5 because the mean per token is higher for longer replies, good or bad"
            )
        table.add_row("preference accuracy", accuracy)
        margin = f"{result.validation['margin']:+.3f} nats per token, chosen over rejected"
        table.add_row("margin", margin)
    # Text, not str: the path may look like rich's markup.
    table.add_row("written", Text(str(result.out)))
    out.print(table)
    next_command = {"sft": "gpt2chat orpo", "orpo": "gpt2chat eval --ppl"}[result.command]
    note(f"Next: {next_command}, or gpt2chat chat")
