"""The fixed questions, and whether a reply keeps to an instruction."""

import hashlib

import pytest

from gpt2chat.core.evaluation.questions import CHECKS, FILE, read_questions


@pytest.mark.parametrize(
    ("name", "value", "good", "bad"),
    [
        ("most-words", 2, "two words", "three words here"),
        ("most-words", 2, "one", ""),
        ("least-words", 2, "two words", "one"),
        ("lower-case", True, "small.", "Small."),
        ("upper-case", True, "LARGE!", "Large!"),
        ("upper-case", True, "A", "1"),
        ("has", "snow", "Snow fell.", "Snowy."),
        ("has", ["key", "river"], "a river, a key", "a key"),
        ("lacks", "red", "It is sacred.", "It is Red."),
        ("lacks", "red", "x", ""),
        ("lacks-text", ",", "no", "yes, it has"),
        ("begins", "In my", "In my view", "My view"),
        ("ends", "?", "Why?", "Why? Because."),
        ("digits", True, "1969.", "in 1969"),
        ("bullets", 2, "- a\n- b", "- a\nb"),
        ("numbered", 2, "1. a\n2. b", "1. a\n3. b"),
    ],
)
def test_a_check_tells_a_reply_that_keeps_to_it(name: str, value: object, good: str, bad: str):
    assert CHECKS[name](good, value)
    assert not CHECKS[name](bad, value)


def test_the_questions_have_unique_names_and_known_checks():
    _, questions = read_questions()
    assert len({question.name for question in questions}) == len(questions) == 36
    assert {name for question in questions for name in question.checks} == set(CHECKS)
    assert all(question.prompt.turns[-1].role == "user" for question in questions)
    assert sum(question.kind == "reference" for question in questions) == 3


def test_a_changed_question_needs_a_new_version():
    # After a change of questions.toml, raise its version, and add the version and the hash here.
    hashes = {1: "a9daf2d1835e626f"}
    assert hashlib.sha256(FILE.read_bytes()).hexdigest().startswith(hashes[read_questions()[0]])
