"""`prepare`: sources to a folder of shards with a manifest, whole or not at all."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar, cast

from gpt2chat import __version__
from gpt2chat.core.config import PrepareConfig
from gpt2chat.core.errors import ConfigError, DataError
from gpt2chat.core.files import replaced_folder
from gpt2chat.core.journal import Journal, Listener
from gpt2chat.core.records import Split
from gpt2chat.core.rows import Row, pair_rows, sample_rows
from gpt2chat.core.samples import Item, read_items
from gpt2chat.core.shards import (
    MANIFEST,
    REJECTED,
    VERSION,
    Input,
    Kind,
    Manifest,
    Pair,
    Sample,
    manifest_text,
    read_pairs,
    read_samples,
)
from gpt2chat.core.sources import Source, find_sources, open_sources
from gpt2chat.core.tokens import (
    IGNORED,
    Encoded,
    decode,
    encode_conversation,
    template_fingerprint,
    tokenizer_fingerprint,
)
from gpt2chat.core.writer import DUPLICATE, OVERLAP, Spool

BATCH = 512
"""Samples that are encoded together."""
TOO_LONG = "longer than the window"
SHORTENED = "early turns dropped"
TYPED = "control token names typed as text"

LIBRARIES = ("tokenizers", "datasets")
"""Whose versions the manifest names."""

V = TypeVar("V")
SPLITS: tuple[tuple[Kind, Split], ...] = (
    ("sft", "train"),
    ("sft", "validation"),
    ("preference", "train"),
    ("preference", "validation"),
    ("reference", "validation"),
)
OWN = {MANIFEST, REJECTED, ".DS_Store", *(kind for kind, _ in SPLITS)}
"""What may stand in a data folder: what `prepare` writes, and what a file manager leaves there."""

Spools = dict[tuple[Kind, Split], Spool]


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
        ConfigError: Every source is off, or the folder holds something that is not prepare's.
        DataError: A file is missing, broken or of an unknown shape; or nothing is left to train on.
        NetworkError: A Hub name cannot be had.
        StorageError: The disk is full or the folder cannot be written.
    """
    sources = find_sources(settings)
    require_own_folder(settings.out)
    with replaced_folder(settings.out) as folder, ExitStack() as stack:
        rejected = stack.enter_context((folder / REJECTED).open("w", encoding="utf-8"))
        journal = Journal(rejected, strict=settings.strict, listener=listener)
        spools = {key: stack.enter_context(closing(Spool(folder, *key))) for key in SPLITS}
        inputs = list(_fill(spools, sources, settings, journal))
        manifest = _write(spools, inputs, settings, journal, folder)
        (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    return PrepareResult(out=settings.out, manifest=manifest, notes=tuple(journal.notes))


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
    """Raise ConfigError where replacing the folder would lose what prepare did not write."""
    if not folder.name:
        raise ConfigError(f"--out {folder} is no folder of its own. Give one, such as --out data.")
    if not folder.is_dir():
        return
    found = {path.name for path in folder.iterdir()}
    foreign = found - OWN if MANIFEST in found else found
    if foreign:
        raise ConfigError(
            f"{folder} holds files that prepare did not write, such as {min(foreign)}. "
            "Give another folder with --out."
        )


def _fill(
    spools: Spools, sources: Sequence[Source], settings: PrepareConfig, journal: Journal
) -> Iterator[Input]:
    """Put the rows of all sources in the spools; yield what was read."""
    for opened in open_sources(sources):
        journal.say(opened.source.name, opened.note())
        yield from opened.inputs()
        for batch in _batches(read_items(opened, settings, journal)):
            _add(spools, batch, settings.max_length, journal)


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    while batch := list(islice(items, BATCH)):
        yield batch


def _add(spools: Spools, batch: Sequence[Item], window: int, journal: Journal) -> None:
    for key, items in groupby(sorted(batch, key=lambda item: item[:2]), lambda item: item[:2]):
        contents = [item.content for item in items]
        for content, row in zip(contents, _rows(key[0], contents, window), strict=True):
            if row is None:
                journal.drop(content.source, TOO_LONG)
            elif spools[key].add(row):
                journal.noted[content.source].update(_remarks(row))
            else:
                journal.drop(content.source, DUPLICATE)


def _rows(kind: Kind, contents: Iterable[Sample | Pair], window: int) -> list[Row | None]:
    match kind:
        case "sft":
            return sample_rows(cast(list[Sample], contents), window)
        case "reference":
            return sample_rows(cast(list[Sample], contents), None)
        case "preference":
            return pair_rows(cast(list[Pair], contents), window)


def _remarks(row: Row) -> list[str]:
    remarks = {SHORTENED: row.shortened, TYPED: row.typed_control}
    return [remark for remark, holds in remarks.items() if holds]


def _write(
    spools: Spools, inputs: list[Input], settings: PrepareConfig, journal: Journal, folder: Path
) -> Manifest:
    _drop_overlap(spools, journal)
    shards = [shard for spool in spools.values() for shard in spool.write(folder, settings.seed)]
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (kind, split), spool in spools.items():
        for source, number in spool.counts().items():
            counts.setdefault(kind, {}).setdefault(source, {})[split] = number
    names = ("lang", "oasst1_rank", "holdout", "sample")
    return Manifest(
        version=VERSION,
        window=settings.max_length,
        seed=settings.seed,
        settings={name: value for name, value in asdict(settings).items() if name in names},
        counts=counts,
        dropped=_plain(journal.dropped),
        noted=_plain(journal.noted),
        tokens=_by_kind({key: spool.tokens() for key, spool in spools.items()}),
        lengths=_by_kind({k: spool.lengths(settings.max_length) for k, spool in spools.items()}),
        shards=tuple(shards),
        inputs=tuple(inputs),
        template=template_fingerprint(),
        tokenizer=tokenizer_fingerprint(),
        versions={"gpt2chat": __version__} | {name: version(name) for name in LIBRARIES},
    )


def _drop_overlap(spools: Spools, journal: Journal) -> None:
    """Take out of training what is measured on.

    Raises:
        DataError: Nothing is left to train on.
    """
    kinds: tuple[Kind, ...] = ("sft", "preference")
    for kind in kinds:
        overlap = spools[kind, "train"].without(spools[kind, "validation"])
        for source, number in overlap.items():
            journal.drop(source, OVERLAP, number)
    if not any(spools[kind, "train"].entries for kind in kinds):
        raise DataError(_nothing_left(journal))


def _nothing_left(journal: Journal) -> str:
    reasons: Counter[str] = Counter()
    for counts in journal.dropped.values():
        reasons.update(counts)
    listed = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common(4))
    why = f" Dropped: {listed}." if listed else ""
    return f"No training rows are left.{why} Give more data, for example with --chat FILE."


def _plain(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {source: dict(counter.most_common()) for source, counter in counts.items() if counter}


def _by_kind(values: dict[tuple[Kind, Split], V]) -> dict[str, dict[str, V]]:
    nested: dict[str, dict[str, V]] = {}
    for (kind, split), value in values.items():
        nested.setdefault(kind, {})[split] = value
    return nested
