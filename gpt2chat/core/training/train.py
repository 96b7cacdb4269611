"""`train_sft` and `train_orpo`: shards and a model in, a finished run folder out."""

import datetime
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.data.shards import Manifest, read_manifest
from gpt2chat.core.errors import HardwareError, Interrupted, WorkerError
from gpt2chat.core.files import storage, write_text
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.compiling import compiled_graphs
from gpt2chat.core.model.device import device_name
from gpt2chat.core.model.flops import matmul_flops
from gpt2chat.core.model.lora import save_adapted
from gpt2chat.core.runs import CARD, CURVE, METRICS, Run, Start, open_run
from gpt2chat.core.training import callbacks, card, curve, memory
from gpt2chat.core.training.arguments import PROCESSES, wait_for_all
from gpt2chat.core.training.job import Job, orpo_job, sft_job
from gpt2chat.core.training.trainer import PackedTrainer


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run did; `result.json` in its folder."""

    command: str
    """`sft` or `orpo`."""
    out: Path
    model: str
    """What it started from."""
    samples: int
    """Samples (pairs, for ORPO) that were trained on in each epoch."""
    left_out: int
    """Samples (pairs) longer than --max-length."""
    steps: int
    """Optimizer steps of the whole run."""
    planned_steps: int
    """More than `steps` where --patience ended the run."""
    epochs: float
    loss: float
    """Mean of the last tenth of the steps, in nats per token (ORPO: its objective)."""
    validation_loss: float | None
    """Of the weights that were kept: the lowest of the run."""
    best_step: int
    """The step those weights are of."""
    tokens: int
    """Tokens trained on, prompts included, by all processes and over all starts of the run."""
    seconds: float
    """Over all starts, validations included."""
    tokens_per_second: float
    """Without validations, and without what comes before the first line of metrics: warm-up."""
    utilisation: float
    """Share of the operations a second that one large matrix product reaches."""
    device: str
    processes: int
    precision: str
    graphs: int
    """Graphs that were compiled: 0 without --compile, else 1."""
    validation: dict[str, float] = field(default_factory=dict[str, float])
    """All that was measured at that step."""
    finished: str
    """Date and time, UTC, ISO 8601."""


def train_sft(settings: SftConfig, on_step: Callable[[callbacks.Step], None]) -> TrainResult:
    """Fine-tune on conversations, the reply's tokens only, and write the run folder.

    Raises:
        DataError: The shards are missing, changed or empty, or not those that the run began with;
            or a loss is not finite.
        CheckpointError, NetworkError: The model, or the run to resume, cannot be read.
        ConfigError, StorageError: The run folder is taken, or another run writes to it, or it
            cannot be written; or the run in it was started otherwise.
        HardwareError: The device is not there, or its memory too small.
        WorkerError: Another process of the run ended.
        Interrupted: Ctrl-C; a checkpoint is saved.
    """
    with open_run(settings, "sft") as start:
        return train(start, on_step)


def train_orpo(settings: OrpoConfig, on_step: Callable[[callbacks.Step], None]) -> TrainResult:
    """Align with preference pairs by ORPO, and write the run folder.

    Raises:
        As `train_sft`.
    """
    with open_run(settings, "orpo") as start:
        return train(start, on_step)


def train(start: Start, on_step: Callable[[callbacks.Step], None]) -> TrainResult:
    """Train an open run to its end.

    Raises:
        As `train_sft`.
    """
    with _group_left():
        settings = start.settings
        job = sft_job(settings) if isinstance(settings, SftConfig) else orpo_job(settings)
        # The card needs it at the end, when the folder may be gone or prepared anew.
        manifest = read_manifest(settings.data)
        if start.checkpoint is not None:
            start.run.require_same(job.conditions, settings.data)
        memory.check_fits(job, memory.available_memory(job.device), memory.SURE)
        with memory.model_fits():
            peak = matmul_flops(job.device, job.autocast)
        watch = callbacks.Watch(
            settings.out / METRICS,
            evals=settings.evals,
            validated=len(job.held_rows) > 0,
            patience=settings.patience,
            save_minutes=settings.save_minutes,
            peak=peak,
            on_step=on_step,
        )
        leads = wait_for_all(settings, job.device)
        # From here on Ctrl-C saves: the folder is not what it was.
        with watch.stopping_on_signals(), _ended_at_once(settings.out):
            if leads and start.checkpoint is not None:
                with storage(settings.out):
                    start.run.remove_damaged()
            elif leads:
                start.run.start(settings, job.conditions)
            wait_for_all(settings, job.device)
            return _run_to_end(start, job, watch, manifest)


def _run_to_end(start: Start, job: Job, watch: callbacks.Watch, manifest: Manifest) -> TrainResult:
    settings, graphs = job.settings, compiled_graphs()
    # In this order: whether the disk is full is asked before anything is removed from it.
    with _whole_checkpoints(start.run), storage(settings.out):
        with memory.model_fits():
            trainer = job.trainer([watch])
        watch.attach(trainer)
        _run(trainer, watch, start, job)
    result = _result(job, trainer, watch, compiled_graphs() - graphs)
    _finish_run(trainer, start.run, job, result, manifest)
    return result


def _result(job: Job, trainer: PackedTrainer, watch: callbacks.Watch, graphs: int) -> TrainResult:
    state, settings = trainer.state, job.settings
    speed, utilisation = watch.speed()
    tokens, seconds = watch.totals()
    return TrainResult(
        command=job.command,
        out=settings.out,
        model=settings.model,
        samples=job.samples,
        left_out=job.left_out,
        steps=state.global_step,
        planned_steps=state.max_steps,
        epochs=round(state.epoch or 0.0, 4),
        loss=watch.last_loss(),
        validation_loss=state.best_metric,
        best_step=state.best_global_step or state.global_step,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=speed,
        utilisation=utilisation,
        device=device_name(job.device),
        processes=PROCESSES,
        precision="bf16 autocast" if job.autocast else "fp32",
        graphs=graphs,
        validation=watch.validation_at(state.best_global_step),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _run(trainer: PackedTrainer, watch: callbacks.Watch, start: Start, job: Job) -> None:
    settings, checkpoint = job.settings, start.checkpoint
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            "The device ran out of memory. Give a lower `batch_tokens` (and a higher `grad_accum`)."
        ) from error
    except RuntimeError as error:
        if PROCESSES > 1 and _is_lost_peer(error):
            newest = start.run.newest_checkpoint()
            saved = f"{newest.name} is whole" if newest else "No checkpoint had been saved"
            raise WorkerError(
                f"Another process of this run ended. {saved}: start the same command again with "
                '`resume="auto"`.'
            ) from error
        raise
    ended = watch.ran_out or trainer.state.global_step >= trainer.state.max_steps
    if watch.stopped and not ended:
        raise Interrupted(
            f"Stopped and saved at step {trainer.state.global_step} of {trainer.state.max_steps}. "
            f"Resume with: {job.conditions.resume_call(settings.out)}"
        )


def _is_lost_peer(error: RuntimeError) -> bool:
    """Say whether a collective operation failed because a process is gone; gloo has no error of
    its own."""
    signs = ("gloo", "connection closed", "connection reset", "broken pipe", "socket")
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)


@contextmanager
def _group_left() -> Generator[None]:
    """Leave the group of processes at the end, unless one is lost: a group with threads at work
    aborts the program."""
    lost = False
    try:
        yield
    except WorkerError:
        lost = True
        raise
    finally:
        if dist.is_initialized() and not lost:
            dist.destroy_process_group()


@contextmanager
def _ended_at_once(run: Path) -> Generator[None]:
    """Say what is left of a run after a second Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Ended at once; only what the checkpoints in {run} hold is saved."
        ) from error


@contextmanager
def _whole_checkpoints(run: Run) -> Generator[None]:
    """Leave no half a checkpoint behind where saving one failed."""
    try:
        yield
    finally:
        if PROCESSES == 1:
            run.remove_unsealed()


def _finish_run(
    trainer: PackedTrainer, run: Run, job: Job, result: TrainResult, manifest: Manifest
) -> None:
    """Write the weights, the curve and the card, and last of all the mark of a finished run."""
    settings = job.settings
    state = trainer.whole_state()
    if trainer.is_world_process_zero():
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        if settings.lora_r:
            save_adapted(model, settings.out, merge=settings.merge)
        else:
            save_model(model, settings.out, state)
        curve.draw(settings.out / METRICS, settings.out / CURVE)
        write_text(settings.out / CARD, card.model_card(settings, asdict(result), manifest))
        run.finish(asdict(result))
    trainer.accelerator.wait_for_everyone()
