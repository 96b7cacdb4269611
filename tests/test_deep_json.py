"""JSON of any depth in any file that is read is an error of ours, or of no consequence."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2chat.core.chat.chats import latest_chat, read_chat
from gpt2chat.core.chat.prompts import read_prompts
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.data.shards import manifest_text, read_manifest, read_samples
from gpt2chat.core.data.store import Store
from gpt2chat.core.errors import CheckpointError, DataError, Gpt2ChatError
from gpt2chat.core.evaluation.results import read_results
from gpt2chat.core.files import json_text
from gpt2chat.core.model.load import load_model
from gpt2chat.core.model.names import resolve_model
from gpt2chat.core.model.weights import read_weights
from gpt2chat.core.runs import list_runs, newest_run
from gpt2chat.core.training.lineage import ancestors
from gpt2chat.core.training.metrics import read_lines
from tests.helpers import ignore
from tests.test_runs import finished, open_at, settings_of, unfinished

LEVELS = pytest.mark.parametrize("levels", [90, 300, 480, 960, 5_000, 100_000])
"""Python reads up to a thousand levels; what walks over the value may give up far earlier."""


def nested(levels: int, key: str = "extra", brackets: str = "[]") -> str:
    """Return the text of a field that holds lists, or objects, within each other."""
    opening = "[" if brackets == "[]" else '{"a":'
    return f'"{key}": {opening * levels}{1}{brackets[1] * levels}'


def with_field(path: Path, field: str) -> None:
    """Put a field in front of a JSON object's others."""
    path.write_text(path.read_text("utf-8").replace("{", "{" + field + ", ", 1), "utf-8")


def outcome(do: Callable[[], object]) -> Gpt2ChatError | None:
    try:
        do()
    except Gpt2ChatError as error:
        return error
    return None


@LEVELS
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_record_is_dropped_and_the_others_stay(tmp_path: Path, levels: int, name: str):
    row = '{"prompt": "What is %d?", "completion": "It is %d."}'
    rows = [row % (number, number) for number in range(3)]
    rows.insert(1, row[:-1] % (7, 7) + ", " + nested(levels) + "}")
    text = "\n".join(rows) if name == "a.jsonl" else f"[{', '.join(rows)}]"
    (tmp_path / name).write_text(text)
    settings = PrepareConfig(
        only=True, chat=(str(tmp_path / name),), holdout=0, out=tmp_path / "data"
    )
    error = outcome(lambda: prepare(settings, ignore))
    if error is None:
        assert len(read_samples(tmp_path / "data", "train")) in (3, 4)
    else:
        assert isinstance(error, DataError)
        assert name == "a.json"


@LEVELS
@pytest.mark.parametrize("field", ["settings", "counts", "dropped", "extra"])
def test_a_manifest(tiny_data: Path, tmp_path: Path, levels: int, field: str):
    values = json.loads((tiny_data / "manifest.json").read_text())
    values.pop(field, None)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(values))
    with_field(path, nested(levels, field, "{}"))
    error = outcome(lambda: manifest_text(read_manifest(tmp_path)))
    assert error is None or isinstance(error, DataError)


@LEVELS
def test_a_line_of_a_shard(tiny_data: Path, tmp_path: Path, levels: int):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    shard = next((data / "sft").glob("train-*"))
    before = hashlib.sha256(shard.read_bytes()).hexdigest()
    with_field(shard, nested(levels))
    after = hashlib.sha256(shard.read_bytes()).hexdigest()
    manifest = data / "manifest.json"
    manifest.write_text(manifest.read_text().replace(before, after))
    error = outcome(lambda: read_samples(data, "train"))
    assert error is None or shard.name in str(error)


@LEVELS
@pytest.mark.parametrize("name", ["run.toml", "result.json", "metrics.jsonl"])
def test_a_file_of_a_finished_run(tmp_path: Path, levels: int, name: str):
    folder = finished(tmp_path / "a").folder
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    finished(tmp_path / "b")
    if name == "run.toml":
        (folder / name).write_text(f"data = {'[' * levels}{']' * levels}\n")
    else:
        with_field(folder / name, nested(levels))
    for run in list_runs(tmp_path):
        json_text(run.problem)
    newest_run(["sft"], tmp_path)
    ancestors(str(folder))
    error = outcome(lambda: read_lines(folder / "metrics.jsonl"))
    assert (error is None) == (name != "metrics.jsonl")


@pytest.mark.parametrize("value", ["3", "null", "[]", "{}", '""'])
def test_a_result_without_a_date_is_not_the_newest(tmp_path: Path, value: str):
    newest = finished(tmp_path / "a").folder
    (finished(tmp_path / "b").folder / "result.json").write_text(
        f'{{"command": "sft", "finished": {value}}}'
    )
    assert newest_run(["sft"], tmp_path) == newest


@LEVELS
@pytest.mark.parametrize("name", ["started.json", "sealed.json", "trainer_state.json"])
def test_a_file_of_a_checkpoint(tmp_path: Path, levels: int, name: str):
    run = unfinished(tmp_path / "sft", 5)
    checkpoint = run.checkpoints / "checkpoint-5"
    with_field((run.checkpoints if name == "started.json" else checkpoint) / name, nested(levels))
    if name == "trainer_state.json":
        run.seal(checkpoint)
    list_runs(tmp_path)
    outcome(lambda: open_at(settings_of(run, resume="auto")))
    outcome(lambda: open_at(settings_of(run, overwrite=True)))


@LEVELS
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_file_of_a_model(tiny_folder: Path, tmp_path: Path, levels: int, name: str):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    if not (folder / name).exists():
        (folder / name).write_text('{"a": 1}')
    with_field(folder / name, nested(levels))
    for error in (
        outcome(lambda: load_model(str(folder))),
        outcome(lambda: read_weights(resolve_model(str(folder)))),
    ):
        assert error is None or isinstance(error, CheckpointError)


@LEVELS
def test_a_saved_chat_and_a_prompt(tmp_path: Path, levels: int):
    messages = '"messages": [{"role": "user", "content": "Hi"}]'
    text = f"{{{messages}, {nested(levels)}}}"
    path = tmp_path / "2026-01-01T00-00-00.json"
    path.write_text(text)
    for error in (
        outcome(lambda: read_chat(path)),
        outcome(lambda: read_prompts(path)),
        outcome(lambda: latest_chat(tmp_path)),
    ):
        assert error is None or isinstance(error, DataError)


@LEVELS
def test_an_evaluation(tmp_path: Path, levels: int):
    path = tmp_path / "eval.json"
    path.write_text(f'{{"evaluations": [{{{nested(levels)}}}]}}')
    outcome(lambda: json_text(read_results(path)))


@LEVELS
def test_a_part_of_an_earlier_prepare(tmp_path: Path, levels: int):
    (tmp_path / "chunks").write_text(f'{{"sizes": {{"x": 1}}, {nested(levels, "rows")}}}\n')
    assert Store(tmp_path).parts == []
