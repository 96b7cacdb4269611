"""One frozen dataclass per subcommand: each setting with its default and its meaning."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpt2chat.core.errors import ConfigError

OFF = "off"
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "fp32"]
ChatPrecision = Literal["auto", "int8", "bf16", "fp32"]
NllScope = Literal["response", "full"]
TrainOn = Literal["reply", "all"]
Compile = Literal["auto", "on", "off"]
Schedule = Literal["cosine", "linear", "constant", "inverse-sqrt"]
TRACKERS = ("tensorboard", "trackio", "wandb")
Resume = Literal["off", "auto", "on"]
Rank = Literal["all", "best"]
Dedup = Literal["off", "exact", "near"]


def require(condition: bool, rule: str, value: object) -> None:
    """Raise ConfigError with the rule and the value that breaks it."""
    if not condition:
        raise ConfigError(f"{rule}, not {value}.")


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a source's training rows a mix has."""

    weight: float = 1.0
    """0.5 takes half of them, 2 each of them twice."""
    cap: int | None = None
    """At most so many."""


def parse_share(text: str) -> tuple[str, Share]:
    """Return the source and its share in `NAME=WEIGHT`, `NAME=WEIGHT:CAP` or `NAME=:CAP`.

    Raises:
        ConfigError: It has another form, or a number is below 0 or too large.
    """
    name, equals, share = text.rpartition("=")
    weight, _, cap = share.partition(":")
    try:
        parsed = Share(float(weight or 1), int(cap) if cap else None)
    except ValueError:
        parsed = None
    if not (name and equals and share and parsed):
        raise ConfigError(f"--mix takes NAME=WEIGHT, NAME=WEIGHT:CAP or NAME=:CAP, not {text}.")
    require(0 <= parsed.weight <= 1000, "A weight of --mix must be from 0 to 1000", text)
    require(parsed.cap is None or parsed.cap >= 0, "A cap of --mix must be at least 0", text)
    return name, parsed


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Settings of `gpt2chat prepare`."""

    oasst1: str = "OpenAssistant/oasst1"
    """OASST1 message rows: a Hub name, a file, a folder, a glob, or `off`."""
    alpaca: str = "tatsu-lab/alpaca"
    """Instruction, input and output rows: likewise."""
    ultrafeedback: str = "trl-lib/ultrafeedback_binarized"
    """Preference rows, chosen and rejected: likewise."""
    chat: tuple[str, ...] = ()
    """Conversations of one's own: files, folders, globs or Hub names."""
    preference: tuple[str, ...] = ()
    """Preference pairs of one's own: likewise."""
    feedback: tuple[str, ...] = ()
    """Files that `chat` wrote opinions on replies to."""
    sample: bool = False
    """Read the bundled sample instead of the three sources above."""
    out: Path = Path("data")
    """Folder to write."""
    lang: str = "en"
    """Language of OASST1's messages to keep, or `all`."""
    oasst1_rank: Rank = "all"
    """Keep every reply of OASST1, or the best-ranked of each set of siblings only."""
    oasst1_pairs: bool = False
    """Make preference pairs of OASST1's ranks too: the best against the worst of siblings."""
    shape: tuple[str, ...] = ()
    """Shapes that are not to be detected: `NAME=SHAPE`, or `SHAPE` for all own files."""
    mix: tuple[str, ...] = ()
    """Shares of sources in training: `NAME=WEIGHT`, `NAME=WEIGHT:CAP` or `NAME=:CAP`."""
    dedup: Dedup = "near"
    """Leave out duplicates: none, exact ones, or near-duplicates too."""
    streaming: bool = False
    """Read Hub data sets as they arrive, without a copy on the disk."""
    workers: int = 0
    """Processes; 0 for as many as there are cores."""
    holdout: float = 0.05
    """Share of a source that is held out for validation where it has no validation split."""
    max_length: int = 1024
    """Longest sample, in tokens."""
    stats: bool = False
    """Draw histograms of the lengths into the folder."""
    strict: bool = False
    """Stop at the first record that cannot be used."""
    seed: int = 0
    """Decides which groups are held out, and the order of the training rows."""

    def __post_init__(self) -> None:
        require(0 <= self.holdout < 1, "--holdout must be at least 0 and below 1", self.holdout)
        require(self.max_length >= 64, "--max-length must be at least 64", self.max_length)
        require(0 <= self.workers <= 256, "--workers must be from 0 to 256", self.workers)
        for share in self.mix:
            parse_share(share)
        named = (self.oasst1, self.alpaca, self.ultrafeedback)
        standard = (PrepareConfig.oasst1, PrepareConfig.alpaca, PrepareConfig.ultrafeedback)
        if self.sample and named != standard:
            raise ConfigError(
                "--sample stands in for --oasst1, --alpaca and --ultrafeedback: leave these out."
            )


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


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Settings of `gpt2chat eval`."""

    model: str = ""
    """Empty: the newest finished run."""
    against: tuple[str, ...] = ()
    """Other models, measured on the same samples."""
    data: Path = Path("data")
    """Folder that `prepare` wrote."""
    out: Path | None = None
    """File to write; `eval.json` in the model's folder where it is not given."""
    ppl: bool = True
    """Measure perplexity."""
    speed: bool = True
    """Measure tokens per second."""
    preferences: bool = True
    """Measure preference accuracy on the held-out pairs."""
    generations: int = 16
    """Generate replies to this many held-out prompts; 0 for none."""
    limit: int | None = None
    """Score at most this many replies, reference conversations and pairs; the same for all."""
    device: Device = "auto"
    """Where to run."""
    precision: Precision = "fp32"
    """float32 gives the same figures on any machine. bf16 is twice as fast on a CPU that has it,
    and raised perplexity by 0.1 % there."""
    seed: int = 0
    """Of the bootstrap, of the choice that `limit` makes, of generated replies and of the token
    rows that a base model lacks."""

    def __post_init__(self) -> None:
        require(self.generations >= 0, "--generations must be at least 0", self.generations)
        if self.limit is not None:
            require(self.limit >= 1, "--limit must be at least 1", self.limit)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults are those of the reference project's chat."""

    temperature: float = 0.72
    """0 takes the likeliest token."""
    top_k: int = 36
    """Only so many of the likeliest tokens; 0 for no limit."""
    top_p: float = 0.96
    """Only the likeliest tokens that reach this probability together."""
    min_p: float = 0.0
    """Only tokens at least so likely, as a share of the likeliest; 0 for no limit."""
    repetition_penalty: float = 1.1
    """Divides the score of a token that stands in the reply already; 1 for none."""
    no_repeat_ngram: int = 0
    """No so many tokens stand twice in a reply; 0 for no limit."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply; they are not part of it."""
    max_new_tokens: int = 256
    """Longest reply."""
    seed: int | None = None
    """Same seed, same reply; none draws one."""

    def __post_init__(self) -> None:
        rule = "--temperature must be from 0 to 100"
        require(0 <= self.temperature <= 100, rule, self.temperature)
        require(self.top_k >= 0, "--top-k must be at least 0", self.top_k)
        require(0 < self.top_p <= 1, "--top-p must be above 0 and at most 1", self.top_p)
        require(0 <= self.min_p < 1, "--min-p must be at least 0 and below 1", self.min_p)
        rule = "--no-repeat-ngram must be 0, or from 2 to 64"
        require(
            self.no_repeat_ngram == 0 or 2 <= self.no_repeat_ngram <= 64, rule, self.no_repeat_ngram
        )
        require(all(self.stop), "--stop must be some text", "an empty one")
        rule = "--repetition-penalty must be above 0 and at most 10"
        require(0 < self.repetition_penalty <= 10, rule, self.repetition_penalty)
        rule = "--max-new-tokens must be from 1 to 960"
        require(1 <= self.max_new_tokens <= 960, rule, self.max_new_tokens)
        if self.seed is not None:
            require(0 <= self.seed < 2**63, "--seed must be at least 0 and below 2^63", self.seed)

    def with_setting(self, name: str, text: str) -> "Sampling":
        """Return this with one setting changed to the value that `text` spells.

        Raises:
            ConfigError: There is no such setting, or the value is not one of its own.
        """
        name = name.lstrip("-").replace("-", "_")
        names = [entry.name for entry in dataclasses.fields(self)]
        if name not in names:
            raise ConfigError(f"There is no setting {name}. There are {', '.join(names)}.")
        if name == "stop":
            return dataclasses.replace(self, stop=() if text == "none" else (text,))
        if name == "seed" and text == "none":
            return dataclasses.replace(self, seed=None)
        whole = ("top_k", "no_repeat_ngram", "max_new_tokens", "seed")
        kind = int if name in whole else float
        try:
            value = kind(text)
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{name} must be {number}, not {text}.") from None
        return dataclasses.replace(self, **{name: value})


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Settings of `gpt2chat chat`."""

    model: tuple[str, ...] = ()
    """The first answers, the others are there to compare. None: the newest finished run."""
    system: str | None = None
    """System prompt; the template's own where it is not given."""
    prompt: str | None = None
    """Answer this once and leave."""
    sampling: Sampling = field(default_factory=Sampling)
    feedback: Path = Path("feedback.jsonl")
    """File that opinions on replies are written to."""
    resume_last: bool = False
    """Go on with the latest chat that was kept."""
    history: bool = True
    """Keep typed lines and chats."""
    markdown: bool = True
    """Show a reply that holds Markdown in its looks, on a terminal."""
    device: Device = "auto"
    """Where to run."""
    precision: ChatPrecision = "auto"
    """Weights as the model reads them: int8 on a CPU and bf16 on a GPU where it is `auto`."""


def to_toml(settings: Any) -> str:
    """Return a flat config as TOML that `--config` reads back. None has no line."""
    lines: list[str] = []
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if value is not None:
            plain = str(value) if isinstance(value, Path) else value
            # JSON's strings, numbers, booleans and arrays are TOML as they stand.
            lines.append(f"{entry.name} = {json.dumps(plain)}")
    return "\n".join(lines) + "\n"
