"""Define the settings of data preparation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt2chat.core.config.settings import Settings, quote, setting
from gpt2chat.core.errors import ConfigError

OFF = "off"
Rank = Literal["all", "best"]
Dedup = Literal["off", "exact", "near"]
HUB = "A name on the Hugging Face Hub (also name:split), a file, a folder, a glob, or off."


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a source's training rows that goes into the mix."""

    weight: float = 1.0
    """Factor: 0.5 takes half of the rows, 2 takes each row twice."""
    cap: int | None = None
    """Most rows to take; None for no limit."""


def parse_share(text: str) -> tuple[str, Share]:
    """Return the source and its share in `NAME=WEIGHT`, `NAME=WEIGHT:CAP` or `NAME=:CAP`.

    Raises:
        ConfigError: The text has another form, or a number is out of range.
    """
    name, equals, share = text.rpartition("=")
    weight, _, cap = share.partition(":")
    try:
        parsed = Share(float(weight or 1), int(cap) if cap else None)
    except ValueError:
        parsed = None
    if not (name and equals and share and parsed):
        raise ConfigError(
            f"`mix` takes NAME=WEIGHT, NAME=WEIGHT:CAP or NAME=:CAP, not {quote(text)}.",
            setting="mix",
        )
    if not 0 <= parsed.weight <= 1000:
        raise ConfigError(
            f"A weight of `mix` must be from 0 to 1000, not {quote(text)}.", setting="mix"
        )
    if parsed.cap is not None and parsed.cap < 0:
        raise ConfigError(f"A cap of `mix` must be at least 0, not {quote(text)}.", setting="mix")
    return name, parsed


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Settings):
    """Settings of data preparation."""

    oasst1: str = setting(
        "OpenAssistant/oasst1",
        help=f"Message rows of OASST1. {HUB}",
        section="Sources",
        metavar="SOURCE",
    )
    alpaca: str = setting(
        "tatsu-lab/alpaca",
        help="Rows with an instruction, an input and an output, from the same kinds of source.",
        section="Sources",
        metavar="SOURCE",
    )
    ultrafeedback: str = setting(
        "trl-lib/ultrafeedback_binarized",
        help="Rows with a chosen and a rejected reply, from the same kinds of source.",
        section="Sources",
        metavar="SOURCE",
    )
    chat: tuple[str, ...] = setting(
        (),
        help="Conversations of your own, in JSONL, JSON or Parquet files or on the Hub: messages, "
        "prompt and completion, ShareGPT or Alpaca records.",
        section="Sources",
        metavar="SOURCE",
    )
    preference: tuple[str, ...] = setting(
        (),
        help="Preference pairs of your own: prompt, chosen and rejected; chosen and rejected "
        "message lists; or HH transcripts.",
        section="Sources",
        metavar="SOURCE",
    )
    feedback: tuple[str, ...] = setting(
        (),
        help="File that /good, /bad and /edit in a chat write to.",
        section="Sources",
        metavar="FILE",
    )
    sample: bool = setting(
        False,
        help="Read the bundled sample instead of the three public sources; needs no network.",
        section="Sources",
    )
    only: bool = setting(
        False,
        help="Read only the sources that you give, without the three public data sets. Files alone "
        "need no network.",
        section="Sources",
    )
    shape: tuple[str, ...] = setting(
        (),
        help="Read a source, or all of `chat` and `preference`, as this shape instead of "
        "detecting it: messages, sharegpt, prompt-completion or alpaca; preference, "
        "chosen-rejected or hh.",
        section="Sources",
        metavar="[NAME=]SHAPE",
    )
    streaming: bool = setting(
        False, help="Read Hub data sets as they download, without a local copy.", section="Sources"
    )
    # GPT-2 was trained on English text, and its tokens are made for it.
    lang: str = setting(
        "en", help="Language of OASST1 to keep, or all.", section="Selection", metavar="LANGUAGE"
    )
    # Trained on all replies, the starter's perplexity was 0.9 lower than on the best-ranked ones:
    # more replies beat better replies (docs/log.md, 2026-11-25).
    oasst1_rank: Rank = setting(
        "all",
        help="Keep all replies of OASST1, or only the best-ranked reply to each message.",
        section="Selection",
    )
    oasst1_pairs: bool = setting(
        False,
        help="Also make preference pairs from OASST1's human ranks: best against worst reply.",
        section="Selection",
    )
    mix: tuple[str, ...] = setting(
        (),
        help="Share of a source's training rows to use: alpaca=0.5 uses half of them, oasst1=2 "
        "each of them twice, alpaca=:10000 at most 10,000.",
        section="Selection",
        metavar="NAME=WEIGHT[:CAP]",
    )
    # A near-duplicate in the validation split would let a model score by what it has learned by
    # heart.
    dedup: Dedup = setting(
        "near",
        help="Remove no duplicates, exact duplicates, or near-duplicates too.",
        section="Selection",
    )
    # For sources without a split of their own, such as Alpaca: sft validates on held-out rows.
    holdout: float = setting(
        0.05,
        help="Share of a source to hold out for validation if it has no validation split.",
        section="Selection",
        ge=0,
        le=1,
    )
    # GPT-2's window. A longer sample loses its oldest turns, as a chat does.
    max_length: int = setting(
        1024,
        help="Longest sample, in tokens.",
        section="Selection",
        aliases=("max_seq_length",),
        ge=64,
    )
    # Most public data sets have some broken records, so these are counted and left out by default.
    strict: bool = setting(
        False, help="Stop at the first record that cannot be used.", section="Selection"
    )
    seed: int = setting(
        0,
        help="Seed of the split and of the order of the training rows.",
        section="Selection",
        ge=0,
    )
    out: Path = setting(
        Path("data"), help="Folder to write. Earlier output in it is replaced.", section="Output"
    )
    stats: bool = setting(
        False,
        help="Show histograms of the lengths, and draw them into lengths.png.",
        section="Output",
    )
    workers: int = setting(
        0,
        help="Processes. 0 uses one per core, if there is enough to do.",
        section="Hardware",
        ge=0,
        le=256,
    )
    cluster: str = setting(
        "",
        help="Address of a Dask scheduler, such as tcp://10.0.0.1:8786, whose workers are used "
        "instead of processes here. They need gpt2chat, too.",
        section="Hardware",
        metavar="ADDRESS",
    )

    def check_together(self) -> None:
        if self.cluster and self.workers:
            raise ConfigError(
                "`cluster` has workers of its own. Leave out `workers`.", setting="cluster"
            )
        for share in self.mix:
            parse_share(share)  # raises; whether the source exists is known later
        # Replaced silently, a source that the user named would be missing without a word.
        named = (self.oasst1, self.alpaca, self.ultrafeedback)
        standard = (PrepareConfig.oasst1, PrepareConfig.alpaca, PrepareConfig.ultrafeedback)
        if self.sample and self.only:
            raise ConfigError(
                "`sample` and `only` exclude each other. Give one of them.", setting="only"
            )
        if self.sample and named != standard:
            raise ConfigError(
                "`sample` replaces `oasst1`, `alpaca` and `ultrafeedback`. Leave these out.",
                setting="sample",
            )
