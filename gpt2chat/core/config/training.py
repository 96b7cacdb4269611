"""Settings of `gpt2chat sft` and `gpt2chat orpo`."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from gpt2chat.core.config.settings import Compile, Device, Precision, require
from gpt2chat.core.errors import ConfigError

NllScope = Literal["response", "full"]
TrainOn = Literal["reply", "all"]
Schedule = Literal["cosine", "linear", "constant", "inverse-sqrt"]
TRACKERS = ("tensorboard", "trackio", "wandb")
Resume = Literal["off", "auto", "on"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings that `sft` and `orpo` share."""

    model: str
    """What to start from: a run, a folder, a Hub name or `starter`."""
    data: Path = Path("data")
    """Folder that `prepare` wrote."""
    out: Path
    """Run folder to write."""
    epochs: float
    """Passes over the training shards."""
    lr: float
    """Highest learning rate of AdamW."""
    token_lr: float = 10.0
    """Times `lr`: how fast the rows of the template's seven tokens learn."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up."""
    cycles: int = 1
    """Cosine periods; above 1 the rate begins again at its top so many times less one."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; from 1 on, their number."""
    weight_decay: float = 0.1
    """AdamW's, on matrices and embeddings; biases and norms have none."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    dropout: float | None = None
    """Of embeddings and residuals; the model's own where it is not given."""
    neftune: float = 0.0
    """NEFTune's α: noise on the embeddings; 0 for none, 5 in its paper."""
    lora_r: int = 0
    """Rank of LoRA on all matrices of the blocks; 0 trains every weight."""
    lora_alpha: int | None = None
    """LoRA's α; twice the rank where it is not given."""
    dora: bool = False
    """Let LoRA learn each row's length apart from its direction (DoRA)."""
    merge: bool = True
    """Save a plain model with LoRA merged into it; else the adapter, which names its base."""
    batch_tokens: int | None = None
    """Most tokens in one packed row; 4,096 on a CPU, 32,768 on a GPU where it is not given."""
    batch_size: int | None = None
    """Most samples (pairs, for ORPO) in one packed row; no limit where it is not given."""
    grad_accum: int = 1
    """Packed rows per optimizer step and process."""
    max_length: int = 1024
    """Longest sample, in tokens; above the model's positions it grows new ones."""
    limit: int | None = None
    """Train on this many samples (pairs) only."""
    eval_samples: int = 256
    """Held-out samples (pairs) that the validation loss is measured on; 0 for none."""
    evals: int = 4
    """Validations in the run, evenly spaced; the last comes at the end."""
    patience: int | None = None
    """End after so many validations in a row without a lower loss; never where not given."""
    save_minutes: float = 10.0
    """Save a checkpoint at least this often; one is saved at each validation too."""
    device: Device = "auto"
    """Where to train; auto takes a GPU if there is one."""
    precision: Precision = "auto"
    """bf16 autocast, or float32 throughout; auto takes bf16 where the device is fast at it."""
    compile: Compile = "auto"
    """Compile the model; auto does on a GPU where the run is long enough to earn the wait."""
    report_to: tuple[str, ...] = ()
    """Trackers that get the metrics too: tensorboard, trackio, wandb."""
    resume: Resume = "off"
    """Go on with the unfinished run in `out`: never, if there is one, or for certain."""
    overwrite: bool = False
    """Replace the run that `out` holds."""
    dry_run: bool = False
    """Take two real steps, say what the run would need, and write nothing."""
    seed: int = 0
    """Of packing, data order, dropout and new token rows."""

    def __post_init__(self) -> None:
        for name, number in ((entry.name, getattr(self, entry.name)) for entry in fields(self)):
            sound = not isinstance(number, float) or math.isfinite(number)
            require(sound, f"--{name.replace('_', '-')} must be a finite number", number)
        require(self.epochs > 0, "--epochs must be above 0", self.epochs)
        require(self.lr > 0, "--lr must be above 0", self.lr)
        require(self.token_lr > 0, "--token-lr must be above 0", self.token_lr)
        require(self.warmup >= 0, "--warmup must be at least 0", self.warmup)
        whole = self.warmup < 1 or self.warmup == int(self.warmup)
        require(whole, "--warmup must be below 1, or a whole number of steps", self.warmup)
        require(self.weight_decay >= 0, "--weight-decay must be at least 0", self.weight_decay)
        require(self.max_grad_norm > 0, "--max-grad-norm must be above 0", self.max_grad_norm)
        require(self.grad_accum >= 1, "--grad-accum must be at least 1", self.grad_accum)
        require(self.max_length >= 64, "--max-length must be at least 64", self.max_length)
        require(self.eval_samples >= 0, "--eval-samples must be at least 0", self.eval_samples)
        require(self.evals >= 1, "--evals must be at least 1", self.evals)
        require(self.save_minutes > 0, "--save-minutes must be above 0", self.save_minutes)
        require(self.neftune >= 0, "--neftune must be at least 0", self.neftune)
        require(self.cycles >= 1, "--cycles must be at least 1", self.cycles)
        require(0 <= self.seed < 2**32, "--seed must be from 0 to 4294967295", self.seed)
        self._check_together()
        for flag, value in (
            ("--batch-size", self.batch_size), ("--limit", self.limit),
            ("--patience", self.patience),
        ):  # fmt: skip
            require(value is None or value >= 1, f"{flag} must be at least 1", value)
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "--dropout must be from 0 to below 1", self.dropout)

    def _check_together(self) -> None:
        require(self.lora_r >= 0, "--lora-r must be at least 0", self.lora_r)
        if self.lora_r == 0 and (self.dora or not self.merge or self.lora_alpha is not None):
            raise ConfigError("--dora, --no-merge and --lora-alpha need --lora-r, such as 16.")
        if self.lora_alpha is not None:
            require(self.lora_alpha > 0, "--lora-alpha must be above 0", self.lora_alpha)
        if self.cycles > 1 and self.schedule != "cosine":
            raise ConfigError(f"--cycles is for --schedule cosine, not {self.schedule}.")
        if self.batch_tokens is not None:
            rule = "--batch-tokens must be at least --max-length"
            require(self.batch_tokens >= self.max_length, rule, self.batch_tokens)
        if self.patience is not None and self.eval_samples == 0:
            raise ConfigError("--patience needs validation: give --eval-samples above 0.")
        for name in self.report_to:
            rule = f"--report-to takes {', '.join(TRACKERS)}"
            require(name in TRACKERS, rule, name)
        if self.resume != "off" and self.overwrite:
            raise ConfigError("--resume goes on and --overwrite starts over: give one of them.")


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainConfig):
    """Settings of `gpt2chat sft`."""

    model: str = "gpt2"
    out: Path = Path("runs/sft")
    epochs: float = 3.0
    lr: float = 2e-4
    train_on: TrainOn = "reply"
    """Tokens that are trained: those of the reply, or all. Validation is on the reply."""
    chosen: bool = False
    """Train on the chosen replies of the preference pairs: what ORPO is to be compared with."""


@dataclass(frozen=True, kw_only=True)
class OrpoConfig(TrainConfig):
    """Settings of `gpt2chat orpo`."""

    model: str = ""
    """Empty: the newest finished `sft` run."""
    out: Path = Path("runs/orpo")
    epochs: float = 1.0
    lr: float = 1e-4
    token_lr: float = 1.0
    beta: float = 0.1
    """Weight λ of the odds-ratio term (TRL's `beta`, the paper's λ, its code's `alpha`)."""
    nll_scope: NllScope = "response"
    """What the likelihood term covers: the chosen reply, or its prompt too (paper's code, TRL)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens is not None:
            rule = "--batch-tokens must be at least twice --max-length, to hold a pair"
            require(self.batch_tokens >= 2 * self.max_length, rule, self.batch_tokens)
        require(self.beta >= 0, "--beta must be at least 0", self.beta)
