"""Messages of OASST1 form trees, whose paths become samples, reference conversations and pairs."""

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.oasst1 import (
    ALL,
    LONGEST_PATH,
    Thread,
    TreeMessage,
    Trees,
    is_tree,
    message_rows,
    parse_message,
)
from gpt2chat.core.inputs.records import Record
from gpt2chat.core.text.conversations import Preference
from tests.helpers import sample_rows

Row = dict[str, Any]
VALIDATION = "oasst1.validation.jsonl.gz"


def parsed(rows: Iterable[Row]) -> list[TreeMessage]:
    return [parse_message(row, "a.jsonl", line) for line, row in enumerate(rows, start=1)]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return sample_rows(VALIDATION, sys.maxsize)


@pytest.fixture(scope="module")
def bundled(rows: list[Row]) -> Trees:
    return plant(*rows)


def plant(*rows: Row, lang: str = "en") -> Trees:
    return Trees(parsed(rows), lang)


def row(name: str, parent: str | None, role: str, **fields: Any) -> Row:
    lang = {"lang": "en", "deleted": False, "review_result": True, "rank": None}
    return {"message_id": name, "parent_id": parent, "role": role, "text": name, **lang, **fields}


ROOT = row("root", None, "prompter")


def samples(trees: Trees, best: bool = False) -> dict[str, str]:
    """Return the texts of each reply's sample, or why there is none."""
    found: dict[str, str] = {}
    for reply, outcome in trees.samples(lambda _: best):
        try:
            if isinstance(outcome, RowError):
                raise outcome
            texts = [message.content for message in outcome.conversation().messages]
            found[reply.id] = " ".join(texts)
        except RowError as error:
            found[reply.id] = error.reason
    return found


def outcomes(trees: Trees, best: bool = False) -> list[str]:
    return list(samples(trees, best).values())


def preferences(trees: Trees) -> dict[str, Preference | RowError]:
    """Return the pair of each user message, or why there is none."""
    found: dict[str, Preference | RowError] = {}
    for prompter, outcome in trees.pairs():
        try:
            found[prompter.id] = outcome.preference() if isinstance(outcome, Thread) else outcome
        except RowError as error:
            found[prompter.id] = error
    return found


def pairs(trees: Trees) -> dict[str, str]:
    """Return what comes of each user message's replies, in a few words."""
    return {
        name: f"{pair.chosen} > {pair.rejected}" if isinstance(pair, Preference) else pair.reason
        for name, pair in preferences(trees).items()
    }


def everything(trees: Trees) -> list[TreeMessage]:
    return list(trees.by_id.values())


def message(trees: Trees, name: str) -> TreeMessage:
    return trees.by_id[name]


def test_the_validation_split_has_1243_replies_in_191_trees_and_1241_have_a_path(bundled: Trees):
    found = Counter(outcomes(bundled))
    assert (len(bundled.by_id), found.total()) == (2022, 1243)
    assert found["no whole path to a root"] == 2
    assert (found["deleted message"], found["failed review"]) == (28, 28)
    assert len({bundled.group(message) for message in everything(bundled)}) == 191
    assert sum(not bundled.path(message) for message in everything(bundled)) == 3


def test_the_reference_construction_has_1831_conversations(bundled: Trees):
    found = list(bundled.reference())
    assert len(found) == len({thread.last.id for thread in found}) == 1831
    assert all(thread.conversation().reply for thread in found)


def test_the_validation_pairs_are_those_of_a_plain_count(bundled: Trees, rows: list[Row]):
    by_id = {row["message_id"]: row for row in rows}
    ranked: defaultdict[str, dict[float, str]] = defaultdict(dict)
    for row in rows:
        if row["role"] == "assistant" and row["rank"] is not None and sound(row, by_id):
            ranked[row["parent_id"]][row["rank"]] = row["text"].strip()
    several = {name: texts for name, texts in ranked.items() if len(texts) > 1}
    expected = {name: (texts[min(texts)], texts[max(texts)]) for name, texts in several.items()}
    found = preferences(bundled)
    kept = {k: (p.chosen, p.rejected) for k, p in found.items() if isinstance(p, Preference)}
    assert kept == {name: texts for name, texts in expected.items() if texts[0] != texts[1]}
    reasons = Counter(pair.reason for pair in found.values() if isinstance(pair, RowError))
    assert (len(kept), len(expected)) == (415, 416)
    assert reasons == {"no ranked sibling": 58, "chosen and rejected replies are the same": 1}


def sound(row: Row | None, by_id: dict[str, Row]) -> bool:
    """Return whether a row and all above it can be used."""
    while row is not None and row["parent_id"] and usable(row):
        row = by_id.get(row["parent_id"])
    return row is not None and usable(row)


def usable(row: Row) -> bool:
    return row["lang"] == "en" and not row["deleted"] and row["review_result"] is not False


def test_each_reply_is_one_sample_with_its_path_as_history():
    found = plant(
        ROOT,
        row("a", "root", "assistant"),
        row("b", "root", "assistant"),
        row("a1", "a", "prompter"),
        row("a2", "a1", "assistant"),
    )
    assert outcomes(found) == ["root a", "root b", "root a a1 a2"]


def test_a_message_may_come_before_its_parent():
    found = plant(
        row("a2", "a1", "assistant"),
        row("a1", "a", "prompter"),
        row("a", "root", "assistant"),
        ROOT,
    )
    assert outcomes(found) == ["root a a1 a2", "root a"]
    assert [found.group(message) for message in everything(found)] == ["root"] * 4


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"lang": "de"}, "another language"),
        ({"lang": None}, "another language"),
        ({"deleted": True}, "deleted message"),
        ({"review_result": False}, "failed review"),
        ({"text": " \n"}, "empty assistant message"),
    ],
)
def test_one_excluded_message_on_the_path_drops_the_sample(fields: Row, reason: str):
    found = plant(
        ROOT,
        row("a", "root", "assistant", **fields),
        row("a1", "a", "prompter"),
        row("a2", "a1", "assistant"),
    )
    assert outcomes(found) == [reason, reason]


def test_the_language_all_keeps_every_language():
    rows = [ROOT, *(row("abc"[i], "root", "assistant", rank=i) for i in range(3))]
    rows[1]["lang"] = "de"
    everywhere, english = plant(*rows, lang=ALL), plant(*rows)
    assert outcomes(everywhere, best=True)[:2] == ["root a", "not the best-ranked reply"]
    assert outcomes(english, best=True)[:2] == ["another language", "root b"]
    assert pairs(everywhere) == {"root": "a > c"}
    assert pairs(english) == {"root": "b > c"}


def test_a_missing_review_is_not_a_failed_review():
    assert outcomes(plant(ROOT, row("a", "root", "assistant", review_result=None))) == ["root a"]


@pytest.mark.parametrize(
    "rows",
    [
        [row("a", "gone", "assistant")],
        [row("a", "a", "assistant")],
        [row("a", "b", "assistant"), row("b", "a", "prompter")],
        [row("a", "b", "assistant"), row("b", "c", "prompter"), row("c", "b", "assistant")],
        [row("a", "b", "assistant"), row("b", "gone", "prompter")],
    ],
    ids=["orphan", "self-parent", "circle", "into a circle", "below an orphan"],
)
def test_a_message_without_a_path_to_a_root_affects_no_other(rows: list[Row]):
    found = plant(*rows, ROOT, row("kept", "root", "assistant"))
    assert found.path(message(found, "a")) == []
    assert samples(found)["a"] == "no whole path to a root"
    assert found.group(message(found, "a")) == "a"
    assert samples(found)["kept"] == "root kept"
    assert [thread.last.id for thread in found.reference()] == ["kept"]
    assert pairs(found) == {"root": "no ranked sibling"}


def test_the_group_is_the_named_tree_or_else_the_id_of_the_root():
    found = plant(
        ROOT,
        row("a", "root", "assistant"),
        row("b", "a", "prompter", message_tree_id=None),
        row("c", "b", "assistant", message_tree_id=""),
        row("d", "root", "assistant", message_tree_id="named"),
    )
    groups = {message.id: found.group(message) for message in everything(found)}
    assert groups == {**dict.fromkeys(("root", "a", "b", "c"), "root"), "d": "named"}


def test_only_paths_of_best_ranked_replies_are_best():
    found = plant(
        ROOT,
        row("deleted", "root", "assistant", rank=0, deleted=True),
        row("foreign", "root", "assistant", rank=0, lang="de"),
        row("failed", "root", "assistant", rank=0, review_result=False),
        row("best", "root", "assistant", rank=1),
        row("as-good", "root", "assistant", rank=1.0),
        row("worse", "root", "assistant", rank=2),
        row("unranked", "root", "assistant"),
        row("question", "worse", "prompter"),
        row("only", "question", "assistant"),
        row("next", "best", "prompter"),
        row("alone", "next", "assistant"),
    )
    sibling = "not the best-ranked reply"
    unwanted = ["deleted message", "another language", "failed review"]
    kept = ["root best", "root as-good", sibling, sibling, sibling, "root best next alone"]
    assert outcomes(found, best=True) == unwanted + kept


def test_all_replies_are_best_if_none_has_a_rank():
    found = plant(ROOT, row("a", "root", "assistant"), row("b", "root", "assistant", rank="first"))
    assert outcomes(found, best=True) == ["root a", "root b"]


def ranked(*ranks: Any) -> list[Row]:
    """Return replies to the root, named by their letters, with ranks."""
    return [row("abcdef"[i], "root", "assistant", rank=rank) for i, rank in enumerate(ranks)]


@pytest.mark.parametrize(
    ("replies", "found"),
    [
        (ranked(1, 0), "b > a"),
        (ranked(2, 0, 1), "b > a"),
        (ranked(3, None, 7.5, math.nan), "a > c"),
        (ranked(-1, 10**400, 5), "a > c"),
        (ranked(0, 1, 1, 2), "a > d"),
        (ranked(0, 0), "rank tie"),
        (ranked(0, 0, 1), "rank tie"),
        (ranked(0, 1, 1), "rank tie"),
        (ranked(0), "no ranked sibling"),
        (ranked(None, None), "no ranked sibling"),
        (ranked(0, None), "no ranked sibling"),
        (ranked(0, math.inf), "no ranked sibling"),
        (ranked(0, True, "1"), "no ranked sibling"),
        ([*ranked(1), row("b", "root", "assistant", rank=0, deleted=True)], "no ranked sibling"),
        ([*ranked(1, 2), row("c", "root", "assistant", rank=1, lang="de")], "a > b"),
        ([*ranked(1, 2), row("c", "root", "assistant", rank=3, review_result=False)], "a > b"),
        ([*ranked(1, 2), row("c", "root", "prompter", rank=0)], "a > b"),
        ([*ranked(1), row("b", "root", "assistant", rank=2, text=" a ")], "replies are the same"),
        ([*ranked(1), row("b", "root", "assistant", rank=2, text=" ")], "empty rejected reply"),
    ],
)
def test_a_pair_is_the_best_ranked_reply_against_the_worst(replies: list[Row], found: str):
    (outcome,) = pairs(plant(*replies, ROOT)).values()
    assert outcome.endswith(found)


def test_ties_and_lone_replies_are_filtered_and_equal_texts_refused():
    twins = [row(name, "q", "assistant", rank=i, text="same") for i, name in enumerate("xy")]
    forest = plant(ROOT, *ranked(0, 0), row("q", "a", "prompter"), *twins)
    kinds = [type(pair).__name__ for pair in preferences(forest).values()]
    assert kinds == ["Filtered", "RowError"]


def test_a_pair_has_the_whole_path_as_its_prompt():
    forest = plant(
        ROOT,
        *ranked(0, 1),
        row("q", "b", "prompter"),
        row("x", "q", "assistant", rank=1),
        row("y", "q", "assistant", rank=0),
    )
    pair = preferences(forest)["q"]
    assert isinstance(pair, Preference)
    assert [message.content for message in pair.prompt.messages] == ["root", "b", "q"]
    assert (pair.chosen, pair.rejected) == ("y", "x")


@pytest.mark.parametrize("fields", [{"lang": "de"}, {"deleted": True}, {"review_result": False}])
def test_there_is_no_pair_if_the_path_or_every_reply_is_excluded(fields: Row):
    assert pairs(plant({**ROOT, **fields}, *ranked(0, 1))) == {}
    assert pairs(plant(ROOT, row("a", "root", "assistant", rank=0, **fields))) == {}


def test_the_reference_set_cuts_a_path_that_ends_with_a_question():
    found = plant(ROOT, row("a", "root", "assistant"), row("a1", "a", "prompter", deleted=True))
    ends = [(one.last.id, [step.id for step in one.path]) for one in found.reference()]
    assert ends == [("a", ["root", "a"]), ("a1", ["root", "a"])]


def thread(length: int) -> list[Row]:
    roles = ("prompter", "assistant")
    return [row(f"{i}", f"{i - 1}" if i else None, roles[i % 2]) for i in range(length)]


@pytest.mark.parametrize("order", [1, -1], ids=["root first", "root last"])
def test_a_path_has_at_most_1000_messages(order: int):
    trees = plant(*thread(3 * LONGEST_PATH)[::order])
    found = outcomes(trees)[::order]
    last = " ".join(str(number) for number in range(LONGEST_PATH))
    assert found[LONGEST_PATH // 2 - 1] == last
    assert set(found[LONGEST_PATH // 2 :]) == {"thread longer than 1,000 messages"}
    assert len(list(trees.reference())) == LONGEST_PATH - 1
    assert len(pairs(trees)) == LONGEST_PATH // 2
    assert {trees.group(message) for message in everything(trees)} == {"0"}


@given(st.data())
def test_on_any_graph_the_paths_are_those_of_plain_steps(data: st.DataObject):
    names = [f"m{i}" for i in range(data.draw(st.integers(1, 8)))]
    parents = [data.draw(st.sampled_from([None, "gone", *names])) for _ in names]
    rows = [row(name, parent, "prompter") for name, parent in zip(names, parents, strict=True)]
    above = dict(zip(names, parents, strict=True))

    def steps(name: str | None) -> list[str]:
        path: list[str] = []
        while name is not None and name in above and name not in path:
            path.append(name)
            name = above[name]
        return path[::-1] if name is None else []

    found = plant(*rows)
    paths = {message.id: [m.id for m in found.path(message)] for message in everything(found)}
    assert paths == {name: steps(name) for name in names}


def exported(rows: list[Row]) -> list[Row]:
    """Return message rows as whole trees, which leave out what the nesting says."""
    below: defaultdict[str | None, list[Row]] = defaultdict(list)
    for entry in rows:
        below[entry["parent_id"]].append(entry)

    def node(entry: Row) -> Row:
        bare = {**entry, "message_tree_id": None, "tree_state": None, "parent_id": None}
        return {**bare, "replies": [node(reply) for reply in below[entry["message_id"]]]}

    return [
        {
            "message_tree_id": root["message_tree_id"],
            "tree_state": root["tree_state"],
            "prompt": node(root),
            "origin": None,
        }
        for root in below[None]
    ]


def test_whole_trees_give_the_samples_that_their_message_rows_give(rows: list[Row], bundled: Trees):
    trees = json.loads(json.dumps(exported(rows)))
    assert all(is_tree(tree) for tree in trees)
    records = [Record("a.jsonl", line, tree) for line, tree in enumerate(trees, 1)]
    nested = plant(*(dict(row) for record in records for row in message_rows(record)))
    found, expected = samples(nested), samples(bundled)
    orphans = expected.keys() - found.keys()  # They are in no tree.
    assert {expected.pop(orphan) for orphan in orphans} == {"no whole path to a root"}
    assert (found, pairs(nested)) == (expected, pairs(bundled))
    groups = {message.id: nested.group(message) for message in everything(nested)}
    assert groups.items() <= {m.id: bundled.group(m) for m in everything(bundled)}.items()


def test_the_first_of_two_messages_with_one_id_stays():
    rows = [ROOT, row("a", "root", "assistant"), row("a", None, "prompter", text="b"), ROOT]
    found = plant(*rows, row("c", "root", "assistant"))
    assert [(message.text, message.line) for message in found.repeated] == [("b", 3), ("root", 4)]
    assert outcomes(found) == ["root a", "root c"]


FIELDS = st.sampled_from(["message_id", "parent_id", "text", "role", "rank", "lang", "deleted"])
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["assistant", "prompter", "en", "\ud83d", "a\0b"])
    | st.lists(st.none())
    | st.dictionaries(st.text(), st.none())
)


@given(st.dictionaries(FIELDS, VALUES))
def test_any_row_is_a_message_or_is_refused(fields: Row):
    try:
        message = parse_message({**ROOT, **fields}, "a.jsonl", 1)
    except RowError:
        return
    assert everything(Trees([message], "en")) == [message]
