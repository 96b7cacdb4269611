"""Define the settings of supervised fine-tuning and of ORPO."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from gpt2chat.core.config.settings import Compile, Device, Precision, Settings, quote, setting
from gpt2chat.core.errors import ConfigError

NllScope = Literal["response", "full"]
TrainOn = Literal["reply", "all"]
Schedule = Literal["cosine", "linear", "constant", "inverse-sqrt"]
TRACKERS = ("tensorboard", "trackio", "wandb")
Resume = Literal["off", "auto", "on"]


# The aliases are the names of Hugging Face's TrainingArguments.
@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Settings of any training. SftConfig and OrpoConfig add the missing defaults."""

    command: ClassVar[str]
    """Name of the command."""
    model: str = setting(help="Model to start from.", section="Model")
    data: Path = setting(Path("data"), help="Folder that `prepare()` wrote.", section="Data")
    limit: int | None = setting(
        None,
        help="Train on at most this many samples, or pairs for ORPO. Defaults to all.",
        section="Data",
        ge=1,
    )
    max_length: int = setting(
        1024,
        help="Longest sample, in tokens. Above the model's own limit, new positions are added.",
        section="Data",
        aliases=("max_seq_length",),
        ge=64,
    )
    epochs: float = setting(
        help="Passes over the training data.",
        section="Optimization",
        aliases=("num_train_epochs",),
        gt=0,
    )
    lr: float = setting(
        help="Peak learning rate of AdamW.",
        section="Optimization",
        aliases=("learning_rate",),
        gt=0,
    )
    # These rows start far from any other, and AdamW moves a number by about the learning rate in a
    # step: with one rate for all, a model did not learn to end its turn in 64 steps (docs/log.md).
    token_lr: float = setting(
        10.0,
        help="Learning rate of the chat template's seven tokens, as a multiple of `lr`.",
        section="Optimization",
        gt=0,
    )
    schedule: Schedule = setting(
        "cosine",
        help="How the learning rate falls after the warm-up.",
        section="Optimization",
        aliases=("lr_scheduler_type",),
    )
    cycles: int = setting(
        1,
        help="Periods of the cosine schedule. Each restarts at the peak learning rate.",
        section="Optimization",
        ge=1,
    )
    warmup: float = setting(
        0.05,
        help="Share of the steps over which the learning rate rises; from 1 up, a number of steps.",
        section="Optimization",
        aliases=("warmup_ratio", "warmup_steps"),
        ge=0,
    )
    # Not on biases and norms: pulling these towards 0 would change the scale of every layer.
    weight_decay: float = setting(
        0.1,
        help="Weight decay of AdamW on matrices and embeddings. Biases and norms have none.",
        section="Optimization",
        ge=0,
    )
    max_grad_norm: float = setting(
        1.0,
        help="Scale gradients down to at most this norm.",
        section="Optimization",
        gt=0,
    )
    # Attention weights never have any: packed attention has no kernel with it.
    dropout: float | None = setting(
        None,
        help="Dropout on embeddings and residual connections. Defaults to the model's own.",
        section="Optimization",
        ge=0,
        lt=1,
    )
    neftune: float = setting(
        0.0,
        help="Alpha of NEFTune, which adds noise to the embeddings; its paper uses 5. 0 adds none.",
        section="Optimization",
        aliases=("neftune_noise_alpha",),
        ge=0,
    )
    seed: int = setting(
        0,
        help="Seed of the data order, packing, dropout and new token embeddings.",
        section="Optimization",
        ge=0,
        le=2**32 - 1,
    )
    # The default of `batch_size` is no limit: a sequence is full when its tokens are.
    batch_tokens: int | None = setting(
        None,
        help="Most tokens in one packed sequence. Defaults to 4096 on a CPU and 32768 on a GPU.",
        section="Batches",
        ge=1,
    )
    batch_size: int | None = setting(
        None,
        help="Most samples, or pairs for ORPO, in one packed sequence. Unlimited by default.",
        section="Batches",
        aliases=("per_device_train_batch_size",),
        ge=1,
    )
    # A packed sequence is a batch of several samples already.
    grad_accum: int = setting(
        1,
        help="Packed sequences per optimizer step and process.",
        section="Batches",
        aliases=("gradient_accumulation_steps",),
        ge=1,
    )
    lora_r: int = setting(
        0,
        help="Rank of LoRA on all matrices of the blocks. 0 trains every weight instead.",
        section="LoRA",
        ge=0,
    )
    lora_alpha: int | None = setting(
        None,
        help="Alpha of LoRA. Defaults to twice the rank.",
        section="LoRA",
        gt=0,
    )
    dora: bool = setting(
        False,
        help="Use DoRA: learn the length of each weight vector apart from its direction.",
        section="LoRA",
    )
    # Merged by default, so that every run is a plain GPT-2 folder for other programs.
    merge: bool = setting(
        True,
        help="Merge LoRA into the saved model. Otherwise save the adapter, which needs its base.",
        section="LoRA",
    )
    # Some of the held-out samples, so that validations take little of the run's time.
    eval_samples: int = setting(
        256,
        help="Held-out samples or pairs for the validation loss. 0 turns validation off.",
        section="Validation",
        ge=0,
    )
    evals: int = setting(
        4,
        help="Validations during the run, evenly spaced. The last is at its end.",
        section="Validation",
        ge=1,
    )
    # The best weights are saved in any case; patience only saves time.
    patience: int | None = setting(
        None,
        help="Stop after this many validations in a row without a lower loss. Defaults to never.",
        section="Validation",
        ge=1,
    )
    out: Path = setting(
        help="Run folder to write.",
        section="Output",
        aliases=("output_dir",),
    )
    # Not "auto" by default: a run with other settings in the same folder is more often a mistake.
    resume: Resume = setting(
        "off",
        help="Resume the unfinished run in `out`. If there is none, auto starts a new run, and on "
        "fails.",
        section="Output",
    )
    overwrite: bool = setting(False, help="Replace the run in `out`.", section="Output")
    # The most training that a loss of power may cost, against the seconds that saving 1.5 GB takes.
    save_minutes: float = setting(
        10.0,
        help="Save a checkpoint at least this often, in minutes. Each validation saves one too.",
        section="Output",
        gt=0,
    )
    # Nothing leaves the machine unless it is asked for here.
    report_to: tuple[str, ...] = setting(
        (),
        help="Also send the metrics to tensorboard, trackio or wandb.",
        section="Output",
        metavar="TRACKER",
    )
    dry_run: bool = setting(
        False,
        help="Take two real steps, report what the whole run needs, and write nothing.",
        section="Output",
    )
    device: Device = setting(
        "auto", help="Where to train. auto uses a GPU if there is one.", section="Hardware"
    )
    precision: Precision = setting(
        "auto",
        help="bf16 autocast, or float32 throughout. auto uses bf16 where the device is fast at it.",
        section="Hardware",
    )
    compile: Compile = setting(
        "auto",
        help="Compile the model. auto does on a GPU, if the run is long enough to gain from it.",
        section="Hardware",
    )

    def check_together(self) -> None:
        try:
            str(self.out).encode()
        except UnicodeEncodeError:  # safetensors and tokenizers write to no such path
            raise ConfigError(
                f"`out` must be valid UTF-8, not {str(self.out)!r}. Give another folder.",
                setting="out",
            ) from None
        is_share_or_steps = self.warmup < 1 or self.warmup == int(self.warmup)
        self.require("warmup", is_share_or_steps, "below 1, or a whole number of steps")
        if self.lora_r == 0 and (self.dora or not self.merge or self.lora_alpha is not None):
            raise ConfigError(
                "`dora`, `merge=False` and `lora_alpha` need LoRA. Set `lora_r` too, such as "
                "`lora_r=16`.",
                setting="lora_r",
            )
        if self.cycles > 1 and self.schedule != "cosine":
            raise ConfigError(
                f"`cycles` above 1 needs the cosine schedule, not {self.schedule}. Set "
                '`schedule="cosine"`, or leave `cycles` out.',
                setting="cycles",
            )
        if self.batch_tokens is not None:
            rule = f"at least `max_length`, which is {self.max_length}"
            self.require("batch_tokens", self.batch_tokens >= self.max_length, rule)
        if self.patience is not None and self.eval_samples == 0:
            raise ConfigError(
                "`patience` needs a validation loss. Set `eval_samples` above 0.",
                setting="patience",
            )
        for name in self.report_to:
            if name not in TRACKERS:
                raise ConfigError(
                    f"`report_to` must be tensorboard, trackio or wandb, not {quote(name)}.",
                    setting="report_to",
                )
        if self.resume != "off" and self.overwrite:
            raise ConfigError(
                "`resume` continues a run and `overwrite` replaces it. Set one of them.",
                setting="resume",
            )


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainConfig):
    """Settings of supervised fine-tuning."""

    command = "sft"
    model: str = setting(
        "gpt2",
        help="Model to start from: a run, a model folder, a name on the Hugging Face Hub, or "
        "starter, the small model that is bundled.",
        section="Model",
    )
    out: Path = Path("runs/sft")
    # Three passes are for the full data; on the bundled sample a second one gained nothing. Of four
    # rates tried, 1e-4 and 2e-4 had the lowest perplexity (docs/log.md, 2026-11-25).
    epochs: float = 3.0
    lr: float = 2e-4
    # On the replies only, perplexity was 0.6 lower than on all tokens (docs/log.md, 2026-11-25).
    train_on: TrainOn = setting(
        "reply",
        help="Tokens that count in the training loss: the reply's, or all. Validation counts the "
        "reply's only.",
        section="Data",
    )
    # What ORPO adds is its difference from this: most of its effect is that of its chosen replies.
    chosen: bool = setting(
        False,
        help="Train on the chosen replies of the preference pairs, as a control for ORPO.",
        section="Data",
    )


@dataclass(frozen=True, kw_only=True)
class OrpoConfig(TrainConfig):
    """Settings of preference alignment by ORPO."""

    command = "orpo"
    model: str = setting(
        "",
        help="Chat model to align: a run, a model folder or a name on the Hugging Face Hub. "
        "Defaults to the newest finished SFT run.",
        section="Model",
    )
    out: Path = Path("runs/orpo")
    epochs: float = 1.0
    lr: float = 1e-4
    # ORPO starts from a model that knows the template's tokens.
    token_lr: float = 1.0
    # λ in the paper, alpha in its code. The paper's value: up to 0.3 it changed the margin only.
    beta: float = setting(
        0.1,
        help="Weight of the odds-ratio term in the loss.",
        section="Optimization",
        aliases=("lambda",),
        ge=0,
    )
    nll_scope: NllScope = setting(
        "response",
        help="Tokens of the likelihood term: the chosen reply's, or its prompt's too, as in the "
        "code of the paper and of TRL.",
        section="Optimization",
    )

    def check_together(self) -> None:
        super().check_together()
        if self.batch_tokens is not None:
            rule = f"at least twice `max_length`, to hold a pair: {2 * self.max_length}"
            self.require("batch_tokens", self.batch_tokens >= 2 * self.max_length, rule)
