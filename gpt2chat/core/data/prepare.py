"""Turn sources into a data folder, which is written completely or not at all.

    sources → chunks of records → parts, by any executor → selection → shards

Parts stay on disk until the shards are written, so an interrupted run resumes.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gpt2chat import __version__
from gpt2chat.core.config.prepare import PrepareConfig, parse_share
from gpt2chat.core.data.chunks import Report, all_chunks, convert
from gpt2chat.core.data.counts import Counts
from gpt2chat.core.data.executors import in_order
from gpt2chat.core.data.histogram import draw_lengths
from gpt2chat.core.data.rows import REMARKS
from gpt2chat.core.data.selection import NEAR, NEAR_OVERLAP, OVERLAP, TRAIN, Selection
from gpt2chat.core.data.shards import (
    DROPPED,
    LENGTH_BINS,
    MANIFEST,
    PICTURE,
    TOKENS,
    VERSION,
    Input,
    Lengths,
    Manifest,
    Shard,
    manifest_text,
)
from gpt2chat.core.data.store import SPLITS, Store
from gpt2chat.core.data.writer import write_dropped, write_shards
from gpt2chat.core.display import html_table, text_table
from gpt2chat.core.errors import ConfigError, DataError, HardwareError, Interrupted
from gpt2chat.core.files import replaced_folder
from gpt2chat.core.inputs.datafiles import OWN_SETTINGS
from gpt2chat.core.inputs.sources import Opened, find_sources, open_sources
from gpt2chat.core.text.tokens import (
    template_fingerprint,
    tokenizer_fingerprint,
)
from gpt2chat.core.text.wording import plural

LIBRARIES = ("datasets", "ftfy", "rensa", "tiktoken")
"""Libraries whose versions the manifest records."""
RECORDED_SETTINGS = ("lang", "oasst1_rank", "oasst1_pairs", "mix", "dedup", "sample")
"""Settings that the manifest records, apart from seed and window."""
OWN_PATHS = re.compile(
    rf"{MANIFEST}|{DROPPED}|rejected\.jsonl|{PICTURE}|(.*/)?\.DS_Store|\.?{TOKENS}|\.tokens/[^/]*"
    rf"|({TOKENS}/)?(sft|preference|reference)"
    rf"(/(train|validation)-\d+-of-\d+\.(jsonl|safetensors))?"
)
"""Paths in a data folder that `prepare` may replace: its own files, those of earlier versions, and
those of a file manager."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of `prepare`, or a note about it."""

    source: str
    records: int
    """Records of this source that have been read."""
    advance: int = 0
    """Records read since the last call."""
    note: str = ""
    """One line for the user; empty if only the numbers changed."""
    done: float = -1.0
    """Share of all input that has been read; negative if unknown."""


Listener = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class PrepareResult:
    """The folder that was written, its manifest, and the notes."""

    out: Path
    manifest: Manifest
    notes: tuple[str, ...]
    """Notes for the user, in the order in which they were reported."""

    def __str__(self) -> str:
        return text_table(self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def _rows(self) -> Generator[tuple[str, ...]]:
        splits = list(dict.fromkeys(split for _, split in SPLITS))
        yield str(self.out), *splits
        for kind, sources in self.manifest.counts.items():
            for source, counts in sources.items():
                cells = (f"{counts.get(split, 0):,}" for split in splits)
                yield f"{kind}: {source}", *cells


def prepare(settings: PrepareConfig, on_progress: Listener | None = None) -> PrepareResult:
    """Write the shards of all sources to `settings.out`, in place of earlier ones.

    Args:
        on_progress: Called with notes and with the number of records that were read.

    Raises:
        ConfigError: Every source is off, the folder contains files that `prepare` did not write,
            or another run is writing it.
        DataError: A file is missing, broken or of an unknown shape, or no row is left to train on.
        NetworkError: A name on the Hub cannot be loaded.
        StorageError: The disk is full or the folder cannot be written.
        HardwareError: Workers were killed, or memory ran out.
        Interrupted: Ctrl-C; the same call resumes.
    """
    sources = find_sources(settings)
    require_own_folder(settings.out)
    counts, notes = Counts(), list[str]()

    def report(source: str, note: str = "", done: float = -1.0, advance: int = 0) -> None:
        if note:
            notes.append(note)
        if on_progress is not None:
            records = counts.records[source].total()
            on_progress(Progress(source, records, advance, note, done))

    try:
        opened = list(open_sources(sources, streaming=settings.streaming))
        for source in opened:
            report(source.source.name, source.note())
        inputs = [entry for source in opened for entry in source.inputs()]
        with replaced_folder(settings.out, fingerprint(settings, inputs)) as (work, folder):
            store = Store(work)
            # The chunks come in the same order each time, so those of an earlier run are skipped by
            # their number. A copy, because `add` appends to the list.
            finished = list(store.parts)
            chunks = islice(all_chunks(opened, settings, report), len(finished), None)
            results = in_order(convert, chunks, settings.workers, settings.cluster)
            # If an error is raised below, the workers end at once, not with the garbage.
            with closing(results) as parts:
                for part in chain(finished, parts):
                    if part.contents:
                        store.add(part)
                    if settings.strict and part.counts.first_bad:
                        bad = next(iter(part.counts.first_bad.values()))
                        raise DataError(
                            f"{bad}. Fix it, or leave out `strict` to continue without it."
                        )
                    counts.add(part.counts)
                    read = part.counts.records[part.source].total()
                    report(part.source, done=part.done, advance=read)
            for source, files in counts.records.items():
                for file, number in files.items():
                    if number == counts.bad[source][file]:
                        which = "its one record cannot"
                        which = f"none of its {number:,} records can" if number > 1 else which
                        raise DataError(f"{file}: {which} be used. {counts.first_bad[file]}.")
            manifest = _write(store, opened, inputs, settings, counts, folder)
            (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
            _advise(manifest, opened, settings, report)
            # Check again: other files may have been put there in the meantime.
            require_own_folder(settings.out)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted. {settings.out} is unchanged. Run the same again to resume."
        ) from None
    except MemoryError:
        raise HardwareError(
            "Not enough memory to prepare the data. Close other programs, use fewer `workers`, or "
            "give large data as JSON Lines, which is read in chunks."
        ) from None
    return PrepareResult(out=settings.out, manifest=manifest, notes=tuple(notes))


def fingerprint(settings: PrepareConfig, inputs: Sequence[Input]) -> str:
    """Return a hash of everything that affects the parts; a run with the same one reuses them."""
    values = asdict(settings)
    # A run that failed under `strict`, or for want of memory, resumes with these changed.
    for name in ("out", "workers", "cluster", "strict", "stats"):
        del values[name]
    known = [
        *(asdict(entry) for entry in inputs),
        *(_versions(), template_fingerprint(), tokenizer_fingerprint(), VERSION),
    ]
    return hashlib.sha256(json.dumps([values, known], default=str).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    return {"gpt2chat": __version__} | {name: version(name) for name in LIBRARIES}


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
    # Sorted, so that the error names the same file each time.
    paths = sorted(folder.rglob("*"))
    ours = OWN_PATHS if folder / MANIFEST in paths else re.compile("")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not ours.fullmatch(name):
            raise ConfigError(
                f"{folder} contains {name}, which prepare did not write and would remove. "
                "Give another folder with `out`.",
                setting="out",
            )


def _write(
    store: Store,
    opened: Sequence[Opened],
    inputs: Sequence[Input],
    settings: PrepareConfig,
    counts: Counts,
    folder: Path,
) -> Manifest:
    """Write the shards of the selected rows, and return their manifest.

    Raises:
        DataError: No row is left to train on.
    """
    selection = Selection(store, counts)
    selection.remove_duplicates(settings.dedup)
    shares = dict(parse_share(share) for share in settings.mix)
    # Before the check, because this also counts what the mix leaves out, which the error names.
    orders = {key: selection.order(key, shares, settings.seed) for key in range(len(SPLITS))}
    # Data for evaluation only may have no training rows; other data must have some.
    is_for_training = any(s.holdout < 1 for s in opened if "train" in s.splits)
    if not any(
        len(order.places) for key, order in orders.items() if key in TRAIN or not is_for_training
    ):
        reasons = sum(counts.dropped.values(), Counter[str]())
        most = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common(4))
        dropped = f" Dropped: {most}." if most else ""
        raise DataError(
            f"No training rows are left.{dropped} Give more data, for example with `chat=FILE`."
        )
    write_dropped(selection, folder / DROPPED)
    shards: list[Shard] = []
    rows: dict[str, dict[str, dict[str, int]]] = {}
    tokens: dict[str, dict[str, dict[str, int]]] = {}
    lengths: dict[str, dict[str, Lengths]] = {}
    for key, order in orders.items():
        kind, split = SPLITS[key]
        shards += write_shards(selection, key, order, folder)
        index = selection.index[order.places]
        tokens.setdefault(kind, {})[split] = {
            "prompt": int(index["prompt"].sum(dtype=np.int64)),
            "trained": int((index["first"] + index["second"]).sum(dtype=np.int64)),
        }
        bars = lengths.setdefault(kind, {}).setdefault(split, {})
        for source, places in selection.sources(order.places):
            own = selection.index[places]
            rows.setdefault(kind, {}).setdefault(source, {})[split] = len(own)
            replies = np.maximum(own["first"], own["second"])
            bars[source] = {
                name: _histogram(numbers, settings.max_length)
                for name, numbers in (("prompt", own["prompt"]), ("reply", replies))
            }
            for bit, remark in enumerate(REMARKS):
                counts.noted[source][remark] += int((own["remarks"] >> bit & 1).sum())
    if settings.stats:
        draw_lengths(lengths, settings.max_length, folder / PICTURE)
    return Manifest(
        version=VERSION,
        window=settings.max_length,
        seed=settings.seed,
        settings={
            name: value for name, value in asdict(settings).items() if name in RECORDED_SETTINGS
        },
        holdout={source.source.name: source.holdout for source in opened},
        counts=rows,
        dropped=_plain(counts.dropped),
        noted=_plain(counts.noted),
        unused=_plain(counts.unused),
        tokens=tokens,
        lengths=lengths,
        shards=tuple(shards),
        inputs=tuple(inputs),
        template=template_fingerprint(),
        tokenizer=tokenizer_fingerprint(),
        versions=_versions(),
    )


def _histogram(numbers: Any, window: int) -> list[int]:
    """Return how many of the numbers are in each sixteenth of the window."""
    # Minus one, so that a text as long as a bin is wide is in it, and not in the next one.
    bins = (numbers.astype(np.int64) - 1).clip(0) * LENGTH_BINS // window
    return np.bincount(bins.clip(max=LENGTH_BINS - 1), minlength=LENGTH_BINS).tolist()


def _plain(counts: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    plain = {source: dict((+counter).most_common()) for source, counter in counts.items()}
    return {source: numbers for source, numbers in plain.items() if numbers}


def _advise(
    manifest: Manifest, opened: Sequence[Opened], settings: PrepareConfig, report: Report
) -> None:
    """Report what a user may not expect: removed rows of their own, or a split without rows."""
    for source in opened:
        name = source.source.name
        rows = [counts.get(name, {}) for counts in manifest.counts.values()]
        if 0 < source.holdout < 1 and not any(splits.get("validation") for splits in rows):
            report(
                name,
                f"{name}: no validation rows. A `holdout` of {source.holdout:.0%} of so few rows "
                "is none. Raise it to get some.",
            )
        dropped = manifest.dropped.get(name, {})
        similar = sum(dropped.get(reason, 0) for reason in (NEAR, OVERLAP, NEAR_OVERLAP))
        if similar and source.source.setting in OWN_SETTINGS:
            report(
                name,
                f"{name}: {plural(similar, 'row')} removed for similarity to another. "
                f'{settings.out / DROPPED} lists them. Keep them with `dedup="off"`, and those '
                "similar to validation rows with `holdout=0`.",
            )
    if not any(manifest.rows(kind, "train") for kind in ("sft", "preference")):
        report("", f"{settings.out} has no training rows: it is for evaluation only.")
