"""`gpt2chat prepare` as a user meets it: what it writes, what it says, what it refuses."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpt2chat.cli import app
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data import prepare as prepare_module
from gpt2chat.core.data.prepare import PrepareResult, Progress, prepare
from gpt2chat.core.data.shards import read_manifest, read_pairs, read_samples
from gpt2chat.core.errors import ConfigError, DataError, Interrupted
from gpt2chat.core.text.tokens import encode_conversations
from tests.helpers import ignore, sample_rows

OFF = ("--oasst1", "off", "--alpaca", "off", "--ultrafeedback", "off")
HI: dict[str, Any] = {"prompt": "Hi", "completion": "Hello"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> PrepareResult:
    """What `prepare --sample` writes."""
    out = tmp_path_factory.mktemp("sample") / "data"
    return prepare(PrepareConfig(sample=True, out=out), ignore)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["prepare", *arguments])


def write(name: str, *rows: dict[str, Any] | str) -> str:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    Path(name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return name


def questions(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {n} + 1?", "completion": f"{n + 1}"} for n in range(number)]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_the_sample_has_the_rows_of_its_four_files(sample: PrepareResult):
    manifest = sample.manifest
    assert manifest.counts == {
        "sft": {
            "oasst1": {"train": 554, "validation": 1165},
            "instructions": {"train": 1099},
        },
        "preference": {"ultrafeedback": {"train": 626, "validation": 154}},
        "reference": {"oasst1": {"validation": 1831}},
    }
    assert manifest.dropped["ultrafeedback"] == {"score tie": 110, "longer than the window": 104}
    assert sum(manifest.dropped["ultrafeedback"].values()) + 626 + 154 == 994
    assert manifest.dropped["oasst1"]["no whole path to a root"] == 2


def test_every_row_of_the_sample_fits_the_window_and_its_counts_are_true(sample: PrepareResult):
    for split in ("train", "validation"):
        samples = read_samples(sample.out, split)
        encoded = encode_conversations(sample.conversation for sample in samples)
        assert max(map(len, encoded)) <= 1024
        tokens = sample.manifest.tokens["sft"][split]
        assert sum(one.prompt_length for one in encoded) == tokens["prompt"]
        assert sum(map(len, encoded)) == tokens["prompt"] + tokens["trained"]
        lengths = sample.manifest.lengths["sft"][split].values()
        assert sum(sum(bars["prompt"]) for bars in lengths) == len(samples)
        assert sum(sum(bars["reply"]) for bars in lengths) == len(samples)


def test_ids_are_unique_and_no_validation_row_is_in_training(sample: PrepareResult):
    train, validation = (read_samples(sample.out, split) for split in ("train", "validation"))
    ids = [one.id for one in (*train, *validation)]
    assert len(ids) == len(set(ids))
    exchanges = [
        {(one.conversation.user, one.conversation.reply) for one in split}
        for split in (train, validation)
    ]
    assert not exchanges[0] & exchanges[1]


def test_no_prompt_of_a_pair_is_in_both_splits(sample: PrepareResult):
    prompts = [
        {pair.preference.prompt for pair in read_pairs(sample.out, split)}
        for split in ("train", "validation")
    ]
    assert prompts[0]
    assert not prompts[0] & prompts[1]


def test_the_reference_set_keeps_long_and_repeated_conversations(sample: PrepareResult):
    conversations = [
        one.conversation for one in read_samples(sample.out, "validation", "reference")
    ]
    assert len(conversations) == 1831
    assert len(set(conversations)) < 1831
    assert max(map(len, encode_conversations(conversations))) > 1024


def test_every_reply_of_oasst1_is_kept_or_counted_once():
    file = "oasst1.jsonl"
    write(file, *sample_rows("oasst1.validation.jsonl.gz", 2022))
    result = prepare(config(oasst1=file, holdout=0.3), ignore)
    kept = sum(result.manifest.counts["sft"]["oasst1"].values())
    assert kept + sum(result.manifest.dropped["oasst1"].values()) == 1243
    groups = [{one.group for one in read_samples(result.out, split)}
              for split in ("train", "validation")]  # fmt: skip
    assert not groups[0] & groups[1]


def config(**settings: Any) -> PrepareConfig:
    off: dict[str, Any] = {"oasst1": "off", "alpaca": "off", "ultrafeedback": "off"}
    return PrepareConfig(**{**off, **settings})


def test_the_same_input_gives_the_same_bytes_and_another_seed_another_order():
    files = (write("chat.jsonl", *questions(40), "broken"),)
    trees: list[dict[str, bytes]] = []
    for seed in (0, 0, 1):
        trees.append(tree(prepare(config(chat=files, seed=seed, holdout=0), ignore).out))
    assert trees[0] == trees[1]
    shard = "sft/train-00000-of-00001.jsonl"
    assert trees[0][shard] != trees[2][shard]
    assert sorted(trees[0][shard].split(b"\n")) == sorted(trees[2][shard].split(b"\n"))


def test_the_result_is_on_stdout_and_the_notes_are_on_stderr():
    result = invoke(*OFF, "--chat", write("my.jsonl", *questions(20)), "--out", "d")
    assert result.exit_code == 0
    assert (
        result.stderr
        == "my.jsonl: my.jsonl (train), 5% held out\nmy.jsonl: shape prompt/completion\n"
    )
    assert "Written: d. Next: gpt2chat sft --data d" in result.stdout


def test_json_is_the_result_for_other_programs():
    result = invoke(*OFF, "--chat", write("my.jsonl", *questions(5)), "--holdout", "0", "--json")
    assert json.loads(result.stdout)["manifest"]["counts"] == {"sft": {"my.jsonl": {"train": 5}}}


def test_show_prints_trained_and_untrained_tokens_in_two_colours():
    write("my.jsonl", HI)
    command = [sys.executable, "-m", "gpt2chat", "prepare", *OFF, "--chat", "my.jsonl"]
    environment = {**os.environ, "FORCE_COLOR": "1", "NO_COLOR": "", "TERM": "xterm"}
    process = subprocess.run(
        [*command, "--holdout", "0", "--show", "3"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert "\x1b[32mHello<|eot_id|>\x1b[0m" in process.stdout
    assert "\x1b[90mHi<|eot_id|>" in process.stdout


def test_the_samples_that_show_prints_can_be_picked():
    flags = (*OFF, "--chat", write("my.jsonl", HI, *questions(3)), "--holdout", "0", "--show", "9")
    found = invoke(*flags, "--pick", "source=my.jsonl", "--pick", "what is 2").stdout
    assert "What is 2 + 1?" in found
    assert "What is 1 + 1?" not in found
    assert "--pick" in invoke(*flags, "--pick", "id=no").stderr


def test_duplicates_and_validation_rows_are_removed_from_training():
    train = write("train.jsonl", *questions(6), *questions(2))
    valid = write("valid.jsonl", questions(1)[0], questions(1)[0])
    result = prepare(config(chat=(train, valid)), ignore)
    assert result.manifest.counts["sft"] == {
        "train.jsonl": {"train": 5},
        "valid.jsonl": {"validation": 1},
    }
    assert result.manifest.dropped == {
        "train.jsonl": {"duplicate": 2, "also in validation": 1},
        "valid.jsonl": {"duplicate": 1},
    }


def test_a_row_longer_than_the_window_loses_early_turns_or_is_dropped():
    turns = [{"role": role, "content": role * 10} for role in ("user", "assistant") * 8]
    rows = ({"messages": turns}, {"prompt": "Hi", "completion": "word " * 200})
    file = write("chat.jsonl", rows[0]), write("long.jsonl", rows[1])
    result = prepare(config(chat=file, max_length=64, holdout=0), ignore)
    # Of eight replies in a row, all but the first lose their history, and are alike without it.
    assert result.manifest.counts["sft"] == {"chat.jsonl": {"train": 1}}
    assert result.manifest.dropped == {
        "chat.jsonl": {"duplicate": 7},
        "long.jsonl": {"longer than the window": 1},
    }
    assert result.manifest.window == 64


def test_a_broken_record_is_listed_with_its_line_and_the_rest_is_used():
    write("chat.jsonl", HI, '{"prompt": "Hi', {"prompt": "Hi", "completion": ""})
    result = invoke(*OFF, "--chat", "chat.jsonl", "--holdout", "0")
    assert result.exit_code == 0
    rejected = listed(Path("data"))
    assert [(row["file"], row["line"]) for row in rejected] == [
        ("chat.jsonl", 2),
        ("chat.jsonl", 3),
    ]
    assert rejected[0]["text"] == '{"prompt": "Hi'
    assert rejected[1]["reason"] == "empty assistant message"


def listed(data: Path) -> list[dict[str, Any]]:
    lines = (data / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def failure(result: Any, code: int, *said: str) -> None:
    """Assert that a command ended with one line that says this, and wrote nothing."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert all(text in line for text in said), line
    assert not Path("data").exists()
    assert not list(Path().glob(".data*"))


def test_strict_stops_at_the_first_broken_record():
    write("chat.jsonl", HI, '{"prompt": "Hi')
    result = invoke(*OFF, "--chat", "chat.jsonl", "--strict")
    failure(result, 3, "chat.jsonl, line 2: not JSON")


@pytest.mark.parametrize(
    ("row", "flag", "said"),
    [
        ({"text": "Hi"}, "--chat", ("fields text", "prompt/completion")),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "--chat", ("with --preference",)),
        ({"message_id": "1", "text": "Hi", "role": "prompter"}, "--chat", ("with --oasst1",)),
        (HI, "--preference", ("with --chat",)),
        (HI, "--oasst1", ("with --chat",)),
        ({}, "--chat", ("fields none",)),
    ],
)
def test_an_unknown_shape_is_refused_with_its_line_and_the_known_shapes(
    row: dict[str, Any], flag: str, said: tuple[str, ...]
):
    result = invoke(*OFF, flag, write("a.jsonl", "broken", row))
    failure(result, 3, "a.jsonl, line 2: unknown shape", *said)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((), "my.jsonl is empty"),
        (("broken", "{"), "none of its 2 records can be used. my.jsonl, line 1: not JSON"),
        (({"prompt": "Hi", "completion": ""},), "my.jsonl, line 1: empty assistant message"),
    ],
)
def test_a_file_without_a_usable_record_is_refused(rows: tuple[Any, ...], said: str):
    failure(invoke(*OFF, "--chat", write("my.jsonl", *rows)), 3, said)


def test_a_missing_file_is_named_with_its_flag():
    failure(invoke(*OFF, "--preference", "no.jsonl"), 3, "--preference no.jsonl: there is no such")


def test_everything_off_is_refused():
    failure(invoke(*OFF), 2, "Every source is off")


def test_the_sample_and_a_source_exclude_each_other():
    failure(invoke("--sample", "--alpaca", "off"), 2, "--sample")


def test_nothing_left_to_train_on_is_refused_with_the_reasons():
    write("oasst1.jsonl", *sample_rows("oasst1.validation.jsonl.gz", 20))
    result = invoke(*OFF, "--oasst1", "oasst1.jsonl", "--lang", "fi")
    failure(result, 3, "No training rows are left", "another language")


def test_a_sample_longer_than_the_window_alone_leaves_nothing():
    file = write("my.jsonl", {"prompt": "Hi", "completion": "word " * 2000})
    failure(invoke(*OFF, "--chat", file, "--holdout", "0"), 3, "1 longer than the window")


def test_a_folder_with_other_files_is_not_replaced():
    chat = write("chat.jsonl", HI)
    Path("thesis").mkdir()
    write("thesis/chapter.txt", "words")
    result = invoke(*OFF, "--chat", chat, "--out", "thesis")
    failure(result, 2, "chapter.txt", "--out")
    assert Path("thesis/chapter.txt").read_text() == "words\n"
    assert invoke(*OFF, "--chat", chat, "--out", ".").exit_code == 2


def test_a_file_added_next_to_the_shards_is_not_lost():
    chat = write("chat.jsonl", HI)
    prepare(config(chat=(chat,), holdout=0), ignore)
    write("data/notes.txt", "words")
    result = invoke(*OFF, "--chat", chat)
    assert result.exit_code == 2
    assert "notes.txt" in result.stderr
    assert Path("data/notes.txt").exists()


@pytest.mark.parametrize("place", ["sft/mine.jsonl", "sft/more/train.txt", "tokens/a/b", "runs"])
def test_a_file_added_below_the_shards_is_not_lost(place: str):
    settings = config(chat=(write("chat.jsonl", HI),), holdout=0)
    mine = prepare(settings, ignore).out / place
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.touch()
    with pytest.raises(ConfigError, match=place.split("/")[0]) as refused:
        prepare(settings, ignore)
    assert refused.value.setting == "out"
    assert mine.exists()


def test_a_file_added_to_the_folder_during_the_run_is_not_lost():
    settings = config(chat=(write("chat.jsonl", HI),), holdout=0)
    prepare(settings, ignore)

    def put(_: Progress) -> None:
        Path("data/notes.txt").write_text("words")

    with pytest.raises(ConfigError, match="notes"):
        prepare(settings, put)
    assert Path("data/notes.txt").exists()


def test_links_in_a_data_folder_are_not_replaced():
    settings = config(chat=(write("chat.jsonl", HI),), holdout=0)
    prepare(settings, ignore)
    Path("home").mkdir()
    Path("home/thesis").touch()
    Path("data/preference").symlink_to(Path("home").resolve())
    with pytest.raises(ConfigError, match="preference"):
        prepare(settings, ignore)
    assert Path("home/thesis").exists()


def test_a_folder_of_an_earlier_version_is_replaced():
    prepare(config(chat=(write("chat.jsonl", HI),), holdout=0), ignore)
    Path("data/.tokens").mkdir()
    Path("data/.tokens/reply-train-0123456789abcdef.safetensors").touch()
    result = invoke(*OFF, "--chat", write("chat.jsonl", *questions(2)), "--holdout", "0")
    assert result.exit_code == 0, result.output
    assert len(read_samples(Path("data"), "train")) == 2
    assert not Path("data/.tokens").exists()


def test_a_folder_that_cannot_be_written_is_one_line():
    chat = write("chat.jsonl", HI)
    failure(invoke(*OFF, "--chat", chat, "--out", f"{chat}/data"), 6, "Cannot write", "--out")


def test_a_file_in_place_of_the_folder_is_one_line():
    chat = write("chat.jsonl", HI)
    failure(invoke(*OFF, "--chat", chat, "--out", chat), 6, "Cannot write", "--out")
    assert Path(chat).read_text() == json.dumps(HI) + "\n"


def test_a_full_disk_leaves_the_old_folder(monkeypatch: pytest.MonkeyPatch):
    settings = config(chat=(write("chat.jsonl", *questions(5)),), holdout=0)
    before = tree(prepare(settings, ignore).out)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare_module, "write_shards", full)
    result = invoke(*OFF, "--chat", "chat.jsonl")
    assert result.exit_code == 6
    assert "No space left to write data" in result.stderr
    assert tree(Path("data")) == before


def test_ctrl_c_leaves_only_the_old_folder():
    settings = config(chat=(write("chat.jsonl", *questions(5)),), holdout=0)
    before = tree(prepare(settings, ignore).out)

    def press(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="resume"):
        prepare(settings, press)
    assert tree(Path("data")) == before
    assert sorted(path.name for path in Path().iterdir()) == ["chat.jsonl", "data"]


@pytest.mark.parametrize("name", [b"caf\xe9.jsonl", "🙂.jsonl".encode()])
def test_a_file_may_have_any_name_that_the_system_allows(name: bytes):
    file = write(os.fsdecode(name), *questions(5))
    result = prepare(config(chat=(file,), holdout=0, mix=(f"{file}=2",)), ignore)
    assert read_manifest(result.out).inputs[0].name == file
    assert {sample.source for sample in read_samples(result.out, "train")} == {file}


PEBBLE = "I am Pebble, a small language model that the people of the village library trained."
ASKED = ("Who are you?", "What are you?", "Tell me who you are.", "What is your name?",
         "Please introduce yourself.", "Introduce yourself?", "And who are you?")  # fmt: skip


def test_questions_that_have_one_answer_are_all_kept():
    file = write("me.jsonl", *({"prompt": asked, "completion": PEBBLE} for asked in ASKED))
    result = prepare(config(chat=(file,), holdout=0.3), ignore)
    assert sum(result.manifest.counts["sft"]["me.jsonl"].values()) == len(ASKED)
    assert result.manifest.dropped == {}


def test_a_near_duplicate_in_own_data_is_listed_with_the_row_it_resembles():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
             {"role": "user", "content": "who are you"},
             {"role": "assistant", "content": PEBBLE}]  # fmt: skip
    file = write("me.jsonl", {"messages": [{**turns[0], "content": ASKED[0]}, turns[3]]},
                 {"messages": turns})  # fmt: skip
    result = prepare(config(chat=(file,), holdout=0), ignore)
    (lost,) = listed(result.out)
    assert (lost["line"], lost["reply"], lost["reason"]) == (2, 2, "near-duplicate")
    assert lost["text"] == PEBBLE
    assert lost["like"] == {"file": "me.jsonl", "line": 1, "reply": 1}
    assert "dedup" in result.notes[-1]


def test_data_for_evaluation_alone_has_no_training_rows():
    for settings in ({"holdout": 1.0, "chat": (write("a.jsonl", *questions(5)),)},
                     {"chat": (write("test.jsonl", *questions(5)),)}):  # fmt: skip
        result = prepare(config(**settings), ignore)
        (splits,) = result.manifest.counts["sft"].values()
        assert splits == {"validation": 5}
        with pytest.raises(DataError, match="no training samples"):
            read_samples(result.out, "train")
    assert "gpt2chat eval" in invoke(*OFF, "--chat", "test.jsonl").stdout


def test_a_holdout_without_rows_is_reported():
    result = invoke("--only", "--chat", write("my.jsonl", *questions(3)), "--holdout", "0.01")
    assert result.exit_code == 0
    assert "my.jsonl: no validation rows" in result.stderr
    assert "--holdout" in result.stderr
