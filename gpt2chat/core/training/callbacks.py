"""Callbacks of a training run: report steps, decide when to validate and save, stop on signals."""

import math
import signal
import socket
import threading
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
from gpt2chat.core.training.arguments import process_count
from gpt2chat.core.training.metrics import json_line, read_lines
from gpt2chat.core.training.trainer import PackedTrainer, Votes

SPEED_STEPS = 10
"""Number of logged steps over which live speed and time left are averaged."""
COMMON_METRICS = {
    *("step", "epoch", "loss", "grad_norm", "learning_rate"),
    *("tokens", "seconds", "threads"),
}
"""Metrics that are the same for every objective."""
STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # not on Windows
    STOP_SIGNALS.append(signal.SIGHUP)
"""Signals that save and stop a run."""
SAME_SIGNAL = 3.0
"""Seconds within which torchrun forwards a Ctrl-C that its processes have already received."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a run is after an optimizer step."""

    step: int
    steps: int
    epoch: float
    loss: float
    """Nats per token (ORPO: its objective)."""
    validation_loss: float | None
    """The newest validation loss; None before the first validation."""
    tokens_per_second: float
    """Tokens of all processes, prompts included, without padding. Validations take no time here."""
    utilisation: float
    """Operations a second as a share of what one large matrix product reaches on this device."""
    seconds_left: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """What the objective logs in addition to the loss."""


@dataclass(frozen=True, slots=True)
class _Mark:
    seconds: float
    step: int
    tokens: int
    flops: float


class FasterTokens(TrainerCallback):
    """Moves the embeddings of the template's tokens `times` as far in each step as AdamW does.

    AdamW moves a number by about the learning rate, however large its gradient. These rows start
    at the mean of all others, and a short run ends before they are far from it: after 64 steps at
    2e-4 the starter model still gave the end of a turn a probability of e⁻¹³ where a turn ended.
    They are part of the embedding matrix, so they cannot be a parameter group of their own.

    Args:
        rows: Returns these rows of a model. Shape (tokens, width).
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
    """Return the embeddings of the template's tokens, or those that this process holds of them.

    With LoRA they are the adapter's, as the embeddings below it are frozen.
    """
    from torch.distributed.tensor import DTensor

    embedding: Any = model.get_input_embeddings()
    if hasattr(embedding, "token_adapter"):
        return embedding.token_adapter.trainable_tokens_delta["default"].detach()
    weight: Any = embedding.weight.detach()
    if not isinstance(weight, DTensor):
        return weight[GPT2_VOCAB:]
    # FSDP splits the rows evenly, in order; the last process gets the remainder.
    share = -(-weight.shape[0] // weight.device_mesh.size())
    first = share * weight.device_mesh.get_local_rank()
    return weight.to_local()[max(0, GPT2_VOCAB - first) :]


class Watch(TrainerCallback):
    """Writes metrics.jsonl, calls `on_step`, and decides when to validate, save and stop.

    Args:
        metrics: The file to write, one JSON object a line. A resumed run drops the lines after the
            step of its checkpoint.
        evals: Validations and checkpoints in the run, evenly spaced; the last one at the end.
        validated: Whether there are rows to validate on.
        patience: End the run after this many validations in a row without a lower loss; None for
            never.
        save_minutes: Longest time between two checkpoints.
        peak: Operations a second that count as full utilisation.
        on_step: Called after each logged step.
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
        on_step: Callable[[Step], None] | None,
    ):
        self.metrics = metrics
        self.evals = evals
        self.validated = validated
        self.patience = patience
        self.save_seconds = 60 * save_minutes
        self.peak = peak
        self.on_step = on_step
        self.votes = Votes(self._wishes)
        self.stopped = False
        """A signal asked the run to stop."""
        self.ran_out = False
        """The run ended because `patience` was exceeded."""
        self.lines: list[dict[str, Any]] = []
        self.earlier = (0, 0.0)
        """Tokens and seconds of earlier starts of the run, up to the step it resumes from."""
        self._started = time.perf_counter()
        self.first: _Mark | None = None
        """The first logged step since this start. Whatever came before it counts as warm-up."""
        self.trainer: PackedTrainer | None = None
        """The trainer whose tokens and operations are counted."""
        self._seconds = 0.0
        self._since: float | None = None
        self._saved_at = time.monotonic()
        self._marks: deque[_Mark] = deque(maxlen=SPEED_STEPS + 1)

    @contextmanager
    def stopping_on_signals(self, on_interrupt: Callable[[], None]) -> Generator[None]:
        """Let the first of STOP_SIGNALS save after the current step, and a second one end the run.

        Python runs a signal handler between two instructions of the main thread, which may be
        inside PyTorch for seconds. To answer the user at once, a separate thread waits for the byte
        that Python writes to a socket the moment a signal arrives.

        Args:
            on_interrupt: Called in that thread, on the first signal.
        """
        asked_at = 0.0

        def stop(number: int, frame: Any) -> None:
            nonlocal asked_at
            now = time.monotonic()
            if self.stopped and (process_count() == 1 or now - asked_at >= SAME_SIGNAL):
                signal.default_int_handler(number, frame)
            elif not self.stopped:
                self.stopped, asked_at = True, now

        def await_signal() -> None:
            while number := reader.recv(1):
                if number[0] in STOP_SIGNALS:
                    on_interrupt()
                    return

        reader, writer = socket.socketpair()
        writer.setblocking(False)  # Python requires it: a signal must never wait for a reader
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None and handlers[hangup] is signal.SIG_IGN:
            del handlers[hangup]  # the user started the run with nohup, to survive this
        for number in handlers:
            signal.signal(number, stop)
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        waiter = threading.Thread(target=await_signal, daemon=True)
        waiter.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            writer.close()
            waiter.join()
            reader.close()

    def _wishes(self) -> list[float]:
        """Return whether this process wants to stop, and to save."""
        late = time.monotonic() - self._saved_at >= self.save_seconds
        return [float(self.stopped), float(late)]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark(state)
        if state.best_global_step is not None:
            # transformers saves the path of the best checkpoint. If the run folder has moved since,
            # it would find nothing there, and end with the last weights and the best loss.
            folder = Path(args.output_dir)
            losses = {
                line["step"]: line["eval_loss"]
                for line in state.log_history
                if "eval_loss" in line and line["step"]
            }
            saved = [step for step in losses if (folder / f"checkpoint-{step}").is_dir()]
            best: int | None = state.best_global_step
            if best not in saved:  # it was damaged, or removed by hand
                best = min(saved, key=lambda step: losses[step], default=None)
                state.best_global_step, state.best_metric = best, losses.get(best)
            path = None if best is None else str(folder / f"checkpoint-{best}")
            state.best_model_checkpoint = path
        # A run that was killed after patience ran out, before it finished, takes one more step.
        self._check_patience(state, control)
        self._started = time.perf_counter()
        if state.is_world_process_zero:
            # What a killed start logged after its last checkpoint is trained, and logged, again.
            lines = read_lines(self.metrics)
            self.lines = [line for line in lines if line["step"] <= state.global_step]
            text = "".join(json_line(line) for line in self.lines)
            write_text(self.metrics, text)
            last = self.lines[-1] if self.lines else {}
            self.earlier = (last.get("tokens", 0), last.get("seconds", 0.0))

    def totals(self) -> tuple[int, float]:
        """Return the tokens of all processes and the seconds of the run, over all its starts."""
        tokens = self.trainer.tokens_of_all() if self.trainer else 0
        return self.earlier[0] + tokens, self.earlier[1] + time.perf_counter() - self._started

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        parts = range(1, self.evals + 1)
        # Rounded up, so that no part ends before the first step, and the last at the end.
        if state.global_step in (math.ceil(state.max_steps * part / self.evals) for part in parts):
            control.should_save = control.should_log = True
            control.should_evaluate = self.validated
        stop, save = self._wishes()
        if args.world_size > 1:
            stop = save = False
            # Reading the sums waits for a GPU, so only where a line of metrics does so anyway.
            if state.global_step % args.logging_steps == 0:
                assert self.votes.totals is not None  # the processes vote before each step
                stop, save = (self.votes.totals > 0).tolist()
        if stop or save:
            control.should_save = control.should_log = True
        if stop:
            self.stopped = control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._since = None
        self._check_patience(state, control)

    def _check_patience(self, state: Any, control: Any) -> None:
        """End the run after `patience` validations without a lower loss. The log that this reads is
        part of a checkpoint, so a resumed run counts earlier validations too."""
        # The validation before the first step does not count: no checkpoint has its weights.
        losses = [
            line["eval_loss"] for line in state.log_history if "eval_loss" in line and line["step"]
        ]
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
            return  # transformers' summary at the end, whose speeds include validations
        if "loss" in logs:
            # Validations and checkpoints do not count as training: they set `_since` back to None.
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
        if args.device.type == "cpu":
            line["threads"] = torch.get_num_threads()
        line.pop("total_flos", None)
        self.lines.append(line)
        # Closed after each line, so that a run that is killed keeps what it logged.
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json_line(line))
        if "loss" not in logs or self.on_step is None:
            return
        validations = [line["eval_loss"] for line in self.lines if "eval_loss" in line]
        first, last = self._marks[0], self._marks[-1]
        speed, utilisation = self._between(first, last)
        pace = (last.seconds - first.seconds) / max(1, last.step - first.step)
        self.on_step(
            Step(
                step=state.global_step,
                steps=state.max_steps,
                epoch=state.epoch,
                loss=line["loss"],
                validation_loss=validations[-1] if validations else None,
                tokens_per_second=speed,
                utilisation=utilisation,
                seconds_left=pace * (state.max_steps - state.global_step),
                metrics={name: line[name] for name in line if name not in COMMON_METRICS},
            )
        )

    def _mark(self, state: Any) -> _Mark:
        trainer = self.trainer
        world = trainer.args.world_size if trainer else 1
        tokens, flops = (trainer.tokens_seen, trainer.flops_seen) if trainer else (0, 0.0)
        mark = _Mark(self._seconds, state.global_step, world * tokens, world * flops)
        self._marks.append(mark)
        return mark

    def speed(self) -> tuple[float, float]:
        """Return tokens per second and utilisation since the first line of metrics."""
        # A run of one line has no interval to measure, so its warm-up counts too.
        first = (
            self.first if self.first and self.first is not self._marks[-1] else _Mark(0, 0, 0, 0)
        )
        return self._between(first, self._marks[-1])

    def _between(self, first: _Mark, last: _Mark) -> tuple[float, float]:
        seconds = max(last.seconds - first.seconds, 1e-9)  # a first line has taken no time yet
        processes = self.trainer.args.world_size if self.trainer else 1
        pace = (last.flops - first.flops) / seconds / processes
        return (last.tokens - first.tokens) / seconds, pace / self.peak
