"""`gpt2chat eval`, end to end with a small model on real data."""

import json
import math
import os
import shutil
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from gpt2chat.cli import app
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.data.shards import read_samples
from gpt2chat.core.errors import CheckpointError, ConfigError, DataError, StorageError
from gpt2chat.core.evaluation import scoring
from gpt2chat.core.evaluation.evaluate import evaluate
from gpt2chat.core.evaluation.questions import read_questions
from gpt2chat.core.evaluation.results import Evaluation, read_results, result_path
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.text.tokens import VOCAB, encode_conversation
from tests.helpers import tiny_model

FAST = ("--no-speed", "--generations", "0")


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr("gpt2chat.core.evaluation.replies.MAX_NEW_TOKENS", 8)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


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
        model=str(saved(tmp_path / "zeros", 0.0)),
        data=(str(tiny_data),),
        speed=False,
        generations=0,
    )
    result = evaluate(settings)
    figures = result.models[0].figures
    assert figures["perplexity"].value == pytest.approx(VOCAB, rel=1e-6)
    counts = result.samples
    text_tokens = counts.reply_tokens - counts.replies
    bits = text_tokens * torch.log2(torch.tensor(float(VOCAB))).item()
    assert figures["bits_per_byte"].value == pytest.approx(bits / counts.reply_bytes)
    assert figures["preference_accuracy"].value == 0


def test_figures_equal_those_of_a_slow_loop_in_float64(tmp_path: Path, tiny_data: Path):
    torch.manual_seed(0)
    model = tiny_model()
    for weight in model.parameters():  # larger than at the start, so that losses differ
        weight.data.mul_(4)
    save_model(model, tmp_path / "model")
    figures = measured(tmp_path / "model", tiny_data, limit=None).models[0].figures
    double, samples = model.double(), read_samples(tiny_data, "validation")
    total, text, by_depth, by_token = [], [], defaultdict(list), defaultdict(list)
    for sample in samples:
        ids = encode_conversation(sample.conversation)
        with torch.inference_mode():
            logps = double(torch.tensor([ids.ids])).logits[0].log_softmax(-1)
        for at in range(ids.prompt_length, len(ids)):
            loss, position = -logps[at - 1, ids.ids[at]].item(), at - ids.prompt_length
            total.append(loss)
            text += [loss] if at < len(ids) - 1 else []
            by_depth[min(len(sample.conversation.history) // 2 + 1, 3)].append(loss)
            by_token[1 if position < 16 else 17 if position < 64 else 65].append(loss)
    size = sum(len(sample.conversation.messages[-1].content.encode()) for sample in samples)
    exact = {
        "perplexity": math.exp(np.mean(total)),
        "bits_per_byte": sum(text) / math.log(2) / size,
        **{f"perplexity_turn_{key}": math.exp(np.mean(by_depth[key])) for key in by_depth},
        **{f"perplexity_token_{key}": math.exp(np.mean(by_token[key])) for key in by_token},
    }
    assert {name: figures[name].value for name in exact} == pytest.approx(exact, rel=1e-5)


def test_everything_is_measured_by_default_and_written_to_the_model(model: Path, tiny_data: Path):
    result = run("--ppl", "--model", model, "--data", tiny_data, "--json", "--generations", 2)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert [printed] == read_results(model / "eval.json")
    measured = printed["models"][0]
    assert 40_000 < figure(printed, "perplexity") < 60_000
    assert measured["speed"]["decode"]["median"] > 0
    count = 2 + len(read_questions()[1])
    assert measured["replies"]["replies"] == len(measured["replies"]["texts"]) == count
    assert len(printed["prompts"]) == count
    assert printed["versions"]["questions"] == "1"
    for name in ("reply_stopped", "reply_constraints", "reply_self_bleu", "reply_repetition"):
        assert measured["figures"][name]["low"] is not None
    assert measured["flops_context"] == 1024


def test_a_model_differs_from_itself_by_exactly_0(model: Path, tiny_data: Path):
    result = run("--model", model, "--against", model, "--data", tiny_data, "--json", *FAST)
    printed = json.loads(result.stdout)
    figures = printed["differences"][0]["figures"].values()
    assert {(each["value"], each["low"], each["high"]) for each in figures} == {(0, 0, 0)}


def test_several_models_are_measured_on_the_same_samples(
    model: Path, tmp_path: Path, tiny_data: Path
):
    zeros = saved(tmp_path / "zeros", 0.0)
    result = run("--model", model, "--against", zeros, "--against", model, "--data", tiny_data,
                 "--json", "--limit", 3, *FAST)  # fmt: skip
    printed = json.loads(result.stdout)
    assert [each["model"] for each in printed["models"]] == [str(model), str(zeros), str(model)]
    expected = figure(printed, "perplexity") - figure(printed, "perplexity", 1)
    assert printed["differences"][0]["figures"]["perplexity"]["value"] == pytest.approx(expected)
    assert printed["samples"]["replies"] == printed["samples"]["pairs"] == 3


def test_the_table_has_directions_clear_differences_and_the_figures_of_the_reference_project(
    model: Path, tmp_path: Path, tiny_data: Path
):
    zeros = saved(tmp_path / "zeros", 0.0)
    result = run("--model", model, "--against", zeros, "--data", tiny_data, *FAST)
    assert result.exit_code == 0, result.output
    for text in ("perplexity of replies \u2193", "preference accuracy \u2191", "minus", "15.712"):
        assert text in result.stdout
    clear = [line for line in result.stdout.splitlines() if line.rstrip().endswith(" *")]
    assert any(line.startswith("preference accuracy") for line in clear)
    assert "model: " in result.stderr
    assert "model: " not in result.stdout


def test_the_replies_themselves_are_printed(model: Path, tiny_data: Path):
    result = run("--model", model, "--data", tiny_data, "--no-speed", "--generations", 2,
                 "--limit", 2)  # fmt: skip
    (entry,) = read_results(model / "eval.json")
    assert f"> {entry['prompts'][0][:30]}" in result.stdout
    assert entry["models"][0]["replies"]["texts"][0]["text"][:10] in result.stdout
    assert "[cut by the limit]" in result.stdout


def test_an_accuracy_below_one_half_is_explained(model: Path, tiny_data: Path):
    result = run("--model", model, "--data", tiny_data, *FAST)
    figures = read_results(model / "eval.json")[0]["models"][0]["figures"]
    below = figures["preference_accuracy"]["value"] < 0.5 < figures["preference_longer"]["value"]
    assert ("can be below 0.5" in result.stdout) == below


def test_without_any_figure_no_data_is_needed(model: Path, tmp_path: Path):
    off = ("--no-ppl", "--no-preferences", "--generations", 0, "--no-speed")
    out = tmp_path / "figures.json"
    result = run("--model", model, "--data", tmp_path / "none", "--out", out, *off)
    assert result.exit_code == 0, result.output
    measured = read_results(out)[0]["models"][0]
    assert (measured["figures"], measured["speed"], measured["replies"]) == ({}, None, None)
    assert measured["parameters"] > 0


def test_the_result_never_goes_into_the_bundled_model(tmp_path: Path):
    assert result_path(EvalConfig(model="starter")) == (Path("eval.json"), None)
    assert result_path(EvalConfig(model="gpt2")) == (Path("eval.json"), None)
    assert result_path(EvalConfig(model=str(tmp_path))) == (tmp_path / "eval.json", None)
    settings = EvalConfig(model="gpt2", out=tmp_path)
    assert result_path(settings) == (tmp_path / "eval.json", None)


def test_a_note_says_where_the_result_of_a_read_only_model_is(
    model: Path, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    # Root may write to any folder, so the system's answer is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (model, os.W_OK))  # pyright: ignore
    result = measured(model, tiny_data)
    assert result.path == Path("eval.json")
    assert f"{model} is read-only" in result.notes[-1]
    assert not (model / "eval.json").exists()


def measured(model: Path, data: Path, **settings: Any) -> Evaluation:
    fast: dict[str, Any] = {"limit": 2, "speed": False, "generations": 0} | settings
    return evaluate(EvalConfig(model=str(model), data=(str(data),), **fast))


def test_results_with_other_settings_stay_and_those_with_the_same_are_replaced(
    model: Path, tiny_data: Path
):
    for limit in (None, 2, 3, 2):
        measured(model, tiny_data, limit=limit)
    entries = read_results(model / "eval.json")
    assert [entry["settings"]["limit"] for entry in entries] == [2, 3, None]


def test_results_of_other_weights_in_the_same_folder_stay(model: Path, tiny_data: Path):
    measured(model, tiny_data)
    save_model(tiny_model(seed=1), model)
    measured(model, tiny_data)
    first, second = read_results(model / "eval.json")
    assert first["models"][0]["sha256"] != second["models"][0]["sha256"]


def test_an_interrupted_evaluation_continues_to_the_same_result(
    model: Path, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scoring, "CPU_BATCH", 500)
    fast: dict[str, Any] = {"data": (str(tiny_data),), "speed": False, "generations": 0}
    whole = evaluate(EvalConfig(model=str(model), out=tmp_path / "whole.json", **fast))
    settings = EvalConfig(model=str(model), **fast)

    def interrupt(done: int, total: int, what: str) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, interrupt)
    assert not (model / "eval.json").exists()
    reports: list[int] = []
    again = evaluate(settings, lambda done, total, what: reports.append(done))
    assert reports[0] > 0
    # The batches differ, and with them the last bits.
    for name, figure in whole.models[0].figures.items():
        assert again.models[0].figures[name].value == pytest.approx(figure.value, rel=1e-5)


def test_ctrl_c_says_that_the_same_command_continues(
    model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
):
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpt2chat.core.evaluation.evaluate.token_losses", pressed)
    result = run("--model", model, "--data", tiny_data, *FAST)
    assert result.exit_code == 130
    assert "continues" in result.stderr


def test_progress_is_a_line_now_and_then_without_a_terminal(
    model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments = ("--model", model, "--data", tiny_data, "--limit", 2, "--no-speed")
    result = run(*arguments, "--generations", 1)
    for work in ("tokens scored: 0 of", "replies: 0 of"):
        assert result.stderr.count(work) == 1
    assert result.stderr.count("replies: ") == 1
    monkeypatch.setattr("gpt2chat.report.evaluation.LINE_SECONDS", 0.0)
    assert run(*arguments, "--generations", 1).stderr.count("replies: ") > 1


def test_results_on_other_data_stay_in_the_file(model: Path, tmp_path: Path, tiny_data: Path):
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    measured(model, data)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["kind"] == "sft"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    measured(model, data)
    counts = [entry["samples"]["pairs"] for entry in read_results(model / "eval.json")]
    assert counts == [0, 2]


def test_a_result_of_an_earlier_version_stays_in_the_file(model: Path, tiny_data: Path):
    old = {"models": [{"model": "runs/sft"}], "limit": None}
    (model / "eval.json").write_text(json.dumps(old))
    measured(model, tiny_data)
    assert read_results(model / "eval.json")[1:] == [old]


@pytest.mark.parametrize("content", ["mine", "[]", "{}", '{"evaluations": 3}', "[" * 100_000])
def test_a_file_with_other_content_is_never_overwritten(model: Path, tiny_data: Path, content: str):
    (model / "eval.json").write_text(content)
    with pytest.raises(StorageError) as refusal:
        measured(model, tiny_data)
    assert refusal.value.setting == "out"
    assert (model / "eval.json").read_text() == content


def test_figures_that_overflow_are_null_in_the_file(tmp_path: Path, tiny_data: Path):
    confident = tiny_model()
    confident.transformer.ln_f.weight.data.fill_(1e6)
    save_model(confident, tmp_path / "model")
    result = run("--model", tmp_path / "model", "--data", tiny_data, "--json", *FAST)
    assert result.exit_code == 0, result.output
    assert figure(json.loads(result.stdout), "perplexity") is None
    (entry,) = read_results(tmp_path / "model" / "eval.json")
    assert figure(entry, "loss") > 709
    assert "NaN" not in (tmp_path / "model" / "eval.json").read_text()


def test_data_with_validation_rows_only_can_be_measured(
    model: Path, tmp_path: Path, tiny_data: Path
):
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"] = [each for each in manifest["shards"] if each["split"] == "validation"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    for shard in data.glob("*/train-*"):
        shard.unlink()
    assert measured(model, data).models == measured(model, tiny_data).models


def test_several_data_folders_are_each_measured_and_named(
    model: Path, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    other = Path(shutil.copytree(tiny_data, "second"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["kind"] == "sft"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    result = run("--model", model, "--against", model, "--data", tiny_data, "--data", other,
                 "--limit", 3, *FAST)  # fmt: skip
    assert "second, validation split" in result.stdout
    assert "sample by sample, on second" in " ".join(result.stdout.split())
    (entry,) = read_results(model / "eval.json")
    alone = measured(model, other, limit=3, out=tmp_path / "alone.json")
    figures = entry["models"][0]["further"][str(other)]
    assert figures["perplexity"]["value"] == pytest.approx(
        alone.models[0].figures["perplexity"].value
    )
    assert "preference_accuracy" not in figures
    assert "preference_accuracy" in entry["models"][0]["figures"]
    assert entry["differences"][0]["further"][str(other)]["perplexity"]["value"] == 0
    assert entry["further_samples"][str(other)]["pairs"] == 0


def test_a_data_folder_is_named_once(tiny_data: Path):
    with pytest.raises(ConfigError):
        EvalConfig(data=("a", "a"))


def test_data_with_pairs_only_measures_preferences(model: Path, tmp_path: Path, tiny_data: Path):
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"] = [each for each in manifest["shards"] if each["kind"] == "preference"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    result = measured(model, data, generations=2)
    assert set(result.models[0].figures) >= {"preference_accuracy", "preference_longer"}
    assert "no perplexity" in result.notes[0]


def test_data_without_validation_rows_is_refused(model: Path, tmp_path: Path, tiny_data: Path):
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"] = [each for each in manifest["shards"] if each["split"] == "train"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError) as refusal:
        measured(model, data)
    assert refusal.value.setting == "data"


def test_a_thread_may_evaluate_and_gives_the_same_figures(model: Path, tiny_data: Path):
    results: list[Evaluation] = []
    thread = threading.Thread(target=lambda: results.append(measured(model, tiny_data)))
    thread.start()
    thread.join()
    assert results[0].models == measured(model, tiny_data).models


def test_a_result_prints_as_a_table_and_as_html(tmp_path: Path, tiny_folder: Path, tiny_data: Path):
    odd = Path(shutil.copytree(tiny_folder, tmp_path / "<b>"))
    result = measured(odd, tiny_data)
    lines = str(result).splitlines()
    assert str(odd) in lines[0]
    assert lines[1].startswith("perplexity of replies  ")
    assert len({len(line) for line in lines[:-2]}) == 1
    page = result._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert "<th>perplexity of replies</th>" in page
    assert "<b>" not in page


def test_the_newest_run_is_measured_if_no_model_is_named(
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
    """Return the one line that the program ends with."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert result.stdout == ""
    return lines[0]


def test_without_a_run_the_error_names_the_command_that_trains_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert "gpt2chat sft" in refused(4)


def test_an_unfinished_run_is_refused(tmp_path: Path, tiny_data: Path, tiny_folder: Path):
    run_folder = tmp_path / "run"
    (run_folder / "checkpoints").mkdir(parents=True)
    error = refused(4, "--model", tiny_folder, "--against", run_folder, "--data", tiny_data)
    assert str(run_folder) in error


def test_damaged_weights_are_refused(tmp_path: Path, tiny_data: Path):
    broken = saved(tmp_path / "broken", float("nan"))
    with pytest.raises(CheckpointError) as refusal:
        measured(broken, tiny_data)
    assert refusal.value.setting == "model"
    assert not (broken / "eval.json").exists()


def test_missing_data_is_refused(model: Path, tmp_path: Path):
    assert "gpt2chat prepare" in refused(3, "--model", model, "--data", tmp_path / "none")


def test_data_changed_by_hand_is_refused(model: Path, tmp_path: Path, tiny_data: Path):
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    shard = next((data / "sft").glob("validation-*"))
    shard.write_text(shard.read_text() + "\n")
    assert shard.name in refused(3, "--model", model, "--data", data)


def test_a_model_with_a_short_window_is_refused(tmp_path: Path, tiny_data: Path):
    save_model(tiny_model(positions=64), tmp_path / "short")
    with pytest.raises(CheckpointError) as refusal:
        measured(tmp_path / "short", tiny_data)
    assert refusal.value.setting == "data"
    assert "max_length=64" in str(refusal.value)


def test_a_file_that_cannot_be_written_is_refused(model: Path, tmp_path: Path, tiny_data: Path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "eval.json"
    assert "--out" in refused(6, "--model", model, "--data", tiny_data, "--out", out, *FAST)


def test_a_setting_out_of_range_is_refused():
    with pytest.raises(ConfigError):
        EvalConfig(generations=-1)
