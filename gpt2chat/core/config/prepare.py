"""Settings of `gpt2chat prepare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt2chat.core.config.settings import require
from gpt2chat.core.errors import ConfigError

OFF = "off"
Rank = Literal["all", "best"]
Dedup = Literal["off", "exact", "near"]


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
