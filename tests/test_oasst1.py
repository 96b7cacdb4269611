"""OASST1's trees, on the bundled validation split and on small ones made here."""

from collections import Counter
from typing import Any

import pytest

from gpt2chat.core.errors import RowError
from gpt2chat.core.oasst1 import Trees, parse_message, to_conversation
from gpt2chat.core.records import read_file
from gpt2chat.core.sources import SAMPLE


@pytest.fixture(scope="module")
def bundled() -> Trees:
    records = read_file(SAMPLE / "oasst1.validation.jsonl.gz")
    return Trees(parse_message(record.value, record.file, record.line) for record in records)


def row(name: str, parent: str | None, role: str, **fields: Any) -> dict[str, Any]:
    lang = {"lang": "en", "deleted": False, "review_result": True, "rank": None}
    return {"message_id": name, "parent_id": parent, "role": role, "text": name, **lang, **fields}


def trees(*rows: dict[str, Any]) -> Trees:
    return Trees(parse_message(entry, "a.jsonl", line) for line, entry in enumerate(rows))


def outcome(found: Trees, name: str, lang: str = "en", best: frozenset[str] | None = None) -> str:
    try:
        sample = found.sample(found.messages[name], lang, best)
    except RowError as error:
        return error.reason
    return " ".join(message.content for message in sample.messages)


ROOT = row("root", None, "prompter")


def test_the_validation_split_has_1243_replies_in_191_trees_and_1241_have_a_path(bundled: Trees):
    replies = list(bundled.replies())
    assert len(replies) == 1243
    assert sum(bool(bundled.path(reply)) for reply in replies) == 1241
    assert len({bundled.group(message) for message in bundled.messages.values()}) == 191
    assert sum(not bundled.path(message) for message in bundled.messages.values()) == 3


def test_the_validation_splits_replies_that_are_left_out_have_a_reason(bundled: Trees):
    results = Counter(outcome(bundled, reply.id)[:40] for reply in bundled.replies())
    assert results["no whole path to a root"] == 2
    assert results["deleted message"] == 28
    assert results["failed review"] == 28


def test_the_reference_projects_own_construction_has_1831_conversations(bundled: Trees):
    found = list(bundled.reference("en"))
    assert len(found) == len({message.id for message, _ in found}) == 1831
    assert all(to_conversation(path).reply for _, path in found)


def test_no_reply_is_trained_twice_and_each_has_its_path_as_context():
    found = trees(
        ROOT,
        row("a", "root", "assistant"),
        row("b", "root", "assistant"),
        row("a1", "a", "prompter"),
        row("a2", "a1", "assistant"),
    )
    assert [outcome(found, r.id) for r in found.replies()] == ["root a", "root b", "root a a1 a2"]


def test_a_message_may_stand_before_its_parent():
    assert outcome(trees(row("a", "root", "assistant"), ROOT), "a") == "root a"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"lang": "de"}, "another language"),
        ({"deleted": True}, "deleted message"),
        ({"review_result": False}, "failed review"),
        ({"text": " \n"}, "empty assistant message"),
    ],
)
def test_one_unwanted_message_on_the_path_drops_the_sample(fields: dict[str, Any], reason: str):
    found = trees(
        ROOT,
        row("a", "root", "assistant", **fields),
        row("a1", "a", "prompter"),
        row("a2", "a1", "assistant"),
    )
    assert outcome(found, "a") == outcome(found, "a2") == reason


def test_all_languages_are_kept_when_asked_for():
    found = trees(ROOT, row("a", "root", "assistant", lang="de"))
    assert outcome(found, "a", lang="all") == "root a"


def test_a_missing_review_is_no_failed_review():
    assert outcome(trees(ROOT, row("a", "root", "assistant", review_result=None)), "a") == "root a"


def test_messages_that_answer_each_other_in_a_circle_are_orphans():
    found = trees(row("a", "b", "assistant"), row("b", "a", "prompter"))
    assert outcome(found, "a") == "no whole path to a root"


def test_the_best_of_the_wanted_siblings_is_kept_and_what_follows_the_others_is_not():
    found = trees(
        ROOT,
        row("deleted", "root", "assistant", rank=0, deleted=True),
        row("best", "root", "assistant", rank=1),
        row("worse", "root", "assistant", rank=2),
        row("unranked", "root", "assistant"),
        row("question", "worse", "prompter"),
        row("only", "question", "assistant"),
    )
    best = found.best("en")
    assert best == {"best", "only"}
    assert outcome(found, "best", best=best) == "root best"
    assert outcome(found, "worse", best=best) == "not the best-ranked reply"
    assert outcome(found, "only", best=best) == "not the best-ranked reply"


def test_the_reference_set_cuts_a_path_that_ends_with_a_question():
    found = trees(ROOT, row("a", "root", "assistant"), row("a1", "a", "prompter", deleted=True))
    ends = [(message.id, [m.id for m in path]) for message, path in found.reference("en")]
    assert ends == [("a", ["root", "a"]), ("a1", ["root", "a"])]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"text": None}, "text is not text"), ({"role": "system"}, "unknown role 'system'")],
)
def test_a_row_that_is_no_message_is_refused(fields: dict[str, Any], reason: str):
    with pytest.raises(RowError, match=reason):
        parse_message({**ROOT, **fields}, "a.jsonl", 1)
