"""Select the rows of the shards: remove duplicates and overlap with validation, apply the mix."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2chat.core.config.prepare import Dedup, Share
from gpt2chat.core.data.counts import Counts
from gpt2chat.core.data.near import (
    NO_ROW,
    PERMUTATIONS,
    THRESHOLD,
    Places,
    earlier_near,
    near_any,
    same_words,
)
from gpt2chat.core.data.store import INDEX, SPLITS, Part, Store

DUPLICATE = "duplicate"
NEAR = "near-duplicate"
OVERLAP = "also in validation"
NEAR_OVERLAP = "nearly also in validation"
LEFT_OUT_BY_MIX = "left out by the mix"
CACHED_QUESTIONS = 10_000
"""Questions that stay in memory while near-duplicates are compared."""
COMPARED = 8192
"""Pairs of signatures, of 512 bytes each, that are compared at a time."""

TRAIN = tuple(code for code, (_, split) in enumerate(SPLITS) if split == "train")
VALIDATION = tuple(code for code, (_, split) in enumerate(SPLITS) if split == "validation")
Booleans = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


class Removal(NamedTuple):
    """Rows that were removed for one reason."""

    places: Places
    reason: str
    like: Places
    """The row that each of them resembles."""


class Order(NamedTuple):
    """Rows in the order of the shards."""

    places: Places
    repeats: npt.NDArray[np.uint32]
    """Number of each repeat: 0, or more for a row that the mix repeats."""


class Selection:
    """The rows of all parts, fewer after each step.

    A place is the number of a row in all parts, in the order of the sources.
    """

    def __init__(self, store: Store, counts: Counts):
        self.index = np.array(store.read("index", INDEX))
        self.removals: list[Removal] = []
        self.store = store
        self.counts = counts
        self._starts = np.cumsum([0, *(part.rows for part in store.parts)])
        self.is_selected = np.ones(len(self.index), bool)
        self._lines = store.read("rows")
        self._offsets = np.cumsum(self.index["size"], dtype=np.int64) - self.index["size"]
        self._signatures = store.read("signatures", np.uint32).reshape(-1, PERMUTATIONS)

        # In each band, the same row may be compared again with others.
        @lru_cache(CACHED_QUESTIONS)
        def question(place: int) -> str:
            messages = json.loads(self.line(place))["conversation"]
            users = [message["content"] for message in messages if message["role"] == "user"]
            documents = [message["content"] for message in messages if message["role"] == "context"]
            return "\n".join([users[-1], *documents])

        self._question = question

    def line(self, place: int) -> bytes:
        """Return the line of a row."""
        start = self._offsets[place]
        return self._lines[start : start + self.index["size"][place]].tobytes()

    def part_of(self, place: int) -> Part:
        """Return the part that a row is in."""
        return self.store.parts[int(np.searchsorted(self._starts, place, side="right")) - 1]

    def sources(self, places: Places) -> Iterator[tuple[str, Places]]:
        """Yield the rows of each source, by name, in the order of the sources."""
        part_of = np.searchsorted(self._starts, places, side="right") - 1
        names = [part.source for part in self.store.parts]
        codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
        code_of = np.array([codes[name] for name in names], np.intp)[part_of]
        for name, code in codes.items():
            own = places[code_of == code]
            if len(own):
                yield name, own

    def remove_duplicates(self, dedup: Dedup) -> None:
        """Remove duplicates, near-duplicates, and training rows that are also in validation.

        Of several duplicates in a split, the first one stays. The reference set keeps its
        duplicates, and validation its near-duplicates.
        """
        texts, exchanges, bands = (self.index[name] for name in ("text", "exchange", "bands"))
        for key in range(len(SPLITS)) if dedup != "off" else ():
            if SPLITS[key][0] != "reference":
                places = self._where(key)
                _, first, same = np.unique(texts[places], return_index=True, return_inverse=True)
                later = np.delete(np.arange(len(places)), first)
                self._remove(places[later], DUPLICATE, places[first[same[later]]])
        for key in TRAIN if dedup == "near" else ():
            places = self._where(key)
            like = earlier_near(bands[places], lambda a, b, p=places: self._alike(p[a], p[b]))
            near = np.flatnonzero(like != NO_ROW)
            self._remove(places[near], NEAR, places[like[near]])
        # Even with `dedup` off. The training row goes, and what is measured on stays the same.
        train, validation = self._where(*TRAIN), self._where(*VALIDATION)
        hashes, first = np.unique(exchanges[validation], return_index=True)
        overlap = train[np.isin(exchanges[train], hashes)]
        like = validation[first[np.searchsorted(hashes, exchanges[overlap])]]
        self._remove(overlap, OVERLAP, like)
        if dedup == "near":
            train = self._where(*TRAIN)
            like = near_any(
                bands[train], bands[validation], lambda a, b: self._alike(train[a], validation[b])
            )
            near = np.flatnonzero(like != NO_ROW)
            self._remove(train[near], NEAR_OVERLAP, validation[like[near]])

    def _where(self, *keys: int) -> Places:
        """Return the selected rows of some splits."""
        return np.flatnonzero(self.is_selected & np.isin(self.index["key"], keys))

    def _remove(self, places: Places, reason: str, like: Places) -> None:
        for source, own in self.sources(places):
            self.counts.dropped[source][reason] += len(own)
        self.is_selected[places] = False
        if len(places):
            self.removals.append(Removal(places, reason, like))

    def _alike(self, rows: Places, others: Places) -> Booleans:
        """Return which rows are near-duplicates of the other row of their pair.

        Signatures depend mostly on the reply: without a second look at the questions, a bot that
        answers "Who are you?" and "What is your name?" alike would lose one of the two.
        """
        alike = np.zeros(len(rows), bool)
        for start in range(0, len(rows), COMPARED):
            some = slice(start, start + COMPARED)
            equal = self._signatures[rows[some]] == self._signatures[others[some]]
            alike[some] = equal.mean(axis=1) >= THRESHOLD
        for number in np.flatnonzero(alike).tolist():
            one, other = self._question(int(rows[number])), self._question(int(others[number]))
            alike[number] = same_words(one, other)
        return alike

    def order(self, key: int, mix: dict[str, Share], seed: int) -> Order:
        """Return the rows of a split in the order of the shards.

        Validation rows keep their order. Training rows are sorted by a hash of text and seed, so
        the order does not depend on the platform's random numbers.
        """
        places = self._where(key)
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
            if number < len(own):
                self.counts.dropped[name][LEFT_OUT_BY_MIX] += len(own) - number
            repeats = np.arange(number, dtype=np.uint32) // np.uint32(len(own))
            # `resize` cuts the rows off, or starts again with the first.
            shares.append(Order(np.resize(own, number), repeats))
        mixed = Order(*map(np.concatenate, zip(*shares, strict=True)))
        # Until here, each source is by itself. The repeats make different draws of the same text.
        order_of_mix = np.argsort(self._draw(mixed, seed), kind="stable")
        return Order(mixed.places[order_of_mix], mixed.repeats[order_of_mix])

    def _draw(self, order: Order, seed: int) -> Hashes:
        """Return a pseudo-random number for each row, from its text, the seed and its repeat."""
        # In little-endian order on every machine, so that all draw the same numbers.
        halves = np.frombuffer(self.index["text"][order.places].tobytes(), "<u8")
        numbers = _split_mix(halves[::2] ^ _split_mix(np.array([seed], np.uint64)))
        return _split_mix(numbers ^ order.repeats)


def _split_mix(values: Hashes) -> Hashes:
    """Return each value after the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
