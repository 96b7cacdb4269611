"""`train_sft` and `train_orpo`: shards and a model in, a finished run folder out."""

import datetime
import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from gpt2chat.core import callbacks, card, curve
from gpt2chat.core.checkpoint import chat_tokenizer, save_model
from gpt2chat.core.config import OrpoConfig, SftConfig, TrainConfig, to_toml
from gpt2chat.core.conversations import Conversation
from gpt2chat.core.errors import ConfigError, DataError, HardwareError, Interrupted
from gpt2chat.core.files import remove, storage, write_text
from gpt2chat.core.model import load_model, pick_autocast, pick_device
from gpt2chat.core.packing import pack
from gpt2chat.core.runs import (
    CHECKPOINTS,
    CURVE,
    METRICS,
    RESULT,
    SETTINGS,
    open_run,
    remove_broken_checkpoints,
)
from gpt2chat.core.shards import read_pairs, read_samples
from gpt2chat.core.tokens import Encoded, encode_conversations
from gpt2chat.core.trainer import FasterTokens, OrpoTrainer, PackedTrainer, arguments, to_dataset

Item = Sequence[tuple[str, Encoded]]
"""What stands in one row together: a sample, or the two sides of a pair; each with its id."""


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
    epochs: float
    loss: float
    """Mean of the last tenth of the steps, in nats per token (ORPO: its objective)."""
    validation_loss: float | None
    """Of the weights that were kept: the lowest of the run."""
    best_step: int
    """The step those weights are of."""
    tokens: int
    """Tokens trained on since the run was last started, prompts included."""
    seconds: float
    """Since the run was last started, validations included."""
    device: str
    precision: str
    validation: dict[str, float] = field(default_factory=dict[str, float])
    """All that was measured at that step."""
    finished: str
    """Date and time, UTC, ISO 8601."""


def train_sft(settings: SftConfig, on_step: Callable[[callbacks.Step], None]) -> TrainResult:
    """Fine-tune on conversations, the reply's tokens only, and write the run folder.

    Raises:
        DataError: The shards are missing, changed or empty, or a loss is not finite.
        CheckpointError, NetworkError: The model cannot be had.
        ConfigError, StorageError: The run folder is taken, or cannot be written.
        Interrupted: Ctrl-C; a checkpoint is saved.
    """

    def items(split: Any) -> list[Item]:
        samples = read_samples(settings.data, split)
        encoded = encode_conversations(sample.conversation for sample in samples)
        return [[(sample.id, ids)] for sample, ids in zip(samples, encoded, strict=True)]

    return _train("sft", settings, items, PackedTrainer, {}, on_step)


def train_orpo(settings: OrpoConfig, on_step: Callable[[callbacks.Step], None]) -> TrainResult:
    """Align with preference pairs by ORPO, and write the run folder.

    Raises:
        As `train_sft`.
    """

    def items(split: Any) -> list[Item]:
        pairs = read_pairs(settings.data, split)
        sides: list[Conversation] = []
        for pair in pairs:
            preference = pair.preference
            sides.append(preference.prompt.with_reply(preference.chosen))
            sides.append(preference.prompt.with_reply(preference.rejected))
        encoded = encode_conversations(sides)
        return [
            [(f"{pair.id} (chosen)", chosen), (f"{pair.id} (rejected)", rejected)]
            for pair, chosen, rejected in zip(pairs, encoded[0::2], encoded[1::2], strict=True)
        ]

    extra = {"beta": settings.beta, "nll_scope": settings.nll_scope}
    return _train("orpo", settings, items, OrpoTrainer, extra, on_step)


def _train(
    command: str,
    settings: TrainConfig,
    items: Callable[[str], list[Item]],
    trainer_class: type[PackedTrainer],
    extra: dict[str, Any],
    on_step: Callable[[callbacks.Step], None],
) -> TrainResult:
    device = pick_device(settings.device)
    autocast = pick_autocast(settings.precision, device)
    checkpoint = open_run(settings.out, command, settings.resume, settings.overwrite)
    everything = items("train")
    if not everything:
        raise DataError(f"{settings.data} has no rows for {command}. Type gpt2chat prepare.")
    training, left_out = _chosen(everything, settings.max_length, settings.limit)
    if not training:
        raise DataError(
            f"None of the {left_out} rows of {settings.data} fits --max-length "
            f"{settings.max_length}. Give a higher one."
        )
    held_out, _ = _chosen(items("validation"), settings.max_length, settings.eval_samples)
    model = load_model(settings.model, settings.seed, packed=True)
    _check_window(model, settings)
    # Attention on packed rows has no dropout of its own, on no device.
    model.config.attn_pdrop = 0.0

    capacity = settings.batch_tokens or (32_768 if device.type == "cuda" else 4_096)
    rows = _rows(training, capacity, settings.batch_size, settings.seed)
    held_rows = _rows(held_out, capacity, None, settings.seed)
    _start_run(settings, checkpoint)
    watch = callbacks.Watch(settings.out / METRICS, settings.evals, bool(held_rows), on_step)
    # In this order: whether the disk is full is asked before anything is removed from it.
    with whole_checkpoints(settings.out), storage(settings.out):
        trainer = trainer_class(
            model=model,
            args=arguments(settings, bool(held_rows), device),
            train_dataset=to_dataset(rows),
            eval_dataset=to_dataset(held_rows) if held_rows else None,
            processing_class=chat_tokenizer(model.config.n_positions),
            callbacks=[FasterTokens(settings.token_lr), watch],
            autocast=autocast,
            **extra,
        )
        watch.attach(trainer)
        started = time.perf_counter()
        _run(trainer, watch, checkpoint, command, settings)
        seconds = time.perf_counter() - started
    state = trainer.state
    result = TrainResult(
        command=command,
        out=settings.out,
        model=settings.model,
        samples=len(training),
        left_out=left_out,
        steps=state.global_step,
        epochs=settings.epochs,
        loss=watch.last_loss(),
        validation_loss=state.best_metric,
        best_step=state.best_global_step or state.global_step,
        tokens=trainer.tokens_seen,
        seconds=seconds,
        device=device_name(device),
        precision="bf16 autocast" if autocast else "fp32",
        validation=watch.validation_at(state.best_global_step),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    if trainer.is_world_process_zero():
        _finish_run(trainer, settings, result)
    return result


def device_name(device: torch.device) -> str:
    """Return the device for people: the GPU's name, or how many CPU threads there are."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def _chosen(items: list[Item], longest: int, most: int | None) -> tuple[list[Item], int]:
    """Return the items that fit, evenly picked where there are more than asked for."""
    fitting = [item for item in items if all(len(sample) <= longest for _, sample in item)]
    left_out = len(items) - len(fitting)
    if most is not None and len(fitting) > most:
        fitting = [fitting[index * len(fitting) // most] for index in range(most)]
    return fitting, left_out


def _rows(
    items: list[Item], capacity: int, most: int | None, seed: int
) -> list[list[tuple[str, Encoded]]]:
    sizes = [sum(len(sample) for _, sample in item) for item in items]
    rows = pack(sizes, capacity, most, seed)
    return [[side for index in row for side in items[index]] for row in rows]


def _check_window(model: GPT2LMHeadModel, settings: TrainConfig) -> None:
    positions = model.config.n_positions
    if settings.max_length > positions:
        raise ConfigError(
            f"--max-length {settings.max_length}: {settings.model} has {positions} positions. "
            f"Give at most {positions}."
        )


def _start_run(settings: TrainConfig, checkpoint: Path | None) -> None:
    """Empty the run folder, unless it goes on, and write its settings."""
    if checkpoint is None:
        with storage(settings.out):
            remove(settings.out)
        write_text(settings.out / SETTINGS, to_toml(settings))


def _run(
    trainer: PackedTrainer,
    watch: callbacks.Watch,
    checkpoint: Path | None,
    command: str,
    settings: TrainConfig,
) -> None:
    try:
        with watch.stopping_on_signals():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            "The device ran out of memory. Give a lower --batch-tokens (and a higher --grad-accum)."
        ) from error
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Ended at once; only what the checkpoints in {settings.out} hold is saved."
        ) from error
    if watch.stopped and trainer.state.global_step < trainer.state.max_steps:
        where = "" if settings.out == type(settings).out else f" --out {settings.out}"
        raise Interrupted(
            f"Stopped and saved at step {trainer.state.global_step} of {trainer.state.max_steps}. "
            f"Go on with: gpt2chat {command} --resume{where}"
        )


@contextmanager
def whole_checkpoints(run: Path) -> Generator[None]:
    """Leave no half a checkpoint behind where saving one failed."""
    try:
        yield
    finally:
        remove_broken_checkpoints(run)


def _finish_run(trainer: PackedTrainer, settings: TrainConfig, result: TrainResult) -> None:
    """Write the weights, the curve and the card, and last of all the mark of a finished run."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    save_model(model, settings.out)
    curve.draw(settings.out / METRICS, settings.out / CURVE)
    write_text(settings.out / "README.md", card.model_card(settings, asdict(result)))
    write_text(settings.out / RESULT, json.dumps(asdict(result), indent=2, default=str) + "\n")
    remove(settings.out / CHECKPOINTS)
