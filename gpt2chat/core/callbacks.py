"""What watches a training run: reports steps, says when to validate and save, stops on signals."""

import json
import math
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from gpt2chat.core.trainer import PackedTrainer


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
    """Real tokens, prompts included, since this start of the run; validations not counted."""
    seconds_left: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """What the objective logs beside the loss."""


class Watch(TrainerCallback):
    """Writes metrics.jsonl, calls `on_step`, and decides when to validate and save.

    Args:
        metrics: The file, one JSON object a line. Lines past the step of a resumed checkpoint go.
        evals: Validations and checkpoints in the run, evenly spaced; the last at the end.
        validated: Whether there is anything to validate on.
    """

    def __init__(self, metrics: Path, evals: int, validated: bool, on_step: Callable[[Step], None]):
        self.metrics = metrics
        self.evals = evals
        self.validated = validated
        self.on_step = on_step
        self.stopped = False
        self.lines: list[dict[str, Any]] = []
        self._trainer: PackedTrainer | None = None
        self._seconds = 0.0
        self._step_began = 0.0
        self._steps_done = 0

    def attach(self, trainer: PackedTrainer) -> None:
        """Say whose tokens are counted."""
        self._trainer = trainer

    @contextmanager
    def stopping_on_signals(self) -> Generator[None]:
        """Let the first Ctrl-C or SIGTERM save after the current step; a second one ends it."""

        def stop(number: int, _: Any) -> None:
            self.stopped = True
            signal.signal(number, before[signal.Signals(number)])

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            lines = read_lines(self.metrics)
            self.lines = [line for line in lines if line["step"] <= state.global_step]
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            self.metrics.write_text(text, encoding="utf-8")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._seconds += time.perf_counter() - self._step_began
        self._steps_done += 1
        parts = range(1, self.evals + 1)
        if state.global_step in (math.ceil(state.max_steps * part / self.evals) for part in parts):
            control.should_save = True
            control.should_evaluate = self.validated
        if self.stopped:
            control.should_save = True
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        line = {"step": state.global_step, "epoch": state.epoch, **logs}
        line.pop("total_flos", None)
        self.lines.append(line)
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "loss" in logs:
            self.on_step(self._step(state, line))

    def last_loss(self) -> float:
        """Return the mean training loss of the last tenth of the steps."""
        losses = [line["loss"] for line in self.lines if "loss" in line]
        tail = losses[-max(1, len(losses) // 10) :]
        return math.fsum(tail) / len(tail)

    def validation_at(self, step: int | None) -> dict[str, float]:
        """Return what the validation at a step measured; empty where there was none."""
        found = [line for line in self.lines if line["step"] == step and "eval_loss" in line]
        values = found[-1].items() if found else ()
        return {name[5:]: value for name, value in values if name.startswith("eval_")}

    def _step(self, state: Any, line: dict[str, Any]) -> Step:
        validations = [line["eval_loss"] for line in self.lines if "eval_loss" in line]
        tokens = self._trainer.tokens_seen if self._trainer else 0
        known = ("step", "epoch", "loss", "grad_norm", "learning_rate")
        return Step(
            step=state.global_step,
            steps=state.max_steps,
            epoch=state.epoch,
            loss=line["loss"],
            validation_loss=validations[-1] if validations else None,
            tokens_per_second=tokens / self._seconds,
            seconds_left=self._seconds / self._steps_done * (state.max_steps - state.global_step),
            metrics={name: value for name, value in line.items() if name not in known},
        )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl; a last line that was cut off is left out."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines
