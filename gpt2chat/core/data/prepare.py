"""Turn sources into a folder of shards with a manifest, whole or not at all.

    sources → jobs (chunks of records) → parts, by several processes → selection → shards

Parts stay on the disk until the shards are written, so a run that was killed resumes.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from gpt2chat import __version__
from gpt2chat.core.config.prepare import PrepareConfig, parse_share
from gpt2chat.core.data.histogram import draw_lengths
from gpt2chat.core.data.jobs import Jobs
from gpt2chat.core.data.journal import Journal, Listener
from gpt2chat.core.data.parts import SPLITS, Part
from gpt2chat.core.data.pool import ordered
from gpt2chat.core.data.selection import NEAR, NEAR_OVERLAP, OVERLAP, TRAIN, Selection
from gpt2chat.core.data.shards import (
    DROPPED,
    MANIFEST,
    PICTURE,
    TOKENS,
    VERSION,
    Input,
    Lengths,
    Manifest,
    manifest_text,
    read_pairs,
    read_samples,
)
from gpt2chat.core.data.work import finished, run
from gpt2chat.core.data.writer import (
    count_lengths,
    count_remarks,
    count_rows,
    count_tokens,
    write_dropped,
    write_shards,
)
from gpt2chat.core.errors import ConfigError, DataError, HardwareError, Interrupted
from gpt2chat.core.files import replaced_folder
from gpt2chat.core.inputs.datafiles import OWN as OWN_DATA
from gpt2chat.core.inputs.sources import Opened, find_sources, open_sources
from gpt2chat.core.text.tokens import (
    IGNORED,
    Encoded,
    decode,
    encode_conversation,
    template_fingerprint,
    tokenizer_fingerprint,
)
from gpt2chat.core.text.wording import plural

LIBRARIES = ("datasets", "ftfy", "rensa", "tiktoken")
"""Whose versions the manifest names."""
SETTINGS = ("lang", "oasst1_rank", "oasst1_pairs", "mix", "dedup", "sample")
"""Settings that the manifest records, besides seed and window."""
OWN = re.compile(
    rf"{MANIFEST}|{DROPPED}|rejected\.jsonl|{PICTURE}|(.*/)?\.DS_Store|{TOKENS}(/[^/]*)?"
    r"|(sft|preference|reference)(/(train|validation)-\d+-of-\d+\.jsonl)?"
)
"""Paths in a data folder that may be replaced: what `prepare` writes, the ids that training keeps
there, and what a file manager leaves."""


@dataclass(frozen=True, kw_only=True)
class PrepareResult:
    """What was written, and where."""

    out: Path
    manifest: Manifest
    notes: tuple[str, ...]
    """What was picked, in the order it was said."""


def prepare(settings: PrepareConfig, listener: Listener) -> PrepareResult:
    """Write the shards of all sources to `settings.out`, in place of those that stand there.

    Args:
        listener: Is told what was picked, and how many records were read.

    Raises:
        ConfigError: Every source is off, or the folder holds something that is not prepare's, or
            another run is writing it.
        DataError: A file is missing, broken or of an unknown shape; or nothing is left to train on.
        NetworkError: A Hub name cannot be had.
        StorageError: The disk is full or the folder cannot be written.
        HardwareError: Workers were killed, or memory ran out.
        Interrupted: Ctrl-C; the same call resumes.
    """
    sources = find_sources(settings)
    require_own_folder(settings.out)
    journal = Journal(strict=settings.strict, listener=listener)
    try:
        opened = list(open_sources(sources, streaming=settings.streaming))
        for source in opened:
            journal.say(source.source.name, source.note())
        inputs = [entry for source in opened for entry in source.inputs()]
        with replaced_folder(settings.out, fingerprint(settings, inputs)) as (work, folder):
            parts = _parts(Jobs(opened, settings, work, journal), settings, journal)
            selection = Selection(parts, work, journal)
            manifest = _write(selection, opened, inputs, settings, journal, folder)
            (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
            _advise(manifest, opened, settings, journal)
            # Something may have been put there while this took its minutes.
            require_own_folder(settings.out)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted; {settings.out} is as it was. Run the same again to resume."
        ) from None
    except MemoryError:
        raise HardwareError(
            "Not enough memory to prepare the data. Close other programs, use fewer `workers`, or "
            "give large data as JSON Lines, which is not read whole."
        ) from None
    return PrepareResult(out=settings.out, manifest=manifest, notes=tuple(journal.notes))


def fingerprint(settings: PrepareConfig, inputs: Sequence[Input]) -> str:
    """Return a hash of all that decides the parts; only a run that shares it takes them over."""
    values = asdict(settings)
    for name in ("out", "workers", "strict", "stats"):
        del values[name]
    known = [
        *(asdict(entry) for entry in inputs),
        *(_versions(), template_fingerprint(), tokenizer_fingerprint(), VERSION),
    ]
    return hashlib.sha256(json.dumps([values, known], default=str).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    return {"gpt2chat": __version__} | {name: version(name) for name in LIBRARIES}


def _parts(jobs: Jobs, settings: PrepareConfig, journal: Journal) -> list[Part]:
    """Have all jobs done; return their parts in order."""
    parts: list[Part] = []
    for job, part in ordered(jobs, run, finished, settings.workers):
        journal.add(part.tally, job.done)
        parts.append(part)
    journal.require_usable()
    return parts


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample as training sees it: its ids as text again."""

    id: str
    untrained: str
    trained: str
    tokens: int
    """All of them."""
    trained_tokens: int


def first_samples(result: PrepareResult, number: int) -> list[Shown]:
    """Return the first training samples; the chosen sides of pairs where there are no samples."""
    if not number:
        return []
    if result.manifest.rows("sft", "train"):
        samples = read_samples(result.out, "train")[:number]
        named = [(sample.id, sample.conversation) for sample in samples]
    else:
        pairs = [(pair.id, pair.preference) for pair in read_pairs(result.out, "train")[:number]]
        named = [(row_id, p.prompt.with_reply(p.chosen)) for row_id, p in pairs]
    return [_shown(row_id, encode_conversation(conversation)) for row_id, conversation in named]


def _shown(row_id: str, encoded: Encoded) -> Shown:
    trained = [label for label in encoded.labels if label != IGNORED]
    untrained = encoded.ids[: len(encoded) - len(trained)]
    return Shown(row_id, decode(untrained), decode(trained), len(encoded), len(trained))


def require_own_folder(folder: Path) -> None:
    """Raise ConfigError if replacing the folder would lose anything that prepare did not write."""
    if not folder.name:
        raise ConfigError(
            '`out` must name a folder that prepare may replace, such as `out="data"`, '
            f"not {folder}.",
            setting="out",
        )
    if not folder.is_dir():
        return
    paths = sorted(folder.rglob("*"))
    ours = OWN if folder / MANIFEST in paths else re.compile("")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not ours.fullmatch(name):
            raise ConfigError(
                f"{folder} contains {name}, which prepare did not write and would remove. "
                "Give another folder with `out`.",
                setting="out",
            )


def _write(
    selection: Selection,
    opened: Sequence[Opened],
    inputs: Sequence[Input],
    settings: PrepareConfig,
    journal: Journal,
    folder: Path,
) -> Manifest:
    """Write the shards of the rows that stay.

    Raises:
        DataError: Nothing is left to train on.
    """
    selection.without_duplicates(settings.dedup)
    selection.without_overlap(settings.dedup)
    shares = dict(parse_share(share) for share in settings.mix)
    orders = {key: selection.order(key, shares, settings.seed) for key in range(len(SPLITS))}
    # Data that is for evaluation alone may have no training rows; other data must have some.
    to_train = any(s.holdout < 1 for s in opened if "train" in s.splits)
    if not any(len(order.places) for key, order in orders.items() if key in TRAIN or not to_train):
        raise DataError(_nothing_left(journal))
    write_dropped(selection, folder / DROPPED)
    shards = [
        s for key, order in orders.items() for s in write_shards(selection, key, order, folder)
    ]
    counts: dict[str, dict[str, dict[str, int]]] = {}
    tokens: dict[str, dict[str, dict[str, int]]] = {}
    lengths: dict[str, dict[str, Lengths]] = {}
    for key, order in orders.items():
        kind, split = SPLITS[key]
        for source, number in count_rows(selection, order).items():
            counts.setdefault(kind, {}).setdefault(source, {})[split] = number
        tokens.setdefault(kind, {})[split] = count_tokens(selection, order)
        lengths.setdefault(kind, {})[split] = count_lengths(selection, order, settings.max_length)
        for source, remarks in count_remarks(selection, order.places).items():
            journal.noted[source].update(remarks)
    if settings.stats:
        draw_lengths(lengths, settings.max_length, folder / PICTURE)
    return Manifest(
        version=VERSION,
        window=settings.max_length,
        seed=settings.seed,
        settings={name: value for name, value in asdict(settings).items() if name in SETTINGS},
        holdout={source.source.name: source.holdout for source in opened},
        counts=counts,
        dropped=_plain(journal.dropped),
        noted=_plain(journal.noted),
        unused=_plain(journal.unused),
        tokens=tokens,
        lengths=lengths,
        shards=tuple(shards),
        inputs=tuple(inputs),
        template=template_fingerprint(),
        tokenizer=tokenizer_fingerprint(),
        versions=_versions(),
    )


def _advise(
    manifest: Manifest, opened: Sequence[Opened], settings: PrepareConfig, journal: Journal
) -> None:
    """Say what a user may not expect: rows of theirs that are gone, or a split without rows."""
    for source in opened:
        name = source.source.name
        rows = [counts.get(name, {}) for counts in manifest.counts.values()]
        if 0 < source.holdout < 1 and not any(splits.get("validation") for splits in rows):
            journal.say(
                name,
                f"{name}: no validation rows. A `holdout` of {source.holdout:.0%} came to none of "
                "so few. Raise it to have some.",
            )
        alike = sum(journal.dropped[name][reason] for reason in (NEAR, OVERLAP, NEAR_OVERLAP))
        if alike and source.source.setting in OWN_DATA:
            journal.say(
                name,
                f"{name}: {plural(alike, 'row')} left out for being like another. "
                f'{settings.out / DROPPED} lists them. Keep them with `dedup="off"`, and those '
                "that are like validation rows with `holdout=0`.",
            )
    if not any(manifest.rows(kind, "train") for kind in ("sft", "preference")):
        journal.say("", f"{settings.out} has no training rows: it is for evaluation only.")


def _nothing_left(journal: Journal) -> str:
    reasons: Counter[str] = Counter()
    for counts in journal.dropped.values():
        reasons.update(counts)
    listed = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common(4))
    why = f" Dropped: {listed}." if listed else ""
    return f"No training rows are left.{why} Give more data, for example with `chat=FILE`."


def _plain(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {source: dict(counter.most_common()) for source, counter in counts.items() if counter}
