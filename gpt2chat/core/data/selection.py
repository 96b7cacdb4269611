"""Select the rows of the shards: remove duplicates and overlap with validation, apply the mix."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2chat.core.config.prepare import Dedup, Share
from gpt2chat.core.data.journal import Journal
from gpt2chat.core.data.near import (
    NO_ROW,
    PERMUTATIONS,
    Hashes,
    Places,
    earlier_near,
    near_any,
    same_words,
)
from gpt2chat.core.data.parts import INDEX, SPLITS, Part, Signatures

DUPLICATE = "duplicate"
NEAR = "near-duplicate"
OVERLAP = "also in validation"
NEAR_OVERLAP = "nearly also in validation"
LEFT_OUT_BY_MIX = "left out by the mix"
CACHED_QUESTIONS = 10_000
"""Questions that stay in memory while near-duplicates are compared."""

TRAIN = tuple(code for code, (_, split) in enumerate(SPLITS) if split == "train")
VALIDATION = tuple(code for code, (_, split) in enumerate(SPLITS) if split == "validation")


class Removal(NamedTuple):
    """Rows that were removed for one reason."""

    places: Places
    reason: str
    like: Places
    """The row that each of them resembles."""


class Selection:
    """The rows of all parts, fewer after each step, in some 30 bytes of memory per row.

    A place is the number of a row in all parts, in the order of the sources.
    """

    def __init__(self, parts: Sequence[Part], folder: Path, journal: Journal):
        self.parts = parts
        self.removals: list[Removal] = []
        self.starts = np.cumsum([0, *(part.rows for part in parts)])
        self.keys = self.column("key")
        self.is_selected = np.ones(len(self.keys), bool)
        self._offsets, self._sizes = self.column("offset"), self.column("size")
        self._question = lru_cache(CACHED_QUESTIONS)(self._read_question)
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
            own = places[code_of == code]
            if len(own):
                yield name, own

    def where(self, *keys: int) -> Places:
        """Return the selected rows of some splits."""
        return np.flatnonzero(self.is_selected & np.isin(self.keys, keys))

    def drop(self, places: Places, reason: str, like: Places) -> None:
        """Remove rows, and count them.

        Args:
            like: The row that each of them resembles.
        """
        for source, own in self.sources(places):
            self._journal.drop(source, reason, len(own))
        self.is_selected[places] = False
        if len(places):
            self.removals.append(Removal(places, reason, like))

    def without_duplicates(self, dedup: Dedup) -> None:
        """Keep only the first of several duplicates, and in training of near-duplicates too.

        The reference set keeps its duplicates, and validation its near-duplicates.
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
                near = np.flatnonzero(like != NO_ROW)
                self.drop(places[near], NEAR, places[like[near]])

    def without_overlap(self, dedup: Dedup) -> None:
        """Remove training rows whose last exchange is also, or nearly, in the validation data."""
        exchanges = self.column("exchange")
        train, validation = self.where(*TRAIN), self.where(*VALIDATION)
        hashes, first = np.unique(exchanges[validation], return_index=True)
        overlap = train[np.isin(exchanges[train], hashes)]
        like = validation[first[np.searchsorted(hashes, exchanges[overlap])]]
        self.drop(overlap, OVERLAP, like)
        if dedup == "near":
            train = self.where(*TRAIN)
            like = near_any(
                self._signatures(train, "train"),
                self._signatures(validation, "validation"),
                lambda a, b: self._same_questions(train[a], validation[b]),
            )
            near = np.flatnonzero(like != NO_ROW)
            self.drop(train[near], NEAR_OVERLAP, validation[like[near]])

    def _same_questions(self, rows: Places, others: Places) -> npt.NDArray[np.bool_]:
        """Return which rows ask nearly the same question as the other row of their pair.

        Signatures depend mostly on the reply: without this check, a bot that answers "Who are
        you?" and "What is your name?" alike would lose one of the two questions.
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
        """Return the fields of a row."""
        with self.part_of(place).lines.open("rb") as file:
            file.seek(int(self._offsets[place]))
            return json.loads(file.read(int(self._sizes[place])))

    def _signatures(self, places: Places, name: str) -> Signatures:
        """Return the signatures of rows, mapped from a file: each takes 512 bytes."""
        if not len(places):
            return np.zeros((0, PERMUTATIONS), np.uint32)
        path = self._folder / f"{name}.signatures"
        # Written first and mapped afterwards: writing to a map on a full disk kills the process.
        with path.open("wb") as file:
            for number, part in enumerate(self.parts):
                begin, end = np.searchsorted(places, self.starts[number : number + 2])
                if begin < end:
                    rows = places[begin:end] - self.starts[number]
                    file.write(part.signatures()[rows].tobytes())
        return np.memmap(path, np.uint32, "r", shape=(len(places), PERMUTATIONS))

    def order(self, key: int, mix: dict[str, Share], seed: int) -> "Order":
        """Return the rows of a split in the order of the shards.

        Validation rows keep their order. Training rows are sorted by a hash of text and seed, so
        the order does not depend on the platform's random numbers.
        """
        places = self.where(key)
        order = Order(places, np.zeros(len(places), np.uint32))
        if key not in TRAIN or not len(places):
            return order
        places = places[np.argsort(self._draw(order, seed), kind="stable")]
        shares: list[Order] = []
        for name, own in self.sources(places):
            share = mix.get(name, Share())
            number = round(len(own) * share.weight)
            if share.cap is not None:
                number = min(number, share.cap)
            self._journal.drop(name, LEFT_OUT_BY_MIX, max(len(own) - number, 0))
            repeats = np.arange(number, dtype=np.uint32) // np.uint32(len(own))
            shares.append(Order(np.resize(own, number), repeats))
        mixed = Order(
            np.concatenate([share.places for share in shares]),
            np.concatenate([share.repeats for share in shares]),
        )
        order_of_mix = np.argsort(self._draw(mixed, seed), kind="stable")
        return Order(mixed.places[order_of_mix], mixed.repeats[order_of_mix])

    def _draw(self, order: "Order", seed: int) -> Hashes:
        """Return a pseudo-random number for each row, from its text, the seed and its repeat."""
        texts = self.column("text")[order.places]
        halves = np.frombuffer(texts.tobytes(), "<u8")
        numbers = _split_mix(halves[::2] ^ _split_mix(np.array([seed], np.uint64)))
        return _split_mix(numbers ^ order.repeats)


class Order(NamedTuple):
    """Rows in the order of the shards."""

    places: Places
    repeats: npt.NDArray[np.uint32]
    """Number of each repeat: 0, or more for a row that the mix repeats."""

    def part(self, first: int, number: int) -> "Order":
        """Return some consecutive rows."""
        return Order(self.places[first : first + number], self.repeats[first : first + number])


def _split_mix(values: Hashes) -> Hashes:
    """Return each value after the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
