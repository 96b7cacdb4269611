"""The commands as functions: settings as keyword arguments, results as objects.

A function takes the settings of its command by name, so `--lr 1e-4` is `lr=1e-4`. It prints
nothing, changes nothing but the folders it writes, and works in any thread.
"""

import inspect
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.config.export import ExportConfig
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.config.settings import Settings, settings_from, signature_of
from gpt2chat.core.config.training import OrpoConfig, SftConfig, TrainConfig
from gpt2chat.core.display import html_table
from gpt2chat.core.model.names import pick_model
from gpt2chat.core.runs import open_run
from gpt2chat.core.training.checks import choose_model

if TYPE_CHECKING:
    from gpt2chat.core.chat.model import ChatModel
    from gpt2chat.core.config.chat import ChatPrecision
    from gpt2chat.core.config.settings import Device
    from gpt2chat.core.data.prepare import PrepareResult, Progress
    from gpt2chat.core.evaluation.results import Evaluation
    from gpt2chat.core.export.export import Export
    from gpt2chat.core.training.callbacks import Step
    from gpt2chat.core.training.plan import Plan
    from gpt2chat.core.training.train import TrainResult


@dataclass(frozen=True)
class TrainedModel(os.PathLike[str]):
    """A finished run: its folder and its figures. Any `model` setting accepts it."""

    path: Path
    result: "TrainResult"

    def load(self, device: "Device" = "auto", precision: "ChatPrecision" = "auto") -> "ChatModel":
        """Return the model, ready to talk."""
        from gpt2chat.core.chat.model import load

        return load(self.path, device=device, precision=precision)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def _rows(self) -> Generator[tuple[str, str]]:
        result = self.result
        yield "run", str(self.path)
        yield "started from", result.model
        yield "steps", f"{result.steps:,}"
        yield "training loss", f"{result.loss:.4f}"
        if result.validation_loss is not None:
            yield "validation loss", f"{result.validation_loss:.4f} at step {result.best_step:,}"
        for name in ("accuracy", "margin"):  # of preference pairs, where there are any
            if name in result.validation:
                yield name, f"{result.validation[name]:.4f}"
        yield "speed", f"{result.tokens_per_second:,.0f} tokens/s on {result.device}"


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _with_settings(config_type: type[Settings], function: FunctionT) -> FunctionT:
    """Give a function the parameters that `**settings` stands for, for help and completion."""
    own = inspect.signature(function)
    declared = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    # A parameter that the function declares itself, such as `model`, replaces the setting.
    names = {each.name for each in declared}
    settings = [p for p in signature_of(config_type).parameters.values() if p.name not in names]
    # A signature needs its parameters in the order of their kinds.
    parameters = sorted([*declared, *settings], key=lambda each: each.kind)
    function.__signature__ = own.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return function


@contextmanager
def _notebook_bar(
    what: str, state: "Callable[..., tuple[float, float | None, str]]"
) -> Generator[Callable[..., None] | None]:
    """Show a progress bar in a notebook, where nothing else shows that work is being done.

    Args:
        state: Returns amount done, total and text, from the arguments of a progress callback.

    Yields:
        The callback that moves the bar; None outside a notebook.
    """
    # Never imported here: a notebook has it loaded, and a script does not need it.
    shell = "IPython" in sys.modules and sys.modules["IPython"].get_ipython()
    if not shell or "IPKernelApp" not in shell.config:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=what, bar_format="{desc} {bar} {postfix}") as bar:

        def show(*progress: Any) -> None:
            bar.n, bar.total, text = state(*progress)
            bar.set_postfix_str(text)

        yield show


@partial(_with_settings, PrepareConfig)
def prepare(
    *, on_progress: "Callable[[Progress], None] | None" = None, **settings: Any
) -> "PrepareResult":
    """Write templated shards of conversations and preference pairs.

    Args:
        on_progress: Called with what was picked and how many records were read.
        settings: Those of `PrepareConfig`.
    """
    config = settings_from(PrepareConfig, settings)
    from gpt2chat.core.data.prepare import prepare as write_shards

    # A caller with a callback shows the progress itself, so a notebook gets no bar.
    if on_progress is not None:
        return write_shards(config, on_progress)

    def state(progress: "Progress") -> tuple[float, float | None, str]:
        total = None if progress.done < 0 else 1.0
        return progress.done, total, f"{progress.source}: {progress.records:,} records"

    with _notebook_bar("prepare", state) as show:
        return write_shards(config, show)


@overload
def sft(*, dry_run: Literal[True], **settings: Any) -> "Plan": ...
@overload
def sft(
    *, on_step: "Callable[[Step], None] | None" = None, dry_run: bool = False, **settings: Any
) -> TrainedModel: ...
@partial(_with_settings, SftConfig)
def sft(
    *, on_step: "Callable[[Step], None] | None" = None, **settings: Any
) -> "TrainedModel | Plan":
    """Fine-tune a model on the replies of conversations; with `dry_run=True` return the plan.

    Args:
        on_step: Called after each logged optimizer step.
        settings: Those of `SftConfig`.
    """
    return _train(settings_from(SftConfig, settings), on_step)


@overload
def orpo(*, dry_run: Literal[True], **settings: Any) -> "Plan": ...
@overload
def orpo(
    *, on_step: "Callable[[Step], None] | None" = None, dry_run: bool = False, **settings: Any
) -> TrainedModel: ...
@partial(_with_settings, OrpoConfig)
def orpo(
    *, on_step: "Callable[[Step], None] | None" = None, **settings: Any
) -> "TrainedModel | Plan":
    """Align a model with preference pairs, by ORPO; with `dry_run=True` return the plan.

    Args:
        on_step: Called after each logged optimizer step.
        settings: Those of `OrpoConfig`. Without a `model` it is the newest finished SFT run.
    """
    return _train(settings_from(OrpoConfig, settings), on_step)


def _train(
    settings: TrainConfig, on_step: "Callable[[Step], None] | None"
) -> "TrainedModel | Plan":
    if settings.dry_run:
        from gpt2chat.core.training.plan import plan

        with open_run(settings, settings.command) as start:
            return plan(choose_model(start)[0].settings)
    from gpt2chat.core.training.train import train

    if on_step is not None:
        return TrainedModel(settings.out, train(settings, on_step))

    def state(step: "Step") -> tuple[float, float | None, str]:
        return step.step, step.steps, f"loss {step.loss:.3f}"

    with _notebook_bar(settings.command, state) as show:
        return TrainedModel(settings.out, train(settings, show))


@partial(_with_settings, EvalConfig)
def evaluate(
    model: "str | os.PathLike[str]" = "",
    *,
    on_progress: "Callable[[int, int, str], None] | None" = None,
    **settings: Any,
) -> "Evaluation":
    """Measure perplexity, preference accuracy and speed of a model, alone or against others.

    Args:
        model: What to measure; the newest finished run by default.
        on_progress: Called with the number done, their total, and what is being measured.
        settings: Those of `EvalConfig`.
    """
    config = settings_from(EvalConfig, {**settings, "model": model})
    name, _ = pick_model(config.model, ("sft", "orpo"))
    # torch is imported here: a wrong name should not take seconds to be refused.
    from gpt2chat.core.evaluation.evaluate import evaluate as measure

    if on_progress is not None:
        return measure(replace(config, model=name), on_progress)
    with _notebook_bar("evaluate", lambda *progress: progress) as show:
        return measure(replace(config, model=name), show)


@partial(_with_settings, ExportConfig)
def export(
    model: "str | os.PathLike[str]" = "",
    *,
    on_progress: "Callable[[str], None] | None" = None,
    **settings: Any,
) -> "Export":
    """Write a model in the format of another program, and prove that it talks like the original.

    Args:
        model: What to export; the newest finished run by default.
        on_progress: Called with what is being done.
        settings: Those of `ExportConfig`.
    """
    config = settings_from(ExportConfig, {**settings, "model": model})
    name, _ = pick_model(config.model, ("sft", "orpo"))
    from gpt2chat.core.export.export import export as write

    return write(replace(config, model=name), on_progress)
