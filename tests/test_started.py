"""A run goes on as it was started: by its command, on its samples, in as many processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.errors import ConfigError, DataError
from gpt2chat.core.started import Started, require_command, require_same, write_started

ONE = Started(command="sft", processes=1, sharded=False, samples="0123 4567")


def run(tmp_path: Path, **changes: Any) -> Path:
    write_started(tmp_path / "run", replace(ONE, **changes))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "gpt2chat sft --resume auto"),
        ({"command": "orpo"}, "gpt2chat orpo --resume auto --out runs/sft"),
        ({"processes": 2}, "torchrun --nproc-per-node 2 -m gpt2chat sft --resume auto"),
        ({"processes": 2, "sharded": True},
         "accelerate launch --config_file FILE -m gpt2chat sft --resume auto"),
    ],
)  # fmt: skip
def test_what_to_type_starts_the_same_command_in_as_many_processes(
    changes: dict[str, Any], line: str
):
    assert replace(ONE, **changes).resume_line(Path("runs/sft")) == line


def test_a_folder_with_a_space_can_be_pasted():
    assert ONE.resume_line(Path("my run")).endswith(" --out 'my run'")


def test_a_run_goes_on_as_it_was_started(tmp_path: Path):
    require_same(run(tmp_path), ONE, Path("data"))


def test_a_run_that_kept_nothing_goes_on(tmp_path: Path):
    require_same(tmp_path, ONE, Path("data"))


def test_the_other_command_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="an unfinished orpo run, not one of sft.*gpt2chat orpo"):
        require_command(run(tmp_path, command="orpo"), "sft")


def test_another_number_of_processes_is_refused(tmp_path: Path):
    said = "started with 2 processes, not 1 process: .*torchrun --nproc-per-node 2"
    with pytest.raises(ConfigError, match=said):
        require_same(run(tmp_path, processes=2), ONE, Path("data"))


def test_other_samples_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="data holds other samples.*--overwrite"):
        require_same(run(tmp_path, samples="89ab 4567"), ONE, Path("data"))
