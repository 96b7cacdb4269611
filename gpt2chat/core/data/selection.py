"""Which rows of all parts stay: duplicates out, what is measured on out of training, the mix."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2chat.core.config.prepare import Dedup, Share
from gpt2chat.core.data.journal import Journal
from gpt2chat.core.data.near import NONE, PERMUTATIONS, earlier_near, near_any, same_words
from gpt2chat.core.data.parts import INDEX, SPLITS, Part, Signatures

DUPLICATE = "duplicate"
NEAR = "near-duplicate"
OVERLAP = "also in validation"
NEAR_OVERLAP = "nearly also in validation"
CACHED = 10_000
"""Questions that are kept in memory while near-duplicates are compared."""
MIXED = "left out by the mix"

Places = npt.NDArray[np.intp]
"""Rows by their number in all parts, in the order of the sources."""
Hashes = npt.NDArray[np.uint64]

TRAIN = tuple(code for code, (_, split) in enumerate(SPLITS) if split == "train")
HELD = tuple(code for code, (_, split) in enumerate(SPLITS) if split == "validation")


class Lost(NamedTuple):
    """Rows that were left out, and why."""

    places: Places
    reason: str
    like: Places
    """The row that each of them resembles."""


class Selection:
    """The rows of all parts, fewer with each step; takes some 30 bytes of memory a row."""

    def __init__(self, parts: Sequence[Part], folder: Path, journal: Journal):
        self.parts = parts
        self.lost: list[Lost] = []
        self.starts = np.cumsum([0, *(part.rows for part in parts)])
        self.keys = self.column("key")
        self.kept = np.ones(len(self.keys), bool)
        self._offsets, self._sizes = self.column("offset"), self.column("size")
        self._question = lru_cache(CACHED)(self._read_question)
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

    def drop(self, places: Places, reason: str, like: Places) -> None:
        """Leave rows out, counted.

        Args:
            like: The row that each of them resembles.
        """
        for source, found in self.sources(places):
            self._journal.drop(source, reason, len(found))
        self.kept[places] = False
        if len(places):
            self.lost.append(Lost(places, reason, like))

    def without_duplicates(self, dedup: Dedup) -> None:
        """Keep the first of each set of duplicates, and in training of near-duplicates too.

        The reference set keeps its duplicates, and the validation splits their near-duplicates.
        """
        if dedup == "off":
            return
        texts = self.column("text")
        for key in range(len(SPLITS)):
            if SPLITS[key][0] != "reference":
                places = self.where(key)
                _, first, same = np.unique(texts[places], return_index=True, return_inverse=True)
                later = np.delete(np.arange(len(places)), first)
                self.drop(places[later], DUPLICATE, places[first[same[later]]])
        if dedup == "near":
            for key in TRAIN:
                places = self.where(key)
                signed = self._signatures(places, "near")
                like = earlier_near(signed, lambda a, b, p=places: self._same_questions(p[a], p[b]))
                near = np.flatnonzero(like != NONE)
                self.drop(places[near], NEAR, places[like[near]])

    def without_overlap(self, dedup: Dedup) -> None:
        """Leave out of training what is measured on: the same last exchange, or nearly the same."""
        exchanges = self.column("exchange")
        train, held = self.where(*TRAIN), self.where(*HELD)
        known, first = np.unique(exchanges[held], return_index=True)
        also = train[np.isin(exchanges[train], known)]
        self.drop(also, OVERLAP, held[first[np.searchsorted(known, exchanges[also])]])
        if dedup == "near":
            train = self.where(*TRAIN)
            signed, against = self._signatures(train, "train"), self._signatures(held, "held")
            like = near_any(signed, against, lambda a, b: self._same_questions(train[a], held[b]))
            near = np.flatnonzero(like != NONE)
            self.drop(train[near], NEAR_OVERLAP, held[like[near]])

    def _same_questions(self, rows: Places, others: Places) -> npt.NDArray[np.bool_]:
        """Return which rows ask nearly the same as the row beside them.

        Signatures are mostly of the reply: without this, a bot that answers "Who are you?" and
        "What is your name?" alike would lose one of the two questions.
        """
        pairs = zip(rows.tolist(), others.tolist(), strict=True)
        same = [same_words(self._question(one), self._question(other)) for one, other in pairs]
        return np.array(same, np.bool_)

    def _read_question(self, place: int) -> str:
        messages = self.row(place)["conversation"]
        users = [message["content"] for message in messages if message["role"] == "user"]
        documents = [message["content"] for message in messages if message["role"] == "context"]
        return "\n".join([users[-1], *documents])

    def part_of(self, place: int) -> Part:
        """Return the part that a row is in."""
        return self.parts[int(np.searchsorted(self.starts, place, side="right")) - 1]

    def row(self, place: int) -> dict[str, Any]:
        """Return a row as it is written."""
        with self.part_of(place).lines.open("rb") as file:
            file.seek(int(self._offsets[place]))
            return json.loads(file.read(int(self._sizes[place])))

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
