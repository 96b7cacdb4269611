"""Prepare a training run: data in rows, a model, a trainer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from gpt2chat.core.config.training import OrpoConfig, SftConfig, TrainConfig
from gpt2chat.core.errors import ConfigError, DataError
from gpt2chat.core.model.checkpoint import chat_tokenizer
from gpt2chat.core.model.compiling import pick_compile
from gpt2chat.core.model.device import own_device, pick_autocast, pick_device
from gpt2chat.core.model.load import grow_positions, load_model, lora
from gpt2chat.core.model.names import find_model
from gpt2chat.core.model.packing import Ints, RowShape, pack
from gpt2chat.core.runs import Conditions
from gpt2chat.core.training.arguments import arguments, is_leader, is_sharded, process_count
from gpt2chat.core.training.callbacks import FasterTokens, embedding_rows
from gpt2chat.core.training.cores import SpareCores
from gpt2chat.core.training.objectives import Objective, OrpoObjective, SftObjective, shape_for
from gpt2chat.core.training.tokenized import Side, Tokenized, load_tokenized
from gpt2chat.core.training.trackers import tracker_callbacks
from gpt2chat.core.training.trainer import PackedTrainer, Rows

GPU_ROW_TOKENS, CPU_ROW_TOKENS = 32_768, 4_096
"""Most tokens in a packed row, unless `batch_tokens` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run before its first step: everything that training or planning it needs."""

    settings: TrainConfig
    objective: Objective
    device: torch.device
    autocast: bool
    tokens: Tokenized
    rows: Rows
    held_out: Tokenized
    held_rows: Rows
    model: Any
    """A PackedGPT2, or a PeftModel of one."""
    samples: int
    """Training samples (pairs, for ORPO)."""
    left_out: int
    """Samples (pairs) dropped because they are longer than `max_length`."""
    shape: RowShape | None
    """Sizes that every row is padded to if the model is compiled; None if it is not."""

    @property
    def conditions(self) -> Conditions:
        """The conditions, in addition to the settings, that must hold when the run resumes."""
        return Conditions(
            command=self.settings.command,
            processes=process_count(),
            sharded=is_sharded(),
            samples=f"{self.tokens.fingerprint} {self.held_out.fingerprint}",
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-len(self.rows) // (process_count() * self.settings.grad_accum))

    def trained_tokens(self) -> list[int]:
        """Return the number of tokens of each row that the loss covers."""
        return [
            int((lengths - self.objective.untrained_prefix(prompts, True).clip(min=1)).sum())
            for lengths, prompts in row_lengths(self.tokens, self.rows)
        ]

    def trainer(
        self, callbacks: Sequence[Any], rows: Rows | None = None, **changes: Any
    ) -> PackedTrainer:
        """Return a trainer of the job's model.

        Args:
            callbacks: In addition to those that the settings ask for.
            rows: Train on these rows only.
            changes: Keyword arguments of `arguments`.
        """
        settings, validated = self.settings, len(self.held_rows) > 0
        faster = FasterTokens(
            settings.token_lr, lora.adapter_rows if settings.lora_r else embedding_rows
        )
        trackers = tracker_callbacks(settings.report_to, settings.out, is_leader())
        cores = [SpareCores()] * (self.device.type == "cpu")
        return PackedTrainer(
            objective=self.objective,
            tokens=self.tokens,
            rows=self.rows if rows is None else rows,
            held_out=self.held_out,
            held_rows=self.held_rows,
            autocast=self.autocast,
            shape=self.shape,
            model=self.model,
            args=arguments(settings, validated, self.device, **changes),
            processing_class=chat_tokenizer(self.model.config.n_positions),
            callbacks=[faster, *cores, *trackers, *callbacks],
        )


def make_job(settings: TrainConfig) -> Job:
    """Return the job of a run: SFT's or ORPO's, by the type of its settings.

    Raises:
        ConfigError: Two settings exclude each other, or the model is in the folder to be written.
        DataError: No sample fits, or the data folder is not what `prepare` wrote.
        CheckpointError, NetworkError: The model cannot be loaded.
        HardwareError: The device is missing.
    """
    side: Side
    match settings:
        case OrpoConfig():
            side, objective = "pair", OrpoObjective(settings.beta, settings.nll_scope)
        case SftConfig():
            side = "chosen" if settings.chosen else "reply"
            objective = SftObjective(settings.train_on)
        case _:
            raise TypeError(f"{type(settings).__name__} is neither SftConfig nor OrpoConfig")
    local, out = find_model(settings.model), settings.out.resolve()
    if local and any(one.path.resolve().is_relative_to(out) for one in local.lineage):
        raise ConfigError(
            f"The model {settings.model} is read from {settings.out}, which the run would empty. "
            "Choose another folder with `out`.",
            setting="out",
        )
    if is_sharded() and settings.lora_r:
        raise ConfigError(
            "`lora_r` and FSDP do not go together: an adapter is small enough for each process. "
            "Start the run with torchrun.",
            setting="lora_r",
        )
    if is_sharded() and settings.compile == "on":
        raise ConfigError(
            '`compile="on"` and FSDP do not go together: gathering weights breaks the one graph. '
            "Leave out `compile`.",
            setting="compile",
        )
    device = own_device(pick_device(settings.device))
    autocast = pick_autocast(settings.precision, device)
    tokens = load_tokenized(settings.data, "train", side)
    held_out = load_tokenized(settings.data, "validation", side)
    items, left_out = _pick_items(tokens, settings.max_length, settings.limit)
    if not items:
        raise DataError(
            f"None of the {left_out} rows of {settings.data} fits "
            f"`max_length={settings.max_length}`. Raise it.",
            setting="max_length",
        )
    held_items, _ = _pick_items(held_out, settings.max_length, settings.eval_samples)
    if settings.patience is not None and not held_items:
        raise ConfigError(
            f"`patience` needs validation, and {settings.data} has no validation rows of at most "
            f"{settings.max_length} tokens. Leave it out, or hold rows out with "
            "`prepare(holdout=0.05)`.",
            setting="patience",
        )
    model = _load(settings)
    usual = GPU_ROW_TOKENS if device.type == "cuda" else CPU_ROW_TOKENS
    capacity = settings.batch_tokens or usual
    rows = _pack_rows(tokens, items, capacity, settings.batch_size, settings.seed)
    held_rows = _pack_rows(held_out, held_items, capacity, None, settings.seed)
    total = settings.epochs * int(tokens.sizes[items].sum())
    compiled = not is_sharded() and pick_compile(settings.compile, device, int(total))
    shape = shape_for(objective, row_lengths(tokens, rows)) if compiled else None
    return Job(
        settings=settings, objective=objective, device=device, autocast=autocast,
        tokens=tokens, rows=rows, held_out=held_out, held_rows=held_rows, model=model,
        samples=len(items), left_out=left_out, shape=shape,
    )  # fmt: skip


def row_lengths(tokens: Tokenized, rows: Rows) -> Iterator[tuple[Ints, Ints]]:
    """Yield the lengths and prompt lengths of each row's samples."""
    for row in rows:
        samples = tokens.samples_of(row)
        yield tokens.lengths[samples], tokens.prompt_lengths[samples]


def _pick_items(tokens: Tokenized, longest: int, most: int | None) -> tuple[list[int], int]:
    """Return the items that fit, evenly picked if there are more than `most`, and the number of
    those that do not fit."""
    fitting: list[int] = np.flatnonzero(tokens.longest <= longest).tolist()
    left_out = len(tokens) - len(fitting)
    if most is not None and len(fitting) > most:
        fitting = [fitting[index * len(fitting) // most] for index in range(most)]
    return fitting, left_out


def _pack_rows(
    tokens: Tokenized, items: list[int], capacity: int, most: int | None, seed: int
) -> Rows:
    """Return rows of whole items. Empty rows make their number a multiple of the processes'."""
    sizes: list[int] = tokens.sizes[items].tolist()
    packed = pack(sizes, max([capacity, *sizes]), most, seed)
    rows = [[items[index] for index in row] for row in packed]
    return rows + [[] for _ in range(-len(rows) % process_count())]


def _load(settings: TrainConfig) -> Any:
    """Return the model to train, with the positions, dropout, noise and adapter of the settings."""
    model: Any = load_model(settings.model, settings.seed, packed=True)
    window = model.config.n_positions
    if window < settings.max_length:
        if not settings.merge:
            raise ConfigError(
                f"{settings.model} has {window} positions, and `merge=False` saves no new ones. "
                f"Choose `max_length={window}` or `merge=True`.",
                setting="merge",
            )
        grow_positions(model, settings.max_length)
    # Packed attention has no dropout on any device.
    model.config.attn_pdrop = 0.0
    if settings.dropout is not None:
        model.config.resid_pdrop = model.config.embd_pdrop = settings.dropout
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = settings.dropout
    model.noise = settings.neftune
    if settings.lora_r:
        return lora.add_lora(model, settings, grown=window < settings.max_length)
    return model
