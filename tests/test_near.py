"""Near-duplicates are found, and nothing else is; the estimate is held against exact sets."""

import itertools
import json
import os
import random
import re
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2chat.core.data.near import (
    MIN_SHINGLES,
    NO_ROW,
    PERMUTATIONS,
    SHINGLE_WORDS,
    THRESHOLD,
    Signatures,
    bands,
    earlier_near,
    near_any,
    same_words,
    signatures,
)
from tests.helpers import sample_rows

SHORTEST = MIN_SHINGLES + SHINGLE_WORDS - 1
"""Words that a text needs to be compared."""


def earlier_of(rows: Any) -> Any:
    """Return an earlier near-duplicate of each row, by its signature alone."""
    return earlier_near(bands(rows), lambda a, b: (rows[a] == rows[b]).mean(axis=1) >= THRESHOLD)


def any_of(rows: Any, held: Any) -> Any:
    def alike(a: Any, b: Any) -> Any:
        return (rows[a] == held[b]).mean(axis=1) >= THRESHOLD

    return near_any(bands(rows), bands(held), alike)


def is_near(rows: Any) -> Any:
    return earlier_of(rows) != NO_ROW


def has_near(rows: Any, held: Any) -> Any:
    return any_of(rows, held) != NO_ROW


def replies() -> list[str]:
    """Return the bundled sample's 994 chosen replies, with what they answer."""
    return ["\n".join(message["content"] for message in row["chosen"])
            for row in sample_rows("ultrafeedback.jsonl.gz", 994)]  # fmt: skip


TEXTS = [text for text in replies() if 600 < len(text) < 3000][:250]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def jaccard(one: str, other: str) -> float:
    """The exact similarity, for text whose words stand apart."""
    sets = [set(zip(*(words(text)[i:] for i in range(SHINGLE_WORDS)), strict=False))
            for text in (one, other)]  # fmt: skip
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def estimate(one: Signatures, other: Signatures) -> float:
    return float((one == other).mean())


def another_word(text: str) -> str:
    parts = text.split(" ")
    parts[len(parts) // 2] = "zebra"
    return " ".join(parts)


def one_more_sentence(text: str) -> str:
    return text + " I hope that this is of help to you."


def shouted(text: str) -> str:
    return re.sub(r"[^\w\s]", " ! ", text).upper().replace(" ", "\n")


def changed(text: str, share: float, draw: random.Random) -> str:
    """Return the text with a share of its words made others."""
    return " ".join(f"w{draw.randrange(999)}" if draw.random() < share else word
                    for word in text.split())  # fmt: skip


def variants() -> Iterator[tuple[str, str]]:
    """Real texts, each with one whose likeness to it lies anywhere from 0 to 1."""
    draw = random.Random(5)
    for place, text in enumerate(TEXTS):
        yield text, changed(text, (place % 25) ** 2 / 2000, draw)


def test_the_estimate_is_close_to_the_exact_similarity():
    one, other = zip(*variants(), strict=True)
    exact = np.array([jaccard(*pair) for pair in zip(one, other, strict=True)])
    errors = (signatures(one) == signatures(other)).mean(axis=1) - exact
    assert exact.min() < 0.2
    assert exact.max() == 1
    # The standard deviation of 128 draws is at most 0.044.
    assert abs(errors).max() < 0.18
    assert abs(errors.mean()) < 0.01


@pytest.mark.parametrize("change", [another_word, one_more_sentence, shouted])
def test_a_slightly_changed_text_is_a_near_duplicate(change: Callable[[str], str]):
    likenesses = [change(text) for text in TEXTS]
    assert sum(one != other for one, other in zip(TEXTS, likenesses, strict=True)) == len(TEXTS)
    near = is_near(signatures([*TEXTS, *likenesses]))
    assert not near[: len(TEXTS)].any()
    assert near[len(TEXTS) :].mean() >= 0.99


def test_unrelated_texts_are_not_near_duplicates():
    assert not is_near(signatures(replies())).any()


def test_texts_that_share_a_template_are_not_near_duplicates():
    template = "Answer this question in the voice of a patient teacher, in full sentences:"
    texts = [f"{template}\n{row['instruction']}\n{row['input']}\n{row['output']}"
             for row in sample_rows("instructions.train.jsonl.gz", 1100)
             if len(row["output"].split()) > 12]  # fmt: skip
    assert len(texts) > 100
    assert not is_near(signatures(texts)).any()


def test_the_first_of_each_kind_stays():
    one, two, three = TEXTS[:3]
    rows = [one, two, another_word(one), shouted(two), three, one, one_more_sentence(one), three]
    near = is_near(signatures(rows))
    assert near.tolist() == [False, False, True, True, False, True, True, True]
    back = is_near(signatures(rows[::-1]))
    assert back.tolist() == [False, False, True, True, False, True, True, True]


def test_of_a_chain_of_small_changes_the_first_stays():
    chain = [" ".join(f"w{i}" for i in range(start, start + 200)) for start in range(0, 100, 5)]
    rows = signatures(chain)
    assert estimate(rows[0], rows[-1]) < 0.5
    assert is_near(rows).tolist() == [False] + [True] * (len(chain) - 1)


def test_one_of_many_similar_rows_stays():
    near = is_near(signatures([TEXTS[0], *TEXTS[1:40] * 50]))
    assert not near[:40].any()
    assert near[40:].all()


def test_short_texts_are_not_compared():
    long_enough = " ".join(string.ascii_lowercase[:SHORTEST])
    short = " ".join(string.ascii_lowercase[: SHORTEST - 1])
    rows = signatures([short, short, "", "", long_enough, long_enough])
    assert not rows[:4].any()
    assert rows[4:].all()
    assert is_near(rows).tolist() == [False] * 5 + [True]
    assert has_near(rows, rows).tolist() == [False] * 4 + [True] * 2


def test_no_texts_give_no_signatures():
    none = signatures([])
    assert none.shape == (0, PERMUTATIONS)
    some = signatures(TEXTS[:2])
    assert some.dtype == none.dtype == np.uint32
    assert is_near(none).shape == has_near(none, some).shape == (0,)
    assert has_near(some, none).tolist() == [False, False]


def test_every_reported_row_is_similar_and_few_are_missed():
    originals, likenesses = zip(*variants(), strict=True)
    texts = [*originals, *likenesses]
    random.Random(3).shuffle(texts)
    rows = signatures(texts)
    near = is_near(rows)
    close, alike = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for later, earlier in itertools.combinations(range(len(rows) - 1, -1, -1), 2):
        if (guess := estimate(rows[later], rows[earlier])) > 0.4:
            close[later] |= guess >= THRESHOLD
            alike[later] |= jaccard(texts[later], texts[earlier]) >= 0.85
    assert not (near & ~close).any()
    assert alike.sum() > 30
    assert near[alike].mean() >= 0.95
    assert near[close].mean() >= 0.95


def test_rows_that_resemble_one_of_the_others_are_reported():
    rows = signatures([another_word(text) for text in TEXTS[:120]])
    held = signatures(TEXTS[60:])
    near = has_near(rows, held)
    assert not near[:60].any()
    assert near[60:].mean() >= 0.99
    assert not has_near(rows[:0], held).any()
    assert (has_near(rows, np.concatenate([held, held[::-1]])) == near).all()


def test_a_signature_depends_only_on_its_text():
    together = signatures([*TEXTS, "", *TEXTS[::-1]])
    assert (together[:250] == together[:250:-1]).all()
    for place in (0, 1, 199, 200, 249):
        assert (signatures([TEXTS[place]])[0] == together[place]).all()


PRINT = """
import json, sys
from hashlib import sha256
from gpt2chat.core.data.near import signatures
print(sha256(signatures(json.load(sys.stdin)).tobytes()).hexdigest())
"""
FORK = """
import json, os, sys
from gpt2chat.core.data.near import signatures
texts = json.load(sys.stdin)
rows = signatures(texts)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0 if (signatures(texts) == rows).all() else 3)
"""


def run(script: str, texts: list[str], seed: str = "0") -> str:
    """Run a script in another process, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": seed},
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_every_process_computes_the_same_signatures():
    texts = [*TEXTS, "\u6f22\u5b57" * 20, "\xe9t\xe9 " * 20]
    here = sha256(signatures(texts).tobytes()).hexdigest() + "\n"
    assert run(PRINT, texts, "1") == run(PRINT, texts, "2") == here


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_hang():
    run(FORK, TEXTS * 3)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_has_the_words_of_the_pattern(text: str):
    filler = " ".join(f"w{i}" for i in range(SHORTEST))
    # One letter beyond ASCII, which no pattern counts as a word, takes the slower way.
    fast, slow = signatures([f"{text} {filler}", f"{text} {filler} \u2014"])
    assert (fast == slow).all()


def test_scripts_without_spaces_are_compared_letter_by_letter():
    one, other = ("".join(map(chr, range(start, start + 120))) for start in (0x4E00, 0x6E00))
    changed = one[:60] + "\u3042" + one[61:]
    near = is_near(signatures([one, other, changed, other + "\u3042"]))
    assert near.tolist() == [False, False, True, True]
    assert signatures(["\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22" * 3]).all()


def test_a_lone_surrogate_does_no_harm():
    assert signatures(["\ud800 " + TEXTS[0]]).all()


def test_the_row_that_a_near_duplicate_resembles_is_returned():
    rows = signatures([TEXTS[0], TEXTS[1], TEXTS[0]])
    assert earlier_of(rows).tolist() == [NO_ROW, NO_ROW, 0]
    assert any_of(rows, rows[1:]).tolist() == [1, 0, 1]


def test_questions_are_the_same_if_they_share_most_of_their_words():
    assert not same_words("Who are you?", "What are you?")
    assert not same_words("Who are you?", "And who are you?")
    assert same_words("Who are you?", "who are you")
    long = "Tell me in a few words what the people of the village library in Northfield do"
    assert same_words(long, long + " today")
    assert not same_words("你是谁", "Who are you")
