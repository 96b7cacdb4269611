"""Messages lie in a file that follows their paths, ranks and trees."""

import json
import math
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2chat.core.errors import RowError, StorageError
from gpt2chat.core.inputs.forest import CACHED_MESSAGES, LONGEST_PATH, Forest
from gpt2chat.core.inputs.oasst1 import (
    TreeMessage,
    is_tree,
    parse_message,
    to_conversation,
    tree_rows,
)
from gpt2chat.core.text.conversations import Preference
from tests.helpers import ignore, sample_rows

Row = dict[str, Any]
Plant = Callable[..., Forest]
END = sys.maxsize
VALIDATION = "oasst1.validation.jsonl.gz"


def parsed(rows: Iterable[Row]) -> list[TreeMessage]:
    return [parse_message(row, "a.jsonl", line) for line, row in enumerate(rows, start=1)]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return sample_rows(VALIDATION, END)


@pytest.fixture(scope="module")
def bundled(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forest]:
    path = tmp_path_factory.mktemp("bundled") / "validation.sqlite"
    with Forest.write(path, parsed(rows), ignore) as found:
        yield found


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """Makes forests of rows."""
    path = tmp_path / "some.sqlite"
    with ExitStack() as opened:
        yield lambda *rows: opened.enter_context(Forest.write(path, parsed(rows), ignore))


def row(name: str, parent: str | None, role: str, **fields: Any) -> Row:
    lang = {"lang": "en", "deleted": False, "review_result": True, "rank": None}
    return {"message_id": name, "parent_id": parent, "role": role, "text": name, **lang, **fields}


ROOT = row("root", None, "prompter")


def everything(forest: Forest) -> list[TreeMessage]:
    return list(forest.messages(0, END))


def message(forest: Forest, name: str) -> TreeMessage:
    return next(message for message in everything(forest) if message.id == name)


def outcome(forest: Forest, reply: str | TreeMessage, lang: str = "en", best: bool = False) -> str:
    """Return the texts of a reply's sample, or why there is none."""
    reply = message(forest, reply) if isinstance(reply, str) else reply
    try:
        sample = forest.sample(reply, lang, best=best)
    except RowError as error:
        return error.reason
    return " ".join(message.content for message in sample.messages)


def outcomes(forest: Forest, best: bool = False) -> list[str]:
    return [outcome(forest, reply, best=best) for reply in forest.replies(0, END)]


def pairs(forest: Forest, lang: str = "en") -> dict[str, str]:
    """Return what comes of each user message's replies, in a few words."""
    found = {pair.prompter.id: pair.outcome for pair in forest.pairs(lang, 0, END)}
    return {
        name: f"{pair.chosen} > {pair.rejected}" if isinstance(pair, Preference) else pair.reason
        for name, pair in found.items()
    }


def test_the_validation_split_has_1243_replies_in_191_trees_and_1241_have_a_path(bundled: Forest):
    replies = list(bundled.replies(0, END))
    assert (len(bundled), len(replies)) == (2022, 1243)
    assert sum(bool(bundled.path(reply)) for reply in replies) == 1241
    assert len({bundled.group(message) for message in everything(bundled)}) == 191
    assert sum(not bundled.path(message) for message in everything(bundled)) == 3


def test_every_validation_reply_that_is_left_out_has_a_reason(bundled: Forest):
    results = Counter(outcome(bundled, reply)[:40] for reply in bundled.replies(0, END))
    assert results["no whole path to a root"] == 2
    assert results["deleted message"] == 28
    assert results["failed review"] == 28


def test_the_reference_construction_has_1831_conversations(bundled: Forest):
    found = list(bundled.reference("en", 0, END))
    assert len(found) == len({message.id for message, _ in found}) == 1831
    assert all(to_conversation(path).reply for _, path in found)


def test_the_validation_pairs_are_those_of_a_plain_count(bundled: Forest, rows: list[Row]):
    by_id = {row["message_id"]: row for row in rows}
    ranked: defaultdict[str, dict[float, str]] = defaultdict(dict)
    for row in rows:
        if row["role"] == "assistant" and row["rank"] is not None and sound(row, by_id):
            ranked[row["parent_id"]][row["rank"]] = row["text"].strip()
    several = {name: texts for name, texts in ranked.items() if len(texts) > 1}
    expected = {name: (texts[min(texts)], texts[max(texts)]) for name, texts in several.items()}
    found = {pair.prompter.id: pair.outcome for pair in bundled.pairs("en", 0, END)}
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


@pytest.mark.parametrize("size", [1, 7, 500, 2022])
def test_reading_in_chunks_gives_the_same_as_reading_at_once(bundled: Forest, size: int):
    def read(first: int, last: int) -> list[list[object]]:
        pairs = bundled.pairs("en", first, last)
        return [
            list(bundled.messages(first, last)),
            list(bundled.replies(first, last)),
            list(bundled.reference("en", first, last)),
            [(prompter, str(found)) for prompter, found in pairs],
        ]

    parts = [read(first, first + size) for first in range(0, len(bundled), size)]
    assert [list(chain.from_iterable(part)) for part in zip(*parts, strict=True)] == read(0, END)


def test_messages_are_read_back_unchanged_and_in_order(bundled: Forest, rows: list[Row]):
    assert everything(bundled) == parsed(rows)


def test_each_reply_is_one_sample_with_its_path_as_history(plant: Plant):
    found = plant(
        ROOT,
        row("a", "root", "assistant"),
        row("b", "root", "assistant"),
        row("a1", "a", "prompter"),
        row("a2", "a1", "assistant"),
    )
    assert outcomes(found) == ["root a", "root b", "root a a1 a2"]


def test_a_message_may_come_before_its_parent(plant: Plant):
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
def test_one_excluded_message_on_the_path_drops_the_sample(fields: Row, reason: str, plant: Plant):
    found = plant(
        ROOT,
        row("a", "root", "assistant", **fields),
        row("a1", "a", "prompter"),
        row("a2", "a1", "assistant"),
    )
    assert outcomes(found) == [reason, reason]


def test_the_language_all_keeps_every_language(plant: Plant):
    found = plant(
        ROOT,
        row("a", "root", "assistant", lang="de", rank=0),
        row("b", "root", "assistant", rank=1),
        row("c", "root", "assistant", rank=2),
    )
    assert outcome(found, "a", lang="all", best=True) == "root a"
    assert outcome(found, "b", lang="all", best=True) == "not the best-ranked reply"
    assert outcome(found, "b", best=True) == "root b"
    assert pairs(found, "all") == {"root": "a > c"}
    assert pairs(found) == {"root": "b > c"}


def test_a_missing_review_is_not_a_failed_review(plant: Plant):
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
def test_a_message_without_a_path_to_a_root_affects_no_other(rows: list[Row], plant: Plant):
    found = plant(*rows, ROOT, row("kept", "root", "assistant"))
    assert found.path(message(found, "a")) == []
    assert outcome(found, "a") == "no whole path to a root"
    assert found.group(message(found, "a")) == "a"
    assert outcome(found, "kept") == "root kept"
    assert [m.id for m, _ in found.reference("en", 0, END)] == ["kept"]
    assert pairs(found) == {"root": "no ranked sibling"}


def test_the_first_of_two_messages_with_one_id_stays(tmp_path: Path):
    repeated: list[TreeMessage] = []
    rows = [ROOT, row("a", "root", "assistant"), row("a", None, "prompter", text="b"), ROOT]
    more = [*rows, row("c", "root", "assistant")]
    with Forest.write(tmp_path / "some.sqlite", parsed(more), repeated.append) as found:
        assert [(message.text, message.line) for message in repeated] == [("b", 3), ("root", 4)]
        assert outcomes(found) == ["root a", "root c"]
        assert len(found) == 3
        assert [message.id for message in found.messages(2, 3)] == ["c"]


def test_the_group_is_the_named_tree_or_else_the_id_of_the_root(plant: Plant):
    found = plant(
        ROOT,
        row("a", "root", "assistant"),
        row("b", "a", "prompter", message_tree_id=None),
        row("c", "b", "assistant", message_tree_id=""),
        row("d", "root", "assistant", message_tree_id="named"),
    )
    groups = {message.id: found.group(message) for message in everything(found)}
    assert groups == {**dict.fromkeys(("root", "a", "b", "c"), "root"), "d": "named"}


def test_only_paths_of_best_ranked_replies_are_best(plant: Plant):
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


def test_all_replies_are_best_if_none_has_a_rank(plant: Plant):
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
def test_a_pair_is_the_best_ranked_reply_against_the_worst(
    replies: list[Row], found: str, plant: Plant
):
    (outcome,) = pairs(plant(*replies, ROOT)).values()
    assert outcome.endswith(found)


def test_ties_and_lone_replies_are_filtered_and_equal_texts_refused(plant: Plant):
    twins = [row(name, "q", "assistant", rank=i, text="same") for i, name in enumerate("xy")]
    forest = plant(ROOT, *ranked(0, 0), row("q", "a", "prompter"), *twins)
    kinds = [type(pair.outcome).__name__ for pair in forest.pairs("en", 0, END)]
    assert kinds == ["Filtered", "RowError"]


def test_a_pair_has_the_whole_path_as_its_prompt(plant: Plant):
    forest = plant(
        ROOT,
        *ranked(0, 1),
        row("q", "b", "prompter"),
        row("x", "q", "assistant", rank=1),
        row("y", "q", "assistant", rank=0),
    )
    found = [pair.outcome for pair in forest.pairs("en", 1, END)]
    (pair,) = (pair for pair in found if isinstance(pair, Preference))
    assert [message.content for message in pair.prompt.messages] == ["root", "b", "q"]
    assert (pair.chosen, pair.rejected) == ("y", "x")


@pytest.mark.parametrize("fields", [{"lang": "de"}, {"deleted": True}, {"review_result": False}])
def test_there_is_no_pair_if_the_path_or_every_reply_is_excluded(fields: Row, plant: Plant):
    assert pairs(plant({**ROOT, **fields}, *ranked(0, 1))) == {}
    assert pairs(plant(ROOT, row("a", "root", "assistant", rank=0, **fields))) == {}


def test_the_reference_set_cuts_a_path_that_ends_with_a_question(plant: Plant):
    found = plant(ROOT, row("a", "root", "assistant"), row("a1", "a", "prompter", deleted=True))
    ends = [(m.id, [step.id for step in path]) for m, path in found.reference("en", 0, END)]
    assert ends == [("a", ["root", "a"]), ("a1", ["root", "a"])]


def thread(length: int) -> list[Row]:
    roles = ("prompter", "assistant")
    return [row(f"{i}", f"{i - 1}" if i else None, roles[i % 2]) for i in range(length)]


@pytest.mark.parametrize("order", [1, -1], ids=["root first", "root last"])
def test_a_path_has_at_most_1000_messages(order: int, plant: Plant):
    forest = plant(*thread(3 * CACHED_MESSAGES)[::order])
    found = [outcome(forest, reply) for reply in forest.replies(0, END)][::order]
    last = " ".join(str(number) for number in range(LONGEST_PATH))
    assert found[LONGEST_PATH // 2 - 1] == last
    assert set(found[LONGEST_PATH // 2 :]) == {"thread longer than 1,000 messages"}
    assert len(list(forest.reference("en", 0, END))) == LONGEST_PATH - 1
    assert len(pairs(forest)) == LONGEST_PATH // 2
    assert {forest.group(message) for message in everything(forest)} == {"0"}


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

    with (
        TemporaryDirectory() as folder,
        Forest.write(Path(folder) / "some.sqlite", parsed(rows), ignore) as found,
    ):
        paths = {message.id: [m.id for m in found.path(message)] for message in everything(found)}
    assert paths == {name: steps(name) for name in names}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "some.sqlite"

    def broken() -> Iterator[TreeMessage]:
        yield from parsed([row("other", None, "prompter")])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Forest.write(path, broken(), ignore)
    assert list(tmp_path.iterdir()) == []
    Forest.write(path, parsed([ROOT]), ignore).close()
    with pytest.raises(KeyboardInterrupt):
        Forest.write(path, broken(), ignore)
    assert list(tmp_path.iterdir()) == [path]
    with Forest(path) as found:
        assert [message.id for message in everything(found)] == ["root"]


def test_the_partial_file_of_a_killed_run_is_not_used(tmp_path: Path):
    path = tmp_path / "some.sqlite"
    Forest.write(path, parsed(thread(5)), ignore).close()
    path.rename(tmp_path / "some.sqlite.partial")
    with Forest.write(path, parsed([ROOT]), ignore) as found:
        assert [message.id for message in everything(found)] == ["root"]


def test_a_forest_without_messages_is_empty(plant: Plant):
    found = plant()
    assert len(found) == 0
    assert everything(found) == list(found.replies(0, END)) == list(found.pairs("en", 0, END)) == []


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write"):
        Forest.write(tmp_path / "file" / "some.sqlite", [], ignore)


def test_names_of_files_and_folders_may_have_any_characters(tmp_path: Path):
    folder = tmp_path / "a b#c?d%20é"
    folder.mkdir()
    rows = [parse_message(ROOT, "named in Latin-1: \udce9.jsonl", 7)]
    with Forest.write(folder / "some.sqlite", rows, ignore) as found:
        assert everything(found) == rows


@pytest.mark.parametrize("text", ["a\0b", "\0", "é😀\u2028", "'; DROP TABLE messages", "x" * 10**6])
def test_any_text_is_read_back_unchanged(text: str, plant: Plant):
    found = plant({**ROOT, "message_id": text, "text": text}, row("a", text, "assistant"))
    assert [message.text for message in found.path(message(found, "a"))] == [text, "a"]


def test_several_processes_read_one_forest_at_once(plant: Plant, tmp_path: Path):
    plant(*thread(200))
    script = (
        "import sys; from pathlib import Path; from gpt2chat.core.inputs.forest import Forest\n"
        "with Forest(Path(sys.argv[1])) as forest:\n"
        "    print(sum(len(forest.path(m)) for m in forest.messages(0, 200)))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "some.sqlite")]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [reader.communicate()[0] for reader in readers] == [f"{200 * 201 // 2}\n"] * 3


def test_reading_does_not_change_the_file(plant: Plant, tmp_path: Path):
    plant(*thread(20))
    path = tmp_path / "some.sqlite"
    before = path.read_bytes()
    with Forest(path) as found:
        outcomes(found, best=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        everything(found)


def test_the_same_messages_give_the_same_bytes(tmp_path: Path, rows: list[Row]):
    paths = [tmp_path / "a.sqlite", tmp_path / "b.sqlite"]
    for path in paths:
        Forest.write(path, parsed(rows[:300]), ignore).close()
    assert paths[0].read_bytes() == paths[1].read_bytes()


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


def test_whole_trees_give_the_samples_that_their_message_rows_give(
    rows: list[Row], bundled: Forest, plant: Plant
):
    trees = json.loads(json.dumps(exported(rows)))
    assert all(is_tree(tree) for tree in trees)
    nested = plant(*(found for tree in trees for found in tree_rows(tree)))
    samples = {reply.id: outcome(nested, reply) for reply in nested.replies(0, END)}
    expected = {reply.id: outcome(bundled, reply) for reply in bundled.replies(0, END)}
    orphans = expected.keys() - samples.keys()  # they stand in no tree
    assert {expected.pop(orphan) for orphan in orphans} == {"no whole path to a root"}
    assert (samples, pairs(nested)) == (expected, pairs(bundled))
    groups = {message.id: nested.group(message) for message in everything(nested)}
    assert groups.items() <= {m.id: bundled.group(m) for m in everything(bundled)}.items()


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
    with (
        TemporaryDirectory() as folder,
        Forest.write(Path(folder) / "some.sqlite", [message], ignore) as found,
    ):
        assert everything(found) == [message]
