"""What watches a training run: reports steps, says when to validate and save, stops on signals."""

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from gpt2chat.core.files import write_text
from gpt2chat.core.text.tokens import GPT2_VOCAB
from gpt2chat.core.training.arguments import PROCESSES
from gpt2chat.core.training.metrics import json_line, read_lines
from gpt2chat.core.training.trainer import PackedTrainer

PACE = 10
"""Logged steps that speed and time left are taken over."""
SAME_SIGNAL = 3.0
"""Seconds within which a launcher passes on the Ctrl-C that its processes have had already."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is known after an optimizer step."""

    step: int
    steps: int
    epoch: float
    loss: float
    """Nats per token (ORPO: its objective)."""
    validation_loss: float | None
    """The newest."""
    tokens_per_second: float
    """Real tokens, prompts included, of all processes; validations not counted."""
    utilisation: float
    """Share of the operations a second that one large matrix product reaches on this device."""
    seconds_left: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """What the objective logs beside the loss."""


@dataclass(frozen=True, slots=True)
class _Mark:
    seconds: float
    step: int
    tokens: int
    flops: float


class FasterTokens(TrainerCallback):
    """Lets the rows of the template's tokens move `times` as far in each step as AdamW says.

    AdamW moves a number by about the learning rate, however large its gradient. The rows begin at
    the mean of all others, and a short run ends before they are far from it: after 64 steps at
    2e-4 the starter model still gave the end of a turn, where it stood, e⁻¹³. They are part of
    the embedding matrix, so no parameter group can hold them.

    Args:
        rows: Returns them, given the model. Shape (tokens, width).
    """

    def __init__(self, times: float, rows: Callable[[Any], Tensor]):
        self.times = times
        self.rows = rows
        self.before = torch.empty(0)

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.before = self.rows(model).clone()

    def on_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        rows = self.rows(model)
        rows.copy_(self.before + self.times * (rows - self.before))


def embedding_rows(model: Any) -> Tensor:
    """Return the rows of the template's tokens in a model's embedding, as far as they lie here."""
    from torch.distributed.tensor import DTensor

    weight: Any = model.get_input_embeddings().weight.detach()
    if not isinstance(weight, DTensor):
        return weight[GPT2_VOCAB:]
    # FSDP gives each process as many rows, in order, the last ones what is left.
    share = -(-weight.shape[0] // weight.device_mesh.size())
    first = share * weight.device_mesh.get_local_rank()
    return weight.to_local()[max(0, GPT2_VOCAB - first) :]


class Watch(TrainerCallback):
    """Writes metrics.jsonl, calls `on_step`, and decides when to validate, save and stop.

    Args:
        metrics: The file, one JSON object a line. Lines past the step of a resumed checkpoint go.
        evals: Validations and checkpoints in the run, evenly spaced; the last at the end.
        validated: Whether there is anything to validate on.
        patience: Validations in a row without a lower loss that end the run; None for none.
        save_minutes: Most minutes between two checkpoints.
        peak: Operations a second that utilisation is measured against.
    """

    def __init__(
        self,
        metrics: Path,
        *,
        evals: int,
        validated: bool,
        patience: int | None,
        save_minutes: float,
        peak: float,
        on_step: Callable[[Step], None],
    ):
        self.metrics = metrics
        self.evals = evals
        self.validated = validated
        self.patience = patience
        self.save_seconds = 60 * save_minutes
        self.peak = peak
        self.on_step = on_step
        self.stopped = False
        """By Ctrl-C."""
        self.ran_out = False
        """Of patience."""
        self.lines: list[dict[str, Any]] = []
        self.earlier = (0, 0.0)
        """Tokens and seconds of the starts before this one, up to the step it goes on from."""
        self._started = time.perf_counter()
        self.first: _Mark | None = None
        """The first line of metrics since this start; what is before it is warm-up."""
        self._asked_at = 0.0
        self._trainer: PackedTrainer | None = None
        self._seconds = 0.0
        self._since: float | None = None
        self._saved_at = time.monotonic()
        self._marks: deque[_Mark] = deque(maxlen=PACE + 1)

    def attach(self, trainer: PackedTrainer) -> None:
        """Say whose tokens are counted, and who is asked whether to stop and to save."""
        self._trainer = trainer
        trainer.asks = self._asks

    @contextmanager
    def stopping_on_signals(self) -> Generator[None]:
        """Let the first Ctrl-C or SIGTERM save after the current step; a second one ends it."""

        def stop(number: int, frame: Any) -> None:
            if PROCESSES > 1 and self.stopped and time.monotonic() - self._asked_at < SAME_SIGNAL:
                return
            if self.stopped:
                signal.default_int_handler(number, frame)
            self.stopped, self._asked_at = True, time.monotonic()

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asks(self) -> list[float]:
        """Return whether this process asks to stop, and to save."""
        return [float(self.stopped), float(self._is_time_to_save())]

    def _is_time_to_save(self) -> bool:
        return time.monotonic() - self._saved_at >= self.save_seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark(state)
        _restore_best(state, Path(args.output_dir))
        # A run that was killed before it could finish ends after one more step.
        self._lose_patience(state, control)
        self._started = time.perf_counter()
        if state.is_world_process_zero:
            lines = read_lines(self.metrics)
            self.lines = [line for line in lines if line["step"] <= state.global_step]
            text = "".join(json_line(line) for line in self.lines)
            write_text(self.metrics, text)
            last = self.lines[-1] if self.lines else {}
            self.earlier = (last.get("tokens", 0), last.get("seconds", 0.0))

    def totals(self) -> tuple[int, float]:
        """Return the tokens, of all processes, and the seconds of the run, over all its starts."""
        tokens = self._trainer.tokens_of_all() if self._trainer else 0
        return self.earlier[0] + tokens, self.earlier[1] + time.perf_counter() - self._started

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        parts = range(1, self.evals + 1)
        if state.global_step in (math.ceil(state.max_steps * part / self.evals) for part in parts):
            control.should_save = control.should_log = True
            control.should_evaluate = self.validated
        stop, save = self._agreed(args, state)
        if stop or save:
            control.should_save = control.should_log = True
        if stop:
            self.stopped = control.should_training_stop = True

    def _agreed(self, args: Any, state: Any) -> tuple[bool, bool]:
        """Return whether to stop, and whether to save: in all processes after the same step."""
        if args.world_size == 1:
            return self.stopped, self._is_time_to_save()
        if self._trainer is None or state.global_step % args.logging_steps:
            return False, False
        stop, save = self._trainer.agreed()
        return stop, save

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._since = None
        self._lose_patience(state, control)

    def _lose_patience(self, state: Any, control: Any) -> None:
        """End the run where it is due. The trainer's own log of validations goes on with a run."""
        losses = [line["eval_loss"] for line in state.log_history if "eval_loss" in line]
        if self.patience is None or not losses:
            return
        ranked = [math.inf if math.isnan(loss) else loss for loss in losses]
        if len(ranked) - 1 - ranked.index(min(ranked)) >= self.patience:
            self.ran_out = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._since = None
        self._saved_at = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "train_runtime" in logs:
            return
        if "loss" in logs:
            now = time.perf_counter()
            self._seconds += now - (self._since if self._since is not None else now)
            self._since = now
            mark = self._mark(state)
            self.first = self.first or mark
        tokens, seconds = self.totals()
        if not state.is_world_process_zero:
            return
        line = {"step": state.global_step, "epoch": state.epoch, **logs}
        line |= {"tokens": tokens, "seconds": round(seconds, 3)}
        line.pop("total_flos", None)
        self.lines.append(line)
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json_line(line))
        if "loss" in logs:
            self.on_step(self._step(state, line))

    def _mark(self, state: Any) -> _Mark:
        trainer = self._trainer
        world = trainer.args.world_size if trainer else 1
        tokens, flops = (trainer.tokens_seen, trainer.flops_seen) if trainer else (0, 0.0)
        mark = _Mark(self._seconds, state.global_step, world * tokens, world * flops)
        self._marks.append(mark)
        return mark

    def speed(self) -> tuple[float, float]:
        """Return tokens per second and utilisation since the first line of metrics."""
        first = (
            self.first if self.first and self.first is not self._marks[-1] else _Mark(0, 0, 0, 0)
        )
        return self._between(first, self._marks[-1])

    def _between(self, first: _Mark, last: _Mark) -> tuple[float, float]:
        seconds = max(last.seconds - first.seconds, 1e-9)
        processes = self._trainer.args.world_size if self._trainer else 1
        pace = (last.flops - first.flops) / seconds / processes
        return (last.tokens - first.tokens) / seconds, pace / self.peak

    def last_loss(self) -> float:
        """Return the mean training loss of the last tenth of the steps."""
        losses = [line["loss"] for line in self.lines if "loss" in line]
        tail = losses[-max(1, len(losses) // 10) :]
        return math.fsum(tail) / max(1, len(tail))

    def validation_at(self, step: int | None) -> dict[str, float]:
        """Return what the validation at a step measured; empty where there was none."""
        found = [line for line in self.lines if line["step"] == step and "eval_loss" in line]
        values = found[-1].items() if found else ()
        return {name[5:]: value for name, value in values if name.startswith("eval_")}

    def _step(self, state: Any, line: dict[str, Any]) -> Step:
        validations = [line["eval_loss"] for line in self.lines if "eval_loss" in line]
        first, last = self._marks[0], self._marks[-1]
        speed, utilisation = self._between(first, last)
        pace = (last.seconds - first.seconds) / max(1, last.step - first.step)
        known = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "seconds")
        return Step(
            step=state.global_step,
            steps=state.max_steps,
            epoch=state.epoch,
            loss=line["loss"],
            validation_loss=validations[-1] if validations else None,
            tokens_per_second=speed,
            utilisation=utilisation,
            seconds_left=pace * (state.max_steps - state.global_step),
            metrics={name: value for name, value in line.items() if name not in known},
        )


def _restore_best(state: Any, checkpoints: Path) -> None:
    """Point a resumed run to its best checkpoint that is still there.

    transformers keeps the path that the folder had before, and where nothing is at that path ends
    with the last weights and the best loss.
    """
    if state.best_global_step is None:
        return
    losses = {line["step"]: line["eval_loss"] for line in state.log_history if "eval_loss" in line}
    left = [step for step in losses if (checkpoints / f"checkpoint-{step}").is_dir()]
    if state.best_global_step not in left:  # it was damaged, or removed by hand
        best = min(left, key=lambda step: losses[step], default=None)
        state.best_global_step, state.best_metric = best, losses.get(best)
    best = state.best_global_step
    state.best_model_checkpoint = None if best is None else str(checkpoints / f"checkpoint-{best}")
