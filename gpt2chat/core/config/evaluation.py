"""Settings of `gpt2chat eval`."""

from dataclasses import dataclass
from pathlib import Path

from gpt2chat.core.config.settings import Device, Precision, require


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
