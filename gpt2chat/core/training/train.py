"""Train a model on shards, and write a finished run folder."""

import datetime
import math
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState

from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.data.shards import Manifest, read_manifest
from gpt2chat.core.errors import HardwareError, Interrupted, WorkerError
from gpt2chat.core.files import storage, write_text
from gpt2chat.core.model.checkpoint import no_bars, save_model
from gpt2chat.core.model.compiling import compiled_graphs
from gpt2chat.core.model.device import device_name
from gpt2chat.core.model.flops import matmul_flops
from gpt2chat.core.model.lora import save_adapted
from gpt2chat.core.runs import CARD, CURVE, METRICS, Run, Start, open_run
from gpt2chat.core.training import card, curve, memory
from gpt2chat.core.training.arguments import is_leader, process_count
from gpt2chat.core.training.callbacks import Step, Watch
from gpt2chat.core.training.checks import check_inputs, choose_model
from gpt2chat.core.training.job import Job, make_job
from gpt2chat.core.training.trainer import PackedTrainer


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The figures of a finished run; `result.json` in its folder."""

    command: str
    """`sft` or `orpo`."""
    out: Path
    model: str
    """The model that the run started from."""
    samples: int
    """Training samples (pairs, for ORPO) of each epoch."""
    left_out: int
    """Samples (pairs) dropped because they are longer than `max_length`."""
    steps: int
    """Optimizer steps of the whole run."""
    planned_steps: int
    """Larger than `steps` if `patience` ended the run."""
    epochs: float
    loss: float
    """Mean over the last tenth of the steps, in nats per token (ORPO: its objective)."""
    validation_loss: float | None
    """Validation loss of the saved weights: the lowest of the run."""
    best_step: int
    """Step after which the saved weights were taken."""
    tokens: int
    """Tokens trained on, prompts included, by all processes and over all starts of the run."""
    seconds: float
    """Time over all starts, validations included."""
    tokens_per_second: float
    """Speed without validations and without warm-up, which ends at the first logged step."""
    utilisation: float
    """Operations a second as a share of what one large matrix product reaches."""
    device: str
    processes: int
    precision: str
    graphs: int
    """Number of compiled graphs: 0 if the model is not compiled, else 1."""
    validation: dict[str, float] = field(default_factory=dict[str, float])
    """All metrics of the validation after `best_step`."""
    finished: str
    """Date and time, UTC, ISO 8601."""


def train(
    settings: TrainConfig,
    on_step: Callable[[Step], None] | None = None,
    on_interrupt: Callable[[], None] | None = None,
    on_validate: Callable[[], None] | None = None,
) -> TrainResult:
    """Train, and write the run folder: SFT or ORPO, by the type of the settings.

    Args:
        on_step: Called after each logged step.
        on_interrupt: If given, the first Ctrl-C or SIGTERM calls it, in a thread of its own, saves
            after the current step and raises Interrupted; a second one ends the run. Signals reach
            the main thread only. Without it signals are left alone.
        on_validate: Called before each validation, the one before the first step included.

    Raises:
        DataError: The shards are missing, changed or empty, or not those that the run began with;
            or a loss is not finite.
        CheckpointError, NetworkError: The model cannot be loaded.
        ConfigError, StorageError: The run folder is in use, cannot be written, or was started
            with other settings.
        HardwareError: The device is missing, or its memory too small.
        WorkerError: Another process of the run ended.
        Interrupted: The run was stopped; a checkpoint is saved, except before the first step.
    """
    with open_run(settings, settings.command) as start:
        return train_opened(choose_model(start)[0], on_step, on_interrupt, on_validate)


def train_opened(
    start: Start,
    on_step: Callable[[Step], None] | None = None,
    on_interrupt: Callable[[], None] | None = None,
    on_validate: Callable[[], None] | None = None,
) -> TrainResult:
    """Train in a run folder that `open_run` has locked, to the end of the run.

    Raises:
        Gpt2ChatError: Any of the errors that `train` lists.
    """
    try:
        return _train(start, on_step, on_interrupt, on_validate)
    finally:
        # If another process is lost, the group's threads still wait for it: destroying the group
        # would abort this one.
        if dist.is_initialized() and not isinstance(sys.exception(), WorkerError):
            dist.destroy_process_group()


def _train(
    start: Start,
    on_step: Callable[[Step], None] | None,
    on_interrupt: Callable[[], None] | None,
    on_validate: Callable[[], None] | None,
) -> TrainResult:
    settings, run, checkpoint = start.settings, start.run, start.checkpoint
    # What can be refused is refused before the folder changes: a mistyped model must not cost the
    # run that `overwrite` would replace.
    check_inputs(settings)
    job = make_job(settings)
    # The model card needs it at the end, when the data folder may be gone or prepared again.
    manifest = read_manifest(settings.data)
    if checkpoint is not None:
        run.require_same(job.conditions, settings.data)
    memory.check_fits(job, memory.available_memory(job.device), memory.CERTAIN_FAILURE)
    with memory.model_fits():
        peak = matmul_flops(job.device, job.autocast)
    watch = Watch(
        settings.out / METRICS,
        evals=settings.evals,
        validated=len(job.held_out_sequences) > 0,
        patience=settings.patience,
        save_minutes=settings.save_minutes,
        peak=peak,
        on_step=on_step,
    )
    _wait_for_all(job)
    # The run folder is about to change: from here on, an interrupt saves a checkpoint.
    signals = nullcontext()
    if on_interrupt is not None and threading.current_thread() is threading.main_thread():
        signals = watch.stopping_on_signals(on_interrupt)
    try:
        with signals, no_bars():
            # Only the leader changes the folder, after all processes have read it.
            if is_leader() and checkpoint is not None:
                with storage(settings.out):
                    run.remove_damaged(checkpoint)
            elif is_leader():
                run.start(settings, job.conditions)
            _wait_for_all(job)
            graphs = compiled_graphs()
            try:
                # `storage` must look at the disk before unsealed checkpoints are removed: they
                # free the space that was missing.
                with storage(settings.out):
                    with memory.model_fits():
                        trainer = job.trainer([watch])
                    # A resumed run validated before its first step, and its log still says so.
                    trainer.args.eval_on_start = checkpoint is None and watch.validated
                    # The processes vote on what the watch wants: to stop, and to save.
                    watch.trainer, trainer.votes = trainer, watch.votes
                    trainer.on_validate = on_validate
                    _run(trainer, watch, start, job)
            finally:
                # Of several processes, another may still be writing.
                if process_count() == 1:
                    run.remove_unsealed()
            return _finish(trainer, watch, run, job, manifest, compiled_graphs() - graphs)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Ended at once. Steps after the newest checkpoint in {settings.out} are lost."
        ) from error


def _wait_for_all(job: Job) -> None:
    """Wait until every process of the run has come to this call."""
    if process_count() > 1:
        PartialState(cpu=job.device.type == "cpu").wait_for_everyone()


def _run(trainer: PackedTrainer, watch: Watch, start: Start, job: Job) -> None:
    checkpoint = start.checkpoint
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            "The device ran out of memory. Lower `batch_tokens`, and raise `grad_accum` to keep "
            "the size of a step.",
            setting="batch_tokens",
        ) from error
    except RuntimeError as error:
        # gloo raises a plain RuntimeError if a process is gone, so its words have to do.
        signs = ("gloo", "connection closed", "connection reset", "broken pipe", "socket")
        is_lost = isinstance(error, dist.DistError) or any(
            sign in str(error).lower() for sign in signs
        )
        if process_count() == 1 or not is_lost:
            raise
        saved = start.run.newest_checkpoint()
        state = f"{saved.name} is complete" if saved else "No checkpoint had been saved"
        raise WorkerError(
            f"Another process of this run ended. {state}: start the same command again with "
            '`resume="auto"`.'
        ) from error
    ended = watch.ran_out or trainer.state.global_step >= trainer.state.max_steps
    if watch.stopped and not ended:
        raise Interrupted(
            f"Stopped and saved at step {trainer.state.global_step} of {trainer.state.max_steps}. "
            f"Resume with: {job.conditions.resume_call(start.run.folder)}"
        )


def _finish(
    trainer: PackedTrainer, watch: Watch, run: Run, job: Job, manifest: Manifest, graphs: int
) -> TrainResult:
    """Write the weights, the curve and the card, and last result.json: the run is finished."""
    settings, state = job.settings, trainer.state
    # One step's loss is mostly noise, and the mean of the run is mostly its beginning.
    losses = [line["loss"] for line in watch.lines if "loss" in line]
    tail = losses[-max(1, len(losses) // 10) :]
    best = [
        line
        for line in watch.lines
        if line["step"] == state.best_global_step and "eval_loss" in line
    ]
    speed, utilisation = watch.speed()
    tokens, seconds = watch.totals()
    result = TrainResult(
        command=settings.command,
        out=settings.out,
        model=settings.model,
        samples=job.samples,
        left_out=job.left_out,
        steps=state.global_step,
        planned_steps=state.max_steps,
        epochs=round(state.epoch or 0.0, 4),
        loss=math.fsum(tail) / max(1, len(tail)),
        validation_loss=state.best_metric,
        best_step=state.best_global_step or state.global_step,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=speed,
        utilisation=utilisation,
        device=device_name(job.device),
        processes=process_count(),
        precision="bf16 autocast" if job.autocast else "fp32",
        graphs=graphs,
        validation={
            name.removeprefix("eval_"): value
            for name, value in (best[-1] if best else {}).items()
            if name.startswith("eval_")
        },
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    # FSDP: all processes gather the weights that they share; then the first one writes them.
    sharded: Any = trainer.is_fsdp_enabled
    weights: Any = trainer.accelerator.get_state_dict(trainer.model) if sharded else None
    if trainer.is_world_process_zero():
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        if settings.lora_r:
            save_adapted(model, settings.out, merge=settings.merge)
        else:
            save_model(model, settings.out, weights)
        curve.draw(
            settings.out / METRICS,
            settings.out / CURVE,
            title=f"{result.command} of {result.model}",
            saved_step=result.best_step,
        )
        write_text(settings.out / CARD, card.model_card(settings, asdict(result), manifest))
        run.finish(asdict(result))
    trainer.accelerator.wait_for_everyone()
    return result
