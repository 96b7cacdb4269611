"""Prepare a training run: pack its samples, load its model and build its trainer."""

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
from gpt2chat.core.model.packing import Ints, SequenceShape, pack
from gpt2chat.core.runs import Conditions
from gpt2chat.core.training.arguments import arguments, is_leader, is_sharded, process_count
from gpt2chat.core.training.callbacks import FasterTokens, embedding_rows
from gpt2chat.core.training.cores import SpareCores
from gpt2chat.core.training.objectives import Objective, OrpoObjective, SftObjective, shape_for
from gpt2chat.core.training.tokenized import Side, Tokenized, load_tokenized
from gpt2chat.core.training.trackers import tracker_callbacks
from gpt2chat.core.training.trainer import PackedTrainer, Sequences

GPU_SEQUENCE_TOKENS, CPU_SEQUENCE_TOKENS = 32_768, 4_096
"""Most tokens in a packed sequence, unless `batch_tokens` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run before its first step, with all that training or planning needs."""

    settings: TrainConfig
    objective: Objective
    device: torch.device
    autocast: bool
    tokens: Tokenized
    sequences: Sequences
    held_out: Tokenized
    held_out_sequences: Sequences
    model: Any
    """A PackedGPT2, or a PeftModel of one."""
    samples: int
    """Training samples (pairs, for ORPO)."""
    left_out: int
    """Samples (pairs) dropped because they are longer than `max_length`."""
    shape: SequenceShape | None
    """Sizes that every sequence is padded to if the model is compiled; None if it is not."""

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
        return -(-len(self.sequences) // (process_count() * self.settings.grad_accum))

    def trained_tokens(self) -> list[int]:
        """Return the number of tokens of each sequence that the loss covers."""
        return [
            int((lengths - self.objective.untrained_prefix(prompts, True).clip(min=1)).sum())
            for lengths, prompts in sequence_lengths(self.tokens, self.sequences)
        ]

    def trainer(
        self, callbacks: Sequence[Any], sequences: Sequences | None = None, **changes: Any
    ) -> PackedTrainer:
        """Return a trainer of the job's model.

        Args:
            callbacks: In addition to those that the settings ask for.
            sequences: Train on these sequences only.
            changes: Keyword arguments of `arguments`.
        """
        settings, validated = self.settings, len(self.held_out_sequences) > 0
        faster = FasterTokens(settings.token_lr, embedding_rows)
        trackers = tracker_callbacks(settings.report_to, settings.out, is_leader())
        cores = [SpareCores()] * (self.device.type == "cpu")
        return PackedTrainer(
            objective=self.objective,
            tokens=self.tokens,
            sequences=self.sequences if sequences is None else sequences,
            held_out=self.held_out,
            held_out_sequences=self.held_out_sequences,
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
    # How many held-out samples are too long is not reported: validation is a sample anyway.
    held_items, _ = _pick_items(held_out, settings.max_length, settings.eval_samples)
    if settings.patience is not None and not held_items:
        raise ConfigError(
            f"`patience` needs validation, and {settings.data} has no validation rows of at most "
            f"{settings.max_length} tokens. Leave it out, or hold rows out with "
            "`prepare(holdout=0.05)`.",
            setting="patience",
        )
    model = _load(settings)
    # On a GPU long sequences keep it busy; on a CPU they only take memory.
    usual = GPU_SEQUENCE_TOKENS if device.type == "cuda" else CPU_SEQUENCE_TOKENS
    capacity = settings.batch_tokens or usual
    sequences = _pack_sequences(tokens, items, capacity, settings.batch_size, settings.seed)
    held_out_sequences = _pack_sequences(held_out, held_items, capacity, None, settings.seed)
    total = settings.epochs * int(tokens.sizes[items].sum())
    compiled = not is_sharded() and pick_compile(settings.compile, device, int(total))
    shape = shape_for(objective, sequence_lengths(tokens, sequences)) if compiled else None
    return Job(
        settings=settings, objective=objective, device=device, autocast=autocast,
        tokens=tokens, sequences=sequences,
        held_out=held_out, held_out_sequences=held_out_sequences,
        model=model, samples=len(items), left_out=left_out, shape=shape,
    )  # fmt: skip


def sequence_lengths(tokens: Tokenized, sequences: Sequences) -> Iterator[tuple[Ints, Ints]]:
    """Yield the lengths and prompt lengths of each sequence's samples."""
    for sequence in sequences:
        samples = tokens.samples_of(sequence)
        yield tokens.lengths[samples], tokens.prompt_lengths[samples]


def _pick_items(tokens: Tokenized, longest: int, most: int | None) -> tuple[list[int], int]:
    """Return the items that fit, evenly picked if there are more than `most`, and the number of
    those that do not fit."""
    fitting: list[int] = np.flatnonzero(tokens.longest <= longest).tolist()
    left_out = len(tokens) - len(fitting)
    if most is not None and len(fitting) > most:
        # Evenly, since shards hold one source after another: the first rows would be of one only.
        fitting = [fitting[index * len(fitting) // most] for index in range(most)]
    return fitting, left_out


def _pack_sequences(
    tokens: Tokenized, items: list[int], capacity: int, most: int | None, seed: int
) -> Sequences:
    """Pack whole items. Empty sequences make the number a multiple of the number of processes."""
    sizes: list[int] = tokens.sizes[items].tolist()
    packed = pack(sizes, max([capacity, *sizes]), most, seed)
    # Every process takes part in each step, so each must have a sequence for it.
    sequences = [[items[index] for index in sequence] for sequence in packed]
    return sequences + [[] for _ in range(-len(sequences) % process_count())]


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
