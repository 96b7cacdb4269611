"""All records become jobs, in an order that never changes, each with its shape."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.jobs import Jobs
from gpt2chat.core.data.journal import Journal, Progress
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.data.trees import Branches
from gpt2chat.core.data.work import Job, Records
from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs import records
from gpt2chat.core.inputs.forest import Forest
from gpt2chat.core.inputs.sources import find_sources, open_sources
from tests.helpers import sample_rows

HI = {"prompt": "Hi", "completion": "Hello"}
OFF: dict[str, Any] = {"oasst1": "off", "alpaca": "off", "ultrafeedback": "off"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "CHUNK_ROWS", 4)


def write(name: str, *rows: Any) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def jobs(told: Any = None, **given: Any) -> list[Job]:
    settings = PrepareConfig(**{**OFF, **given})
    opened = list(open_sources(find_sources(settings), streaming=False))
    heard: list[Progress] = [] if told is None else told
    journal = Journal(strict=False, listener=heard.append)
    return list(Jobs(opened, settings, Path(), journal))


def test_each_chunk_is_a_job_with_the_shape_of_its_files_first_record():
    told: list[Progress] = []
    other = {"messages": [{"role": "user", "content": "a"}]}
    made = jobs(told, chat=(write("a.jsonl", *[HI] * 6), write("b.jsonl", "broken", other, HI)))
    tasks = [job.task for job in made]
    assert all(isinstance(task, Records) for task in tasks)
    assert [task.shape.name for task in tasks if isinstance(task, Records) and task.shape] == [
        "prompt-completion", "prompt-completion", "messages",
    ]  # fmt: skip
    assert [job.name for job in made] == ["a.jsonl", "a.jsonl", "b.jsonl"]
    assert len({job.stem for job in made}) == 3
    assert [progress.note for progress in told if progress.note] == [
        "a.jsonl: shape prompt/completion", "b.jsonl: shape messages",
    ]  # fmt: skip


def test_a_forced_shape_is_not_detected():
    row = {"instruction": "Hi", "output": "Hello", "messages": []}
    (job,) = jobs(chat=(write("a.jsonl", row),), shape=("alpaca",))
    assert isinstance(job.task, Records)
    assert job.task.shape is not None
    assert job.task.shape.name == "alpaca"


def test_chunks_before_the_first_readable_record_have_no_shape():
    made = jobs(chat=(write("a.jsonl", *["broken"] * 5, HI),))
    shapes = [job.task.shape for job in made if isinstance(job.task, Records)]
    assert shapes[0] is None
    assert shapes[1] is not None


def test_a_first_record_that_lacks_a_field_does_not_decide_the_shape():
    told: list[Progress] = []
    (job,) = jobs(told, chat=(write("a.jsonl", {"prompt": "Hi", "completion": None}, HI),))
    assert isinstance(job.task, Records)
    assert job.task.shape is not None
    assert job.task.shape.name == "prompt-completion"


def test_a_broken_message_of_a_tree_affects_no_other():
    rows = sample_rows("oasst1.validation.jsonl.gz", 2022)
    first = [row for row in rows if row["message_tree_id"] == rows[0]["message_tree_id"]]
    first[1]["text"] = None
    made = jobs(oasst1=write("trees.jsonl", nested(first)))
    assert isinstance(made[0].task, Tally)
    assert made[0].task.dropped == {"text is not text": 1}
    with Forest(Path("oasst1-train.sqlite")) as forest:
        assert len(forest) == len(first) - 1


def test_jobs_know_the_share_that_has_been_read():
    shares = [job.done for job in jobs(chat=(write("a.jsonl", *[HI] * 10),
                                             write("b.jsonl", *[HI] * 10)))]  # fmt: skip
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert 0 < shares[0] < 0.5


def test_trees_are_read_first_and_then_followed_by_their_replies_and_paths():
    file = write("oasst1.jsonl", *sample_rows("oasst1.validation.jsonl.gz", 10))
    made = jobs(oasst1=file, oasst1_pairs=True)
    tallies = [job.task for job in made if isinstance(job.task, Tally)]
    assert [tally.records for tally in tallies] == [4, 4, 2]
    branches = [job.task for job in made if isinstance(job.task, Branches)]
    assert [task.what for task in branches] == ["replies", "reference", "pairs"]
    with Forest(branches[0].forest) as forest:
        assert len(forest) == 10
    assert made[-1].done == pytest.approx(1)


def nested(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message rows of one tree as the tree export has them."""
    nodes = {row["message_id"]: {**row, "replies": []} for row in rows}
    root: dict[str, Any] = {}
    for row in rows:
        if row["parent_id"]:
            nodes[row["parent_id"]]["replies"].append(nodes[row["message_id"]])
        else:
            root = nodes[row["message_id"]]
    return {"message_tree_id": root["message_id"], "tree_state": "ready", "prompt": root}


def test_whole_trees_are_read_as_their_message_rows():
    rows = sample_rows("oasst1.validation.jsonl.gz", 2022)
    first = [row for row in rows if row["message_tree_id"] == rows[0]["message_tree_id"]]
    jobs(oasst1=write("trees.jsonl", nested(first)))
    with Forest(Path("oasst1-train.sqlite")) as forest:
        found = {message.id: message.text for message in forest.messages(0, len(forest))}
    assert found == {row["message_id"]: row["text"] for row in first}


def test_a_repeated_message_is_dropped_with_its_line():
    row = sample_rows("oasst1.validation.jsonl.gz", 1)[0]
    made = jobs(oasst1=write("a.jsonl", row, row))
    assert isinstance(made[0].task, Tally)
    assert made[0].task.dropped == {"message id seen before": 1}
    assert json.loads(made[0].stem.with_suffix(".dropped").read_text())["line"] == 2


@pytest.mark.parametrize("flag", ["chat", "oasst1"])
def test_an_empty_file_is_refused(flag: str):
    Path("a.jsonl").touch()
    with pytest.raises(DataError, match="a.jsonl is empty"):
        jobs(**{flag: ("a.jsonl",) if flag == "chat" else "a.jsonl"})


def test_trees_given_as_conversations_are_refused():
    tree = {"message_tree_id": "t", "prompt": {"text": "Hi"}}
    with pytest.raises(DataError, match="`oasst1`"):
        jobs(chat=(write("a.jsonl", tree),))
