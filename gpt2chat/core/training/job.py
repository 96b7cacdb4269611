"""What a training run needs before its first step: data in rows, a model, a trainer."""

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
from gpt2chat.core.training.arguments import LEADS, PROCESSES, SHARDED, arguments
from gpt2chat.core.training.callbacks import FasterTokens, embedding_rows
from gpt2chat.core.training.objectives import Objective, OrpoObjective, SftObjective, shape_for
from gpt2chat.core.training.tokenized import Side, Tokenized, load_tokenized
from gpt2chat.core.training.trackers import require_trackers, tracker_callbacks
from gpt2chat.core.training.trainer import PackedTrainer, Rows


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a run and its plan need."""

    command: str
    """`sft` or `orpo`."""
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
    """Samples (pairs, for ORPO) that are trained on."""
    left_out: int
    """Samples (pairs) longer than --max-length."""
    shape: RowShape | None
    """Sizes of the rows where the model is to be compiled."""

    @property
    def conditions(self) -> Conditions:
        """What a resume of the run must share, next to the settings."""
        return Conditions(
            command=self.command,
            processes=PROCESSES,
            sharded=SHARDED,
            samples=f"{self.tokens.fingerprint} {self.held_out.fingerprint}",
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        return -(-len(self.rows) // (PROCESSES * self.settings.grad_accum))

    def trained_tokens(self) -> list[int]:
        """Return the tokens of each row that the loss is taken of."""
        return [
            int((lengths - self.objective.counted(prompts, True).clip(min=1)).sum())
            for lengths, prompts in row_lengths(self.tokens, self.rows)
        ]

    def trainer(
        self, callbacks: Sequence[Any], rows: Rows | None = None, **changes: Any
    ) -> PackedTrainer:
        """Return a trainer of the job's model.

        Args:
            callbacks: Beside those that the settings ask for.
            rows: Train on these only.
            changes: Of `arguments`.
        """
        settings, validated = self.settings, len(self.held_rows) > 0
        faster = FasterTokens(
            settings.token_lr, lora.adapter_rows if settings.lora_r else embedding_rows
        )
        trackers = tracker_callbacks(settings.report_to, settings.out, LEADS)
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
            callbacks=[faster, *trackers, *callbacks],
        )


def sft_job(settings: SftConfig) -> Job:
    """Return the job of `sft`; errors as of `load_tokenized` and `load_model`."""
    side = "chosen" if settings.chosen else "reply"
    return _job("sft", settings, side, SftObjective(settings.train_on))


def orpo_job(settings: OrpoConfig) -> Job:
    """Return the job of `orpo`; errors as of `load_tokenized` and `load_model`."""
    return _job("orpo", settings, "pair", OrpoObjective(settings.beta, settings.nll_scope))


def _job(command: str, settings: TrainConfig, side: Side, objective: Objective) -> Job:
    require_trackers(settings.report_to)
    local, out = find_model(settings.model), settings.out.resolve()
    if local and any(one.path.resolve().is_relative_to(out) for one in local.lineage):
        raise ConfigError(
            f"The model {settings.model} is read from {settings.out}, which the run would empty. "
            "Give another `out`.",
            setting="out",
        )
    if SHARDED:
        _check_sharded(settings)
    device = own_device(pick_device(settings.device))
    autocast = pick_autocast(settings.precision, device)
    tokens = load_tokenized(settings.data, "train", side)
    held_out = load_tokenized(settings.data, "validation", side)
    items, left_out = _chosen(tokens, settings.max_length, settings.limit)
    if not items:
        raise DataError(
            f"None of the {left_out} rows of {settings.data} fits --max-length "
            f"{settings.max_length}. Give a higher one."
        )
    held_items, _ = _chosen(held_out, settings.max_length, settings.eval_samples)
    if settings.patience is not None and not held_items:
        raise ConfigError(
            f"--patience needs validation, and {settings.data} has no validation rows of at most "
            f"{settings.max_length} tokens. Leave it out, or see prepare --holdout."
        )
    model = _model(settings)
    capacity = settings.batch_tokens or (32_768 if device.type == "cuda" else 4_096)
    rows = _rows(tokens, items, capacity, settings.batch_size, settings.seed)
    held_rows = _rows(held_out, held_items, capacity, None, settings.seed)
    total = settings.epochs * int(tokens.sizes[items].sum())
    compiled = not SHARDED and pick_compile(settings.compile, device, int(total))
    shape = shape_for(objective, row_lengths(tokens, rows)) if compiled else None
    return Job(
        command=command, settings=settings, objective=objective, device=device, autocast=autocast,
        tokens=tokens, rows=rows, held_out=held_out, held_rows=held_rows, model=model,
        samples=len(items), left_out=left_out, shape=shape,
    )  # fmt: skip


def _check_sharded(settings: TrainConfig) -> None:
    if settings.lora_r:
        raise ConfigError(
            "--lora-r and FSDP do not go together: an adapter is small enough for each process. "
            "Start it with torchrun."
        )
    if settings.compile == "on":
        raise ConfigError(
            "--compile on and FSDP do not go together: gathering weights breaks the one graph. "
            "Leave --compile out."
        )


def row_lengths(tokens: Tokenized, rows: Rows) -> Iterator[tuple[Ints, Ints]]:
    """Yield the lengths and prompt lengths of each row's samples."""
    for row in rows:
        samples = tokens.samples_of(row)
        yield tokens.lengths[samples], tokens.prompt_lengths[samples]


def _chosen(tokens: Tokenized, longest: int, most: int | None) -> tuple[list[int], int]:
    """Return the items that fit, evenly picked where there are more than asked for, and the
    number of those that do not."""
    fitting: list[int] = np.flatnonzero(tokens.longest <= longest).tolist()
    left_out = len(tokens) - len(fitting)
    if most is not None and len(fitting) > most:
        fitting = [fitting[index * len(fitting) // most] for index in range(most)]
    return fitting, left_out


def _rows(tokens: Tokenized, items: list[int], capacity: int, most: int | None, seed: int) -> Rows:
    """Return rows, as many for each process: a process that has none left gets one of nothing."""
    sizes: list[int] = tokens.sizes[items].tolist()
    packed = pack(sizes, max([capacity, *sizes]), most, seed)
    rows = [[items[index] for index in row] for row in packed]
    return rows + [[] for _ in range(-len(rows) % PROCESSES)]


def _model(settings: TrainConfig) -> Any:
    model: Any = load_model(settings.model, settings.seed, packed=True)
    window = model.config.n_positions
    if window < settings.max_length:
        if not settings.merge:
            raise ConfigError(
                f"--no-merge saves no new positions, and {settings.model} has {window}. "
                f"Give --max-length {window}, or --merge."
            )
        grow_positions(model, settings.max_length)
    # Attention on packed rows has no dropout of its own, on no device.
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
