"""Texts that are nearly the same, by MinHash over their runs of five words.

Two texts are compared by the Jaccard similarity of their sets of shingles: how many the two share,
of all that either has. Case, punctuation and white space play no part. A signature estimates the
similarity of two texts as the share of its values that are equal; its bands find the pairs that
are worth comparing. Signatures of millions of texts may be memory-mapped: beside them, some 60
bytes a row are held.
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

NONE = -1
"""In place of a row, where there is none."""

PERMUTATIONS = 128
"""Values in a signature. At a similarity of 0.8 the estimate's standard deviation is 0.035."""
BANDS = 16
"""Bands of 8 values: at a similarity of 0.8, 95 % of pairs agree in one; at 0.9, 99.99 %."""
THRESHOLD = 0.8
"""Estimated similarity from which two texts are nearly the same."""
SHINGLE_WORDS = 5
MIN_SHINGLES = 10
"""A text with fewer, which is under 14 words, has too little to compare."""

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
"""Odd numbers that tell the places within a shingle, or within a band, apart."""

# Thai, Lao, Burmese, Khmer, kana and Han put no spaces between words: each letter is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_ASCII_WORDS = bytes(
    ord(letter.lower()) if letter.isalnum() or letter == "_" else ord(" ")
    for letter in map(chr, range(128))
).ljust(256)
# From 256 rows on rensa starts threads, which a forked process would wait for without end.
_BATCH = 200
# The package is compiled and has no stubs.
_MINHASH: Any = rensa.RMinHash  # pyright: ignore[reportAttributeAccessIssue]


def signatures(texts: Sequence[str]) -> Signatures:
    """Return the MinHash signature of each text; shape (texts, PERMUTATIONS).

    A text with fewer than MIN_SHINGLES shingles has a row of zeros, which is near no other row.
    All other rows have no zero. The same text has the same signature in every process; another
    version of rensa may give another one, so signatures are not for keeping.
    """
    rows = np.zeros((len(texts), PERMUTATIONS), dtype=np.uint32)
    for start in range(0, len(texts), _BATCH):
        batch = slice(start, start + _BATCH)
        rows[batch] = _signatures([_words(text) for text in texts[batch]])
    return rows


def _signatures(texts: list[list[bytes] | list[str]]) -> Signatures:
    shingles, offsets = _shingles(texts)
    matrix = _MINHASH.digest_matrix_from_flat_token_hashes(shingles, offsets, PERMUTATIONS, _SEED)
    rows: Signatures = np.array(matrix.to_rows(), dtype=np.uint32)
    rows[rows == 0] = 1
    rows[offsets[1:] == offsets[:-1]] = 0
    return rows


def _words(text: str) -> list[bytes] | list[str]:
    # For ASCII the table finds the same words as the pattern, in a third of the time.
    if text.isascii():
        return text.encode().translate(_ASCII_WORDS).split()
    return _WORD.findall(text.casefold())


def _shingles(texts: list[list[bytes] | list[str]]) -> tuple[Hashes, Hashes]:
    """Return the shingles' hashes of all texts in a row, and where each text's begin and end."""
    flat = [word for words in texts for word in words]
    words: Hashes = np.array(_MINHASH.hash_token_sets([flat])[0], dtype=np.uint64)
    lengths = np.array([len(words) for words in texts], dtype=np.intp)
    counts = np.maximum(lengths - SHINGLE_WORDS + 1, 0)
    counts[counts < MIN_SHINGLES] = 0
    offsets = np.concatenate([np.zeros(1, np.intp), np.cumsum(counts)])
    # Runs that cross from one text into the next are hashed too, and left out here.
    begins = np.cumsum(lengths) - lengths
    kept = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], counts)
    runs = np.zeros(max(len(words) - SHINGLE_WORDS + 1, 0), dtype=np.uint64)
    for place, multiplier in enumerate(_MULTIPLIERS):
        runs += words[place : place + len(runs)] * multiplier
    return runs[kept], offsets.astype(np.uint64)


def earlier_near(signatures: Signatures, alike: Alike | None = None) -> Places:
    """Return for each row an earlier one that is nearly the same, or NONE; shape (rows,).

    It does not matter whether the earlier row has one before it too: of a chain of small changes
    the first row alone remains. Rows that agree in a band are compared with the first of them and
    with the one just before, so that many rows of one kind take no longer than others.

    Args:
        alike: Says of rows whose signatures are nearly the same, and of the earlier ones, which of
            them are alike in what the signatures do not tell.
    """
    near = np.full(len(signatures), NONE)
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


def near_any(signatures: Signatures, held: Signatures, alike: Alike | None = None) -> Places:
    """Return for each row a row of `held` that is nearly the same, or NONE; shape (rows,).

    Of the held rows that agree with it in a band, the first and the last are compared.
    """
    near = np.full(len(signatures), NONE)
    live, held_live = _live(signatures), _live(held)
    for band in range(BANDS):
        held_hashes = _band_hashes(held, held_live, band)
        order = np.argsort(held_hashes, kind="stable")
        held_hashes, held_rows = held_hashes[order], held_live[order]
        hashes = _band_hashes(signatures, live, band)
        begin = np.searchsorted(held_hashes, hashes, side="left")
        end = np.searchsorted(held_hashes, hashes, side="right")
        met = end > begin
        for place in (begin, end - 1):
            _mark(near, signatures, live[met], held, held_rows[place[met]], alike)
    return near


def same_words(one: str, other: str) -> bool:
    """Return whether two texts share most of their words, as near-duplicates do."""
    first, second = set(_words(one)), set(_words(other))
    # Words of ASCII text are bytes, so that a text in another script shares none with it.
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
    """Set for each of the rows the row of `others` beside it, if that is nearly the same."""
    unmarked = near[rows] == NONE
    rows, pairs = rows[unmarked], pairs[unmarked]
    for chunk in _chunks(len(rows)):
        equal = (signatures[rows[chunk]] == others[pairs[chunk]]).sum(axis=1)
        same = equal >= THRESHOLD * PERMUTATIONS
        found, like = rows[chunk][same], pairs[chunk][same]
        if alike is not None:
            same = alike(found, like)
            found, like = found[same], like[same]
        near[found] = like
