"""`gpt2chat eval`, end to end with a small model on real data."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from gpt2chat.cli import app
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.evaluation.evaluate import evaluate, result_path
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.text.tokens import VOCAB
from tests.helpers import tiny_model

FAST = ("--no-speed", "--generations", "0")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def ignore(done: int, total: int, what: str) -> None:
    """Show no progress."""


def saved(folder: Path, fill: float) -> Path:
    """A model folder whose weights are all the same."""
    model = tiny_model()
    for weight in model.parameters():
        weight.data.fill_(fill)
    save_model(model, folder)
    return folder


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def figure(result: dict[str, Any], name: str, column: int = 0) -> float:
    return result["models"][column]["figures"][name]["value"]


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity(tmp_path: Path, tiny_data: Path):
    settings = EvalConfig(
        model=str(saved(tmp_path / "zeros", 0.0)), data=tiny_data, speed=False, generations=0
    )
    result = evaluate(settings, ignore)
    found = result.models[0].figures
    assert found["perplexity"].value == pytest.approx(VOCAB, rel=1e-6)
    counts = result.samples
    text_tokens = counts.reply_tokens - counts.replies
    bits = text_tokens * torch.log2(torch.tensor(float(VOCAB))).item()
    assert found["bits_per_byte"].value == pytest.approx(bits / counts.reply_bytes)
    assert found["preference_accuracy"].value == 0


def test_all_is_measured_by_default_and_written_beside_the_model(model: Path, tiny_data: Path):
    result = run("--ppl", "--model", model, "--data", tiny_data, "--json", "--generations", 2)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((model / "eval.json").read_text())
    measured = printed["models"][0]
    assert 40_000 < figure(printed, "perplexity") < 60_000
    assert measured["speed"]["decode"]["median"] > 0
    assert measured["replies"]["replies"] == 2
    assert measured["flops_context"] == 1024


def test_a_model_against_itself_differs_by_exactly_nothing(model: Path, tiny_data: Path):
    result = run("--model", model, "--against", model, "--data", tiny_data, "--json", *FAST)
    printed = json.loads(result.stdout)
    found = printed["differences"][0]["figures"].values()
    assert {(each["value"], each["low"], each["high"]) for each in found} == {(0, 0, 0)}


def test_several_models_stand_side_by_side(model: Path, tmp_path: Path, tiny_data: Path):
    zeros = saved(tmp_path / "zeros", 0.0)
    result = run("--model", model, "--against", zeros, "--against", model, "--data", tiny_data,
                 "--json", "--limit", 3, *FAST)  # fmt: skip
    printed = json.loads(result.stdout)
    assert [each["model"] for each in printed["models"]] == [str(model), str(zeros), str(model)]
    expected = figure(printed, "perplexity") - figure(printed, "perplexity", 1)
    assert printed["differences"][0]["figures"]["perplexity"]["value"] == pytest.approx(expected)
    assert printed["samples"]["replies"] == printed["samples"]["pairs"] == 3


def test_the_table_has_the_reference_projects_figures_beside_ours(model: Path, tiny_data: Path):
    result = run("--model", model, "--against", model, "--data", tiny_data, *FAST)
    assert result.exit_code == 0, result.output
    for text in ("perplexity of replies", "preference accuracy", "minus", "15.712", "12.889"):
        assert text in result.stdout
    assert "model: " in result.stderr
    assert "model: " not in result.stdout


def test_what_is_not_wanted_is_not_measured(model: Path, tmp_path: Path):
    off = ("--no-ppl", "--no-preferences", "--generations", 0, "--no-speed")
    out = tmp_path / "figures.json"
    result = run("--model", model, "--data", tmp_path / "none", "--out", out, *off)
    assert result.exit_code == 0, result.output
    measured = json.loads(out.read_text())["models"][0]
    assert (measured["figures"], measured["speed"], measured["replies"]) == ({}, None, None)
    assert measured["parameters"] > 0


def test_the_result_never_goes_into_the_bundled_model(tmp_path: Path):
    assert result_path(EvalConfig(model="starter")) == Path("eval.json")
    assert result_path(EvalConfig(model="gpt2")) == Path("eval.json")
    assert result_path(EvalConfig(model=str(tmp_path))) == tmp_path / "eval.json"
    assert result_path(EvalConfig(model="gpt2", out=tmp_path)) == tmp_path / "eval.json"


def test_the_newest_run_is_measured_where_none_is_named(
    tiny_folder: Path, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, "runs/orpo")
    finished = {"command": "orpo", "finished": "2030-01-01T00:00:00+00:00"}
    Path("runs/orpo/result.json").write_text(json.dumps(finished))
    result = run("--data", tiny_data, "--limit", 2, *FAST)
    assert result.exit_code == 0, result.output
    assert "model: runs/orpo (newest finished run)" in result.stderr
    assert Path("runs/orpo/eval.json").exists()


def refused(code: int, *arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert result.stdout == ""
    return lines[0]


def test_without_a_run_the_command_to_type_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert "Type gpt2chat sft first" in refused(4)


def test_an_unfinished_run_is_refused(tmp_path: Path, tiny_data: Path, tiny_folder: Path):
    run_folder = tmp_path / "run"
    (run_folder / "checkpoints").mkdir(parents=True)
    error = refused(4, "--model", tiny_folder, "--against", run_folder, "--data", tiny_data)
    assert "config.json" in error


def test_damaged_weights_are_refused(tmp_path: Path, tiny_data: Path):
    broken = saved(tmp_path / "broken", float("nan"))
    assert "not finite" in refused(4, "--model", broken, "--data", tiny_data, *FAST)
    assert not (broken / "eval.json").exists()


def test_missing_data_is_refused(model: Path, tmp_path: Path):
    assert "gpt2chat prepare" in refused(3, "--model", model, "--data", tmp_path / "none")


def test_data_changed_by_hand_is_refused(model: Path, tmp_path: Path, tiny_data: Path):
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    shard = next((data / "sft").glob("validation-*"))
    shard.write_text(shard.read_text() + "\n")
    assert shard.name in refused(3, "--model", model, "--data", data)


def test_a_model_with_a_short_window_is_refused(tmp_path: Path, tiny_data: Path):
    short = tmp_path / "short"
    save_model(tiny_model(positions=64), short)
    assert "--max-length 64" in refused(4, "--model", short, "--data", tiny_data)


def test_a_result_that_cannot_be_written_is_one_line(model: Path, tmp_path: Path, tiny_data: Path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "eval.json"
    error = refused(6, "--model", model, "--data", tiny_data, "--out", out, "--limit", 2, *FAST)
    assert "Cannot write" in error


def test_a_setting_out_of_range_is_refused():
    assert "--generations" in refused(2, "--model", "starter", "--generations", -1)
