"""Data sets by their Hub name, from a Hub on the loopback interface; and what can go wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from gpt2chat.core.config import PrepareConfig
from gpt2chat.core.hub import is_hub_name
from gpt2chat.core.prepare import prepare
from gpt2chat.core.shards import read_pairs, read_samples
from tests.conftest import ignore, sample_rows
from tests.hub_server import Hub, hub_environment

Process = subprocess.CompletedProcess[str]

NAMES = (PrepareConfig.oasst1, PrepareConfig.alpaca, PrepareConfig.ultrafeedback)


def run_prepare(environment: dict[str, str], folder: Path, *arguments: str) -> Process:
    command = [sys.executable, "-m", "gpt2chat", "prepare", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def tables() -> dict[str, list[dict[str, Any]]]:
    """Return rows in the schema of the three data sets, by the path of their file."""
    pairs = sample_rows("ultrafeedback.jsonl.gz", 60)
    return {
        "oasst1/data/validation-00000-of-00001.parquet": sample_rows(
            "oasst1.validation.jsonl.gz", 200
        ),
        "oasst1/data/train-00000-of-00001.parquet": sample_rows("oasst1.validation.jsonl.gz", 400)[
            200:
        ],
        "alpaca/data/train-00000-of-00001.parquet": sample_rows("instructions.train.jsonl.gz", 60),
        "ultrafeedback/data/train-00000-of-00001.parquet": pairs[:40],
        "ultrafeedback/data/test-00000-of-00001.parquet": pairs[40:],
    }


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """The three data sets as folders of Parquet files."""
    for name, rows in tables().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    return [tmp_path / name for name in ("oasst1", "alpaca", "ultrafeedback")]


def serve(hub: Hub, folders: list[Path]) -> None:
    for name, folder in zip(NAMES, folders, strict=True):
        files = {f"data/{file.name}": file for file in (folder / "data").iterdir()}
        hub.add_dataset(name, files)


def ids(data: Path) -> list[str]:
    samples = [*read_samples(data, "train"), *read_samples(data, "validation")]
    pairs = [*read_pairs(data, "train"), *read_pairs(data, "validation")]
    return [*(sample.id for sample in samples), *(pair.id for pair in pairs)]


def test_the_three_names_give_what_the_same_files_give(
    hub: Hub, folders: list[Path], tmp_path: Path
):
    serve(hub, folders)
    first = run_prepare(hub.env(tmp_path), tmp_path)
    assert first.returncode == 0, first.stderr
    names = [str(folder) for folder in folders]
    local = PrepareConfig(
        oasst1=names[0], alpaca=names[1], ultrafeedback=names[2], out=tmp_path / "local"
    )
    prepare(local, ignore)
    assert ids(tmp_path / "data") == ids(tmp_path / "local")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    commits = {entry["name"]: entry["revision"] for entry in manifest["inputs"]}
    assert commits == {name: hub.revision("datasets", name) for name in NAMES}

    # What was downloaded once is there without network too, and gives the same bytes.
    before = (tmp_path / "data" / "manifest.json").read_bytes()
    offline = {**hub.env(tmp_path), "HF_HUB_OFFLINE": "1"}
    again = run_prepare(offline, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "the copy in the cache" in again.stderr
    assert (tmp_path / "data" / "manifest.json").read_bytes() == before


def assert_one_line(process: Process, folder: Path, *said: str) -> None:
    assert process.returncode == 7
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1, process.stderr
    assert all(text in process.stderr for text in said)
    assert not (folder / "data").exists()
    assert not list(folder.glob(".data*"))


def test_without_network_the_offline_way_is_named(tmp_path: Path):
    nobody = hub_environment("http://127.0.0.1:1", tmp_path)
    process = run_prepare(nobody, tmp_path)
    said = ("Cannot reach the Hugging Face Hub for OpenAssistant/oasst1", "Connection refused")
    assert_one_line(process, tmp_path, *said, "gpt2chat prepare --sample", "--oasst1 FILE")


def test_offline_mode_with_an_empty_cache_is_one_line(tmp_path: Path):
    offline = {**hub_environment("http://127.0.0.1:1", tmp_path), "HF_HUB_OFFLINE": "1"}
    process = run_prepare(offline, tmp_path)
    assert_one_line(process, tmp_path, "Cannot reach the Hugging Face Hub", "--sample")


def test_a_wrong_name_is_one_line(hub: Hub, tmp_path: Path):
    arguments = ("--oasst1", "off", "--ultrafeedback", "off", "--alpaca", "tatsu-lab/alpacca")
    process = run_prepare(hub.env(tmp_path), tmp_path, *arguments)
    assert_one_line(process, tmp_path, "--alpaca tatsu-lab/alpacca", "Check the spelling")


def test_a_gated_data_set_is_one_line(hub: Hub, tmp_path: Path):
    hub.add_gated("owner/gated")
    arguments = ("--oasst1", "off", "--ultrafeedback", "off", "--alpaca", "owner/gated")
    process = run_prepare(hub.env(tmp_path), tmp_path, *arguments)
    assert process.stderr.startswith("error: --alpaca owner/gated is gated")
    assert_one_line(process, tmp_path, "hf auth login", "--alpaca FILE")


def test_a_model_folder_is_served_as_it_is(hub: Hub, tiny_folder: Path, tmp_path: Path):
    hub.add_model("owner/tiny", tiny_folder)
    code = "from huggingface_hub import snapshot_download as get; print(get('owner/tiny'))"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=hub.env(tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    copy = Path(process.stdout.strip())
    for file in tiny_folder.iterdir():
        assert (copy / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("value", ["gpt2", "OpenAssistant/oasst1", "a-b/c.d_e"])
def test_these_can_be_names_on_the_hub(value: str):
    assert is_hub_name(value)


@pytest.mark.parametrize("value", ["", ".", "./a", "/a/b", "a/b/c", "~/a", f"a{os.sep}", "a b"])
def test_these_cannot(value: str):
    assert not is_hub_name(value)
