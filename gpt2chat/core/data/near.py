"""Find near-duplicates by MinHash over runs of five words, called shingles.

The similarity of two texts is the Jaccard similarity of their sets of shingles: the number they
share, divided by the number that either has. Case, punctuation and white space do not count. The
share of equal values in two signatures estimates the similarity, and bands of values find the
pairs that are worth comparing. Signatures of millions of texts may be memory-mapped; apart from
them, some 60 bytes per row are in memory.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import rensa
from numpy.typing import NDArray

Signatures = NDArray[np.uint32]
"""Shape (texts, PERMUTATIONS)."""
Places = NDArray[np.intp]
Hashes = NDArray[np.uint64]
Alike = Callable[[Places, Places], NDArray[np.bool_]]

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
_CHUNK = 8192
_BAND = PERMUTATIONS // BANDS
_MULTIPLIERS = np.array(
    [
        0x9E3779B97F4A7C15,
        0xBF58476D1CE4E5B9,
        0x94D049BB133111EB,
        0xD6E8FEB86659FD93,
        0xA0761D6478BD642F,
    ],
    dtype=np.uint64,
)
"""Odd multipliers, so that the order of words in a shingle, or of values in a band, counts."""

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
        shingles, offsets = _shingles([_words(text) for text in texts[start : start + _BATCH]])
        matrix = _MINHASH.digest_matrix_from_flat_token_hashes(
            shingles, offsets, PERMUTATIONS, _SEED
        )
        batch: Signatures = np.array(matrix.to_rows(), dtype=np.uint32)
        batch[batch == 0] = 1
        batch[offsets[1:] == offsets[:-1]] = 0
        rows[start : start + _BATCH] = batch
    return rows


def _words(text: str) -> list[bytes] | list[str]:
    # For ASCII text, the table finds the same words as the pattern in a third of the time.
    if text.isascii():
        return text.encode().translate(_ASCII_WORDS).split()
    return _WORD.findall(text.casefold())


def _shingles(texts: list[list[bytes] | list[str]]) -> tuple[Hashes, Hashes]:
    """Return the hashes of all texts' shingles, and the offset at which each text's begin."""
    flat = [word for words in texts for word in words]
    words: Hashes = np.array(_MINHASH.hash_token_sets([flat])[0], dtype=np.uint64)
    lengths = np.array([len(words) for words in texts], dtype=np.intp)
    counts = np.maximum(lengths - SHINGLE_WORDS + 1, 0)
    counts[counts < MIN_SHINGLES] = 0
    offsets = np.concatenate([np.zeros(1, np.intp), np.cumsum(counts)])
    # Runs that cross from one text into the next are hashed too, and dropped at the end.
    begins = np.cumsum(lengths) - lengths
    places = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], counts)
    runs = np.zeros(max(len(words) - SHINGLE_WORDS + 1, 0), dtype=np.uint64)
    for place, multiplier in enumerate(_MULTIPLIERS):
        runs += words[place : place + len(runs)] * multiplier
    return runs[places], offsets.astype(np.uint64)


def earlier_near(signatures: Signatures, alike: Alike | None = None) -> Places:
    """Return an earlier near-duplicate of each row, or NO_ROW; shape (rows,).

    The earlier row may be a near-duplicate itself: of a chain of small changes, only the first row
    remains. Rows that agree in a band are compared only with the first of them and with the one
    just before, so that many similar rows take no longer than others.

    Args:
        alike: A further check of rows with similar signatures: it gets their numbers and those of
            the earlier rows, and returns which pairs are near-duplicates.
    """
    near = np.full(len(signatures), NO_ROW)
    live = _live(signatures)
    for band in range(BANDS):
        hashes = _band_hashes(signatures, live, band)
        order = np.argsort(hashes, kind="stable")
        hashes, rows = hashes[order], live[order]
        later = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        first = np.searchsorted(hashes, hashes[later])
        for earlier in (first, later - 1):
            _mark(near, signatures, rows[later], signatures, rows[earlier], alike)
    return near


def near_any(signatures: Signatures, others: Signatures, alike: Alike | None = None) -> Places:
    """Return a near-duplicate of each row among `others`, or NO_ROW; shape (rows,).

    Of the others that agree with a row in a band, only the first and the last are compared.
    """
    near = np.full(len(signatures), NO_ROW)
    live, other_live = _live(signatures), _live(others)
    for band in range(BANDS):
        other_hashes = _band_hashes(others, other_live, band)
        order = np.argsort(other_hashes, kind="stable")
        other_hashes, other_rows = other_hashes[order], other_live[order]
        hashes = _band_hashes(signatures, live, band)
        begin = np.searchsorted(other_hashes, hashes, side="left")
        end = np.searchsorted(other_hashes, hashes, side="right")
        agrees = end > begin
        for place in (begin, end - 1):
            _mark(near, signatures, live[agrees], others, other_rows[place[agrees]], alike)
    return near


def same_words(one: str, other: str) -> bool:
    """Return whether two texts share most of their words, as near-duplicates do."""
    first, second = set(_words(one)), set(_words(other))
    # Words of ASCII text are bytes, so a text in another script has no word in common with it.
    return len(first & second) >= THRESHOLD * len(first | second)  # pyright: ignore[reportUnknownArgumentType]


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, rows, _CHUNK))


def _live(signatures: Signatures) -> Places:
    """Return the rows of texts that are long enough to compare."""
    return np.flatnonzero(signatures[:, 0])


def _band_hashes(signatures: Signatures, rows: Places, band: int) -> Hashes:
    hashes = np.zeros(len(rows), dtype=np.uint64)
    columns = slice(band * _BAND, (band + 1) * _BAND)
    for chunk in _chunks(len(rows)):
        pairs = np.ascontiguousarray(signatures[rows[chunk], columns]).view(np.uint64)
        hashes[chunk] = (pairs * _MULTIPLIERS[: _BAND // 2]).sum(axis=1)
    return hashes


def _mark(
    near: Places,
    signatures: Signatures,
    rows: Places,
    others: Signatures,
    pairs: Places,
    alike: Alike | None,
) -> None:
    """Set the near-duplicate of each row to its counterpart in `pairs`, if they are similar."""
    unmarked = near[rows] == NO_ROW
    rows, pairs = rows[unmarked], pairs[unmarked]
    for chunk in _chunks(len(rows)):
        equal = (signatures[rows[chunk]] == others[pairs[chunk]]).sum(axis=1)
        same = equal >= THRESHOLD * PERMUTATIONS
        similar, like = rows[chunk][same], pairs[chunk][same]
        if alike is not None:
            same = alike(similar, like)
            similar, like = similar[same], like[same]
        near[similar] = like
