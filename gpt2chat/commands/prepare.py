"""`gpt2chat prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from gpt2chat import options
from gpt2chat.core.config.prepare import Dedup, PrepareConfig, Rank

HUB = "A Hub name (also name:split), a file, a folder, a glob, or `off`"
Oasst1 = Annotated[str, typer.Option("--oasst1", help=f"OASST1's message rows. {HUB}.")]
Alpaca = Annotated[str, typer.Option("--alpaca", help=f"Instruction, input and output. {HUB}.")]
Ultrafeedback = Annotated[
    str, typer.Option("--ultrafeedback", help=f"Chosen and rejected replies. {HUB}.")
]
Chat = Annotated[
    list[str] | None,
    typer.Option(
        "--chat",
        metavar="SOURCE",
        help="Conversations of your own (may be given again), in files or by Hub name: messages, "
        "prompt/completion, ShareGPT or Alpaca records in JSONL, JSON or Parquet.",
    ),
]
Preferences = Annotated[
    list[str] | None,
    typer.Option(
        "--preference",
        metavar="SOURCE",
        help="Preference pairs of your own (may be given again), likewise: prompt, chosen and "
        "rejected; chosen and rejected message lists; or HH transcripts.",
    ),
]
Feedback = Annotated[
    list[str] | None,
    typer.Option(
        "--feedback",
        metavar="FILE",
        help="What /good, /bad and /edit wrote in a chat (may be given again).",
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="[NAME=]SHAPE",
        help="Take this shape for a source, or for all of --chat and --preference, instead of "
        "detecting it: messages, sharegpt, prompt-completion, alpaca; preference, chosen-rejected, "
        "hh.",
    ),
]
Mix = Annotated[
    list[str] | None,
    typer.Option(
        "--mix",
        metavar="NAME=WEIGHT[:CAP]",
        help="Take a share of a source's training rows (may be given again): alpaca=0.5 half of "
        "them, oasst1=2 each twice, alpaca=:10000 at most 10,000.",
    ),
]
Sample = Annotated[
    bool, typer.Option("--sample", help="Read the bundled sample: no network is needed.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; what stands there is replaced.")]
Language = Annotated[str, typer.Option("--lang", help="Language of OASST1 to keep, or `all`.")]
RankChoice = Annotated[
    Rank, typer.Option("--oasst1-rank", help="Train on all replies of OASST1, or the best-ranked.")
]
Pairs = Annotated[
    bool,
    typer.Option(
        "--oasst1-pairs",
        help="Make preference pairs of OASST1's human ranks too: best against worst reply.",
    ),
]
DedupChoice = Annotated[
    Dedup,
    typer.Option(
        "--dedup", help="Leave out no duplicates, exact ones only, or near-duplicates too."
    ),
]
Streaming = Annotated[
    bool, typer.Option("--streaming", help="Read from the Hub as it arrives, without a copy.")
]
Workers = Annotated[
    int, typer.Option("--workers", help="Processes; 0 for one a core, if there is enough to do.")
]
Stats = Annotated[
    bool, typer.Option("--stats", help="Show histograms, and draw them into lengths.png.")
]
Holdout = Annotated[
    float,
    typer.Option("--holdout", help="Share to hold out of a source that has no validation split."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unusable record.")]
Show = Annotated[
    int, typer.Option("--show", min=0, help="Print so many samples, trained tokens in colour.")
]


def prepare(
    oasst1: Oasst1 = PrepareConfig.oasst1,
    alpaca: Alpaca = PrepareConfig.alpaca,
    ultrafeedback: Ultrafeedback = PrepareConfig.ultrafeedback,
    chat: Chat = None,
    preference: Preferences = None,
    feedback: Feedback = None,
    shape: Shape = None,
    mix: Mix = None,
    sample: Sample = PrepareConfig.sample,
    out: Out = PrepareConfig.out,
    lang: Language = PrepareConfig.lang,
    oasst1_rank: RankChoice = PrepareConfig.oasst1_rank,
    oasst1_pairs: Pairs = PrepareConfig.oasst1_pairs,
    dedup: DedupChoice = PrepareConfig.dedup,
    holdout: Holdout = PrepareConfig.holdout,
    max_length: options.MaxLength = PrepareConfig.max_length,
    strict: Strict = PrepareConfig.strict,
    streaming: Streaming = PrepareConfig.streaming,
    workers: Workers = PrepareConfig.workers,
    stats: Stats = PrepareConfig.stats,
    seed: options.Seed = PrepareConfig.seed,
    show: Show = 0,
    json: options.Json = False,
    config: options.ConfigFile = None,
) -> None:
    """Turn conversations and preferences into templated training shards.

    Reads OASST1, Alpaca and UltraFeedback from the Hugging Face Hub unless told otherwise.
    """
    settings = PrepareConfig(
        oasst1=oasst1,
        alpaca=alpaca,
        ultrafeedback=ultrafeedback,
        chat=tuple(chat or ()),
        preference=tuple(preference or ()),
        feedback=tuple(feedback or ()),
        shape=tuple(shape or ()),
        mix=tuple(mix or ()),
        sample=sample,
        out=out,
        lang=lang,
        oasst1_rank=oasst1_rank,
        oasst1_pairs=oasst1_pairs,
        dedup=dedup,
        holdout=holdout,
        max_length=max_length,
        strict=strict,
        streaming=streaming,
        workers=workers,
        stats=stats,
        seed=seed,
    )
    from gpt2chat.report import prepare_progress, show_prepare, show_samples, show_stats

    with prepare_progress() as listener:
        # From here on the tokenizer is loaded: the settings are sound, so the wait is worth it.
        from gpt2chat.core.data.prepare import first_samples
        from gpt2chat.core.data.prepare import prepare as write_shards
        from gpt2chat.core.data.shards import PICTURE

        result = write_shards(settings, listener)
    if stats and not json:
        show_stats(result.manifest.lengths, result.manifest.window, out / PICTURE)
    show_prepare(result, json=json)
    show_samples(first_samples(result, show), json=json)
