"""Which rows of all parts stay: duplicates out, what is measured on out of training, the mix."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2chat.core.config.prepare import Dedup, Share
from gpt2chat.core.data.journal import Journal
from gpt2chat.core.data.near import PERMUTATIONS, earlier_near, near_any
from gpt2chat.core.data.parts import INDEX, SPLITS, Part, Signatures

DUPLICATE = "duplicate"
NEAR = "near-duplicate"
OVERLAP = "also in validation"
NEAR_OVERLAP = "nearly also in validation"
MIXED = "left out by --mix"

Places = npt.NDArray[np.intp]
"""Rows by their number in all parts, in the order of the sources."""
Hashes = npt.NDArray[np.uint64]

TRAIN = tuple(code for code, (_, split) in enumerate(SPLITS) if split == "train")
HELD = tuple(code for code, (_, split) in enumerate(SPLITS) if split == "validation")


class Lost(NamedTuple):
    """Rows that were left out, and why."""

    places: Places
    reason: str


class Selection:
    """The rows of all parts, fewer with each step; takes some 20 bytes of memory a row."""

    def __init__(self, parts: Sequence[Part], folder: Path, journal: Journal):
        self.parts = parts
        self.lost: list[Lost] = []
        self.starts = np.cumsum([0, *(part.rows for part in parts)])
        self.keys = self.column("key")
        self.kept = np.ones(len(self.keys), bool)
        self._folder = folder
        self._journal = journal

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one field of the index of all rows."""
        columns = [part.index()[name] for part in self.parts]
        return np.concatenate(columns) if columns else np.zeros(0, INDEX)[name]

    def sources(self, places: Places) -> Iterator[tuple[str, Places]]:
        """Yield the rows of each source, by name, in the order of the sources."""
        part_of = np.searchsorted(self.starts, places, side="right") - 1
        names = [part.tally.source for part in self.parts]
        codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
        code_of = np.array([codes[name] for name in names], np.intp)[part_of]
        for name, code in codes.items():
            found = places[code_of == code]
            if len(found):
                yield name, found

    def where(self, *keys: int) -> Places:
        """Return the rows that are kept so far and go to one of some splits."""
        return np.flatnonzero(self.kept & np.isin(self.keys, keys))

    def drop(self, places: Places, reason: str) -> None:
        """Leave rows out, counted."""
        for source, found in self.sources(places):
            self._journal.drop(source, reason, len(found))
        self.kept[places] = False
        if len(places):
            self.lost.append(Lost(places, reason))

    def without_duplicates(self, dedup: Dedup) -> None:
        """Keep the first of each set of duplicates, in training of near-duplicates too.

        The reference set keeps its duplicates, and what is measured on its near-duplicates.
        """
        if dedup == "off":
            return
        texts = self.column("text")
        for key in range(len(SPLITS)):
            if SPLITS[key][0] != "reference":
                places = self.where(key)
                _, first = np.unique(texts[places], return_index=True)
                self.drop(np.delete(places, first), DUPLICATE)
        if dedup == "near":
            for key in TRAIN:
                places = self.where(key)
                self.drop(places[earlier_near(self._signatures(places, "near"))], NEAR)

    def without_overlap(self, dedup: Dedup) -> None:
        """Leave out of training what is measured on: the same last exchange, or nearly the same."""
        exchanges = self.column("exchange")
        train = self.where(*TRAIN)
        self.drop(train[np.isin(exchanges[train], exchanges[self.where(*HELD)])], OVERLAP)
        if dedup == "near":
            train, held = self.where(*TRAIN), self.where(*HELD)
            signed, against = self._signatures(train, "train"), self._signatures(held, "held")
            self.drop(train[near_any(signed, against)], NEAR_OVERLAP)

    def _signatures(self, places: Places, name: str) -> Signatures:
        """Return the signatures of rows as a file in memory, since each takes 512 bytes."""
        if not len(places):
            return np.zeros((0, PERMUTATIONS), np.uint32)
        path = self._folder / f"{name}.signatures"
        # Written first and mapped then: on a full disk, writing to a map kills the process.
        with path.open("wb") as file:
            for number, part in enumerate(self.parts):
                begin, end = np.searchsorted(places, self.starts[number : number + 2])
                if begin < end:
                    rows = places[begin:end] - self.starts[number]
                    file.write(part.signatures()[rows].tobytes())
        return np.memmap(path, np.uint32, "r", shape=(len(places), PERMUTATIONS))

    def order(self, key: int, mix: dict[str, Share], seed: int) -> "Order":
        """Return the rows of a split in the order they are written.

        Validation rows keep their order. Training rows are sorted by a hash of text and seed, so
        the order does not depend on the platform's random numbers.
        """
        places = self.where(key)
        order = Order(places, np.zeros(len(places), np.uint32))
        if key not in TRAIN or not len(places):
            return order
        places = places[np.argsort(self._drawn(order, seed), kind="stable")]
        shares = [self._share(name, found, mix) for name, found in self.sources(places)]
        mixed = Order(
            np.concatenate([share.places for share in shares]),
            np.concatenate([share.again for share in shares]),
        )
        drawn = np.argsort(self._drawn(mixed, seed), kind="stable")
        return Order(mixed.places[drawn], mixed.again[drawn])

    def _share(self, name: str, places: Places, mix: dict[str, Share]) -> "Order":
        """Return as many of a source's rows as the mix has of them, the first in drawn order."""
        share = mix.get(name, Share())
        wanted = round(len(places) * share.weight)
        if share.cap is not None:
            wanted = min(wanted, share.cap)
        self._journal.drop(name, MIXED, max(len(places) - wanted, 0))
        again = np.arange(wanted, dtype=np.uint32) // np.uint32(len(places))
        return Order(np.resize(places, wanted), again)

    def _drawn(self, order: "Order", seed: int) -> Hashes:
        """Return a number for each row, drawn by its text, the seed and which repeat it is."""
        texts = self.column("text")[order.places]
        halves = np.frombuffer(texts.tobytes(), "<u8")
        drawn = _mixed(halves[::2] ^ _mixed(np.array([seed], np.uint64)))
        return _mixed(drawn ^ order.again)


class Order(NamedTuple):
    """Rows to write, one after the other."""

    places: Places
    again: npt.NDArray[np.uint32]
    """How many times the row stood in the split before: above 0 where a mix repeats it."""

    def part(self, first: int, number: int) -> "Order":
        """Return some rows that follow each other."""
        return Order(self.places[first : first + number], self.again[first : first + number])


def _mixed(values: Hashes) -> Hashes:
    """Return the finalizer of SplitMix64 (Steele, Lea and Flood 2014) of each value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
