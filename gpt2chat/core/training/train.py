"""`train_sft` and `train_orpo`: shards and a model in, a finished run folder out."""

import dataclasses
import datetime
import json
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gpt2chat.core.config.settings import to_toml
from gpt2chat.core.config.training import OrpoConfig, SftConfig, TrainConfig
from gpt2chat.core.data.shards import read_manifest
from gpt2chat.core.errors import HardwareError, Interrupted, WorkerError
from gpt2chat.core.files import held, remove, storage, write_text
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.compiling import compiled_graphs
from gpt2chat.core.model.device import device_name
from gpt2chat.core.model.flops import matmul_flops
from gpt2chat.core.model.lora import save_adapted
from gpt2chat.core.runs import (
    CHECKPOINTS,
    CURVE,
    METRICS,
    RESULT,
    SETTINGS,
    newest_checkpoint,
    open_run,
    remove_broken_checkpoints,
)
from gpt2chat.core.started import require_same, write_started
from gpt2chat.core.training import callbacks, card, curve, memory
from gpt2chat.core.training.arguments import LEADS, PROCESSES, wait_for_all
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
        CheckpointError, NetworkError: The model cannot be had.
        ConfigError, StorageError: The run folder is taken, or another run writes to it, or it
            cannot be written; or the run in it was started otherwise.
        HardwareError: The device is not there, or its memory too small.
        WorkerError: Another process of the run ended.
        Interrupted: Ctrl-C; a checkpoint is saved.
    """
    with _group_left(), _folder_held(settings.out):
        return _train("sft", settings, lambda: sft_job(settings), on_step)


def train_orpo(settings: OrpoConfig, on_step: Callable[[callbacks.Step], None]) -> TrainResult:
    """Align with preference pairs by ORPO, and write the run folder.

    Raises:
        As `train_sft`.
    """
    with _group_left(), _folder_held(settings.out):
        return _train("orpo", settings, lambda: orpo_job(settings), on_step)


def _train(
    command: str,
    settings: TrainConfig,
    make: Callable[[], Job],
    on_step: Callable[[callbacks.Step], None],
) -> TrainResult:
    checkpoint = open_run(settings.out, command, settings.resume, settings.overwrite)
    job = make()
    if checkpoint is not None:
        require_same(settings.out, job.started, settings.data)
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
        _start_run(job, checkpoint, leads)
        return _run_to_end(job, watch, checkpoint)


def _run_to_end(job: Job, watch: callbacks.Watch, checkpoint: Path | None) -> TrainResult:
    settings, graphs = job.settings, compiled_graphs()
    # In this order: whether the disk is full is asked before anything is removed from it.
    with _whole_checkpoints(settings.out), storage(settings.out):
        with memory.model_fits():
            trainer = job.trainer([watch])
        watch.attach(trainer)
        _run(trainer, watch, checkpoint, job)
    result = _result(job, trainer, watch, compiled_graphs() - graphs)
    _finish_run(trainer, job, result)
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


def _start_run(job: Job, checkpoint: Path | None, leads: bool) -> None:
    """Empty the run folder, or rid it of half checkpoints where it goes on, and write its settings:
    in one process, when all have seen the folder as it was."""
    if leads and checkpoint is not None:
        with storage(job.settings.out):
            remove_broken_checkpoints(job.settings.out)
    elif leads:
        with storage(job.settings.out):
            remove(job.settings.out)
        kept = dataclasses.replace(job.settings, resume="off", overwrite=False, dry_run=False)
        write_started(job.settings.out, job.started)
        write_text(job.settings.out / SETTINGS, to_toml(kept))
    wait_for_all(job.settings, job.device)


def _run(trainer: PackedTrainer, watch: callbacks.Watch, checkpoint: Path | None, job: Job) -> None:
    settings = job.settings
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            "The device ran out of memory. Give a lower --batch-tokens (and a higher --grad-accum)."
        ) from error
    except RuntimeError as error:
        if PROCESSES > 1 and _is_lost_peer(error):
            saved = newest_checkpoint(settings.out)
            kept = f"{saved.name} is whole" if saved else "No checkpoint had been saved"
            raise WorkerError(
                f"Another process of this run ended. {kept}: start the same command again with "
                "--resume auto."
            ) from error
        raise
    ended = watch.ran_out or trainer.state.global_step >= trainer.state.max_steps
    if watch.stopped and not ended:
        raise Interrupted(
            f"Stopped and saved at step {trainer.state.global_step} of {trainer.state.max_steps}. "
            f"Go on with: {job.started.resume_line(settings.out)}"
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


def _folder_held(run: Path) -> AbstractContextManager[None]:
    """Keep other runs out of the run folder, for all processes of this one."""
    return held(run) if LEADS else nullcontext()


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
def _whole_checkpoints(run: Path) -> Generator[None]:
    """Leave no half a checkpoint behind where saving one failed."""
    try:
        yield
    finally:
        if PROCESSES == 1:
            remove_broken_checkpoints(run)


def _finish_run(trainer: PackedTrainer, job: Job, result: TrainResult) -> None:
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
        text = card.model_card(settings, asdict(result), read_manifest(settings.data))
        write_text(settings.out / "README.md", text)
        kept = json.dumps(asdict(result), indent=2, default=str, allow_nan=False)
        write_text(settings.out / RESULT, kept + "\n")
        remove(settings.out / CHECKPOINTS)
    trainer.accelerator.wait_for_everyone()
