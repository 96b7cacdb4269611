"""Find near-duplicates by MinHash over runs of five words, called shingles.

The similarity of two texts is the Jaccard similarity of their sets of shingles: the number they
share, divided by the number that either has. Case, punctuation and white space do not count. The
share of equal values in two signatures estimates the similarity, and bands of values find the
pairs that are worth comparing.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import rensa
from numpy.typing import NDArray

Signatures = NDArray[np.uint32]
"""Shape (texts, PERMUTATIONS)."""
Bands = NDArray[np.uint64]
"""A hash of each band of a signature, shape (texts, BANDS); 0 for a text that is not compared."""
Places = NDArray[np.intp]
Alike = Callable[[Places, Places], NDArray[np.bool_]]
"""Returns which rows are near-duplicates of the other row of their pair."""

NO_ROW = -1
"""In place of the number of a row, if there is none."""
PERMUTATIONS = 128
"""Values in a signature. At a similarity of 0.8 the estimate's standard deviation is 0.035."""
BANDS = 16
"""Bands of 8 values: at a similarity of 0.8, 95 % of pairs agree in one; at 0.9, 99.99 %."""
THRESHOLD = 0.8
"""Estimated similarity from which two texts are nearly the same."""
SHINGLE_WORDS = 5
MIN_SHINGLES = 10
"""A text with fewer, which has under 14 words, is not compared."""

_SEED = 1
# Odd, so that the order of words in a shingle, or of values in a band, counts.
_MULTIPLIERS = np.array(
    [
        *(0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB),
        *(0xD6E8FEB86659FD93, 0xA0761D6478BD642F),
    ],
    dtype=np.uint64,
)
# Thai, Lao, Burmese, Khmer, kana and Han do not separate words: each letter counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_ASCII_WORDS = bytes(
    ord(letter.lower()) if letter.isalnum() or letter == "_" else ord(" ")
    for letter in map(chr, range(128))
).ljust(256)
# From 256 rows, rensa starts threads, for which a forked process would wait forever.
_BATCH = 200
# The package is compiled and has no stubs.
_MINHASH: Any = rensa.RMinHash  # pyright: ignore[reportAttributeAccessIssue]


def signatures(texts: Sequence[str]) -> Signatures:
    """Return the MinHash signature of each text; shape (texts, PERMUTATIONS).

    A text with fewer than MIN_SHINGLES shingles has a row of zeros, and other rows have no zero.
    The same text has the same signature in every process, but not in every version of rensa, so
    signatures must not be stored for long.
    """
    rows = np.zeros((len(texts), PERMUTATIONS), dtype=np.uint32)
    for start in range(0, len(texts), _BATCH):
        batch = [_words(text) for text in texts[start : start + _BATCH]]
        flat = [word for words in batch for word in words]
        hashes = np.array(_MINHASH.hash_token_sets([flat])[0], dtype=np.uint64)
        lengths = np.array([len(words) for words in batch], dtype=np.intp)
        counts = np.maximum(lengths - SHINGLE_WORDS + 1, 0)
        counts[counts < MIN_SHINGLES] = 0
        offsets = np.concatenate([np.zeros(1, np.intp), np.cumsum(counts)])
        # Runs that cross from one text into the next are hashed too, and dropped at the end.
        begins = np.cumsum(lengths) - lengths
        places = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], counts)
        runs = np.zeros(max(len(flat) - SHINGLE_WORDS + 1, 0), dtype=np.uint64)
        for place, multiplier in enumerate(_MULTIPLIERS):
            runs += hashes[place : place + len(runs)] * multiplier
        matrix = _MINHASH.digest_matrix_from_flat_token_hashes(
            runs[places], offsets.astype(np.uint64), PERMUTATIONS, _SEED
        )
        signed: Signatures = np.array(matrix.to_rows(), dtype=np.uint32)
        # Zeros mean that a text is not compared, so no other text may have one.
        signed[signed == 0] = 1
        signed[counts == 0] = 0
        rows[start : start + _BATCH] = signed
    return rows


def bands(signed: Signatures) -> Bands:
    """Return the bands of signatures, in which near-duplicates agree at least once."""
    pairs = PERMUTATIONS // BANDS // 2  # of 32-bit values
    halves = np.ascontiguousarray(signed).view(np.uint64).reshape(len(signed), BANDS, pairs)
    return (halves * _MULTIPLIERS[:pairs]).sum(axis=2)


def same_words(one: str, other: str) -> bool:
    """Return whether two texts share most of their words, as near-duplicates do."""
    first, second = set(_words(one)), set(_words(other))
    # Words of ASCII text are bytes, so a text in another script has no word in common with it.
    return len(first & second) >= THRESHOLD * len(first | second)  # pyright: ignore[reportUnknownArgumentType]


def _words(text: str) -> list[Any]:
    # For ASCII text, the table finds the same words as the pattern in a third of the time.
    if text.isascii():
        return text.encode().translate(_ASCII_WORDS).split()
    return _WORD.findall(text.casefold())


def earlier_near(rows: Bands, alike: Alike) -> Places:
    """Return an earlier near-duplicate of each row, or NO_ROW; shape (rows,).

    The earlier row may be a near-duplicate itself: of a chain of small changes, only the first row
    remains. Rows that agree in a band are compared only with the first of them and with the one
    just before, so that many similar rows take no longer than others.
    """
    near = np.full(len(rows), NO_ROW)
    # Rows of zeros are texts that are too short to be compared.
    live = np.flatnonzero(rows[:, 0])
    for band in range(BANDS):
        hashes = rows[live, band]
        # Stable, so that rows with the same hash stay in their order and the first is the earliest.
        order = np.argsort(hashes, kind="stable")
        hashes, sorted_rows = hashes[order], live[order]
        later = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        for earlier in (np.searchsorted(hashes, hashes[later]), later - 1):
            _mark(near, sorted_rows[later], sorted_rows[earlier], alike)
    return near


def near_any(rows: Bands, others: Bands, alike: Alike) -> Places:
    """Return a near-duplicate of each row among `others`, or NO_ROW; shape (rows,).

    Of the others that agree with a row in a band, only the first and the last are compared.
    """
    near = np.full(len(rows), NO_ROW)
    live, other_live = np.flatnonzero(rows[:, 0]), np.flatnonzero(others[:, 0])
    for band in range(BANDS):
        other_hashes, hashes = others[other_live, band], rows[live, band]
        order = np.argsort(other_hashes, kind="stable")
        other_hashes, other_rows = other_hashes[order], other_live[order]
        begin = np.searchsorted(other_hashes, hashes, side="left")
        end = np.searchsorted(other_hashes, hashes, side="right")
        agrees = end > begin
        for place in (begin, end - 1):
            _mark(near, live[agrees], other_rows[place[agrees]], alike)
    return near


def _mark(near: Places, rows: Places, others: Places, alike: Alike) -> None:
    """Set the near-duplicate of each row that has none yet to the other one, if they are alike."""
    unmarked = near[rows] == NO_ROW
    rows, others = rows[unmarked], others[unmarked]
    is_alike = alike(rows, others)
    near[rows[is_alike]] = others[is_alike]
