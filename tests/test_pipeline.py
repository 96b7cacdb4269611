"""The five commands in an empty folder, each finding what the one before it wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gpt2chat.cli import app
from tests.helpers import sample_rows
from tests.hub_server import Hub, hub_environment

pytestmark = pytest.mark.slow

OFF = ("--oasst1", "off", "--alpaca", "off", "--ultrafeedback", "off")


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def write_rows(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_whole_path_from_raw_rows_to_an_answer(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    chat = write_rows(tmp_path / "chat.jsonl", sample_rows("instructions.train.jsonl.gz", 30))
    pairs = write_rows(tmp_path / "pairs.jsonl", sample_rows("ultrafeedback.jsonl.gz", 20))
    run("prepare", *OFF, "--chat", chat, "--preference", pairs, "--holdout", "0.3")

    trained = run("sft", "--model", str(tiny_folder), "--epochs", "1", "--batch-size", "8")
    assert "validation loss" in trained.stdout
    assert ", 1 epoch " in trained.stdout
    aligned = run("orpo", "--limit", "8", "--eval-samples", "4")
    assert "model: runs/sft (newest finished run)" in aligned.stderr

    measured = run(
        "eval", "--ppl", "--against", "runs/sft", "--limit", "4", "--generations", "0", "--json"
    )
    assert "model: runs/orpo (newest finished run)" in measured.stderr
    figures = json.loads(measured.stdout)["models"][0]["figures"]
    assert figures["perplexity"]["value"] > 1
    assert json.loads((tmp_path / "runs/orpo/eval.json").read_text())["evaluations"]

    answer = run("chat", "-p", "Name a colour.", "--max-new-tokens", "5", "--seed", "0")
    assert "model: runs/orpo (newest finished run)" in answer.stderr
    assert answer.stdout.endswith("\n")
    assert "<|" not in answer.stdout


def sft(
    model: str, data: Path, folder: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpt2chat", "sft", "--data", str(data), "--model", model]
    return subprocess.run(
        [*command, "--epochs", "1", "--limit", "8", "--eval-samples", "0"],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_sft_starts_from_a_model_on_the_hub(
    hub: Hub, tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    hub.add_model("gpt2", tiny_folder)
    process = sft("gpt2", tiny_data, tmp_path, hub.env(tmp_path))
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "runs/sft/model.safetensors").exists()


def test_without_network_sft_names_the_offline_way(tiny_data: Path, tmp_path: Path):
    process = sft("gpt2", tiny_data, tmp_path, hub_environment("http://127.0.0.1:1", tmp_path))
    assert process.returncode == 7
    note, error = process.stderr.splitlines()
    assert note.startswith("model: gpt2; ")
    assert error.startswith("error: Cannot reach the Hugging Face Hub for gpt2.")
    assert "--model starter" in error
    assert not (tmp_path / "runs").exists()


def test_a_model_that_the_hub_has_not_is_one_line(hub: Hub, tiny_data: Path, tmp_path: Path):
    process = sft("nobody/nothing", tiny_data, tmp_path, hub.env(tmp_path))
    assert process.returncode == 7
    assert "nor a model of this name on the Hugging Face Hub" in process.stderr
