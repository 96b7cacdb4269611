"""The program as a whole: help, version, exit codes, and what it does not load."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpt2chat import __version__
from gpt2chat.cli import app
from gpt2chat.core.errors import Gpt2ChatError

HEAVY = {
    "torch", "transformers", "datasets", "trl", "peft", "rich", "prompt_toolkit",
    "matplotlib", "tokenizers", "huggingface_hub", "accelerate", "numpy", "pyarrow", "numba",
    "tiktoken", "safetensors", "filelock", "ftfy", "rensa",
}  # fmt: skip


def gpt2chat(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpt2chat", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def loaded_by(*arguments: str, cwd: Path) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    """Return the names of the packages that a command loads, and the process."""
    command = [sys.executable, "-X", "importtime", "-m", "gpt2chat", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    lines = process.stderr.splitlines()
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}, process


@pytest.mark.parametrize("command", ["", "prepare", "sft", "orpo", "eval", "chat", "runs"])
def test_help_loads_no_heavy_library(command: str, tmp_path: Path):
    arguments = [argument for argument in (command, "--help") if argument]
    loaded, process = loaded_by(*arguments, cwd=tmp_path)
    assert process.returncode == 0
    assert not loaded & HEAVY
    assert "Usage: " in process.stdout


@pytest.mark.parametrize(
    "arguments",
    [("sft", "--lr", "0"), ("orpo", "--beta", "-1"), ("prepare", "--holdout", "2"),
     ("sft", "--epochs", "0"), ("prepare", "--mix", "alpaca")],
)  # fmt: skip
def test_a_wrong_setting_is_reported_before_any_heavy_library_is_loaded(
    arguments: tuple[str, ...], tmp_path: Path
):
    loaded, process = loaded_by(*arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert loaded & HEAVY <= {"rich"}  # which prints the error


def test_version_is_printed():
    assert gpt2chat("--version").stdout == f"gpt2chat {__version__}\n"


def test_a_setting_out_of_range_is_one_line_and_exit_code_2(tmp_path: Path):
    process = gpt2chat("sft", "--lr", "0", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr == "error: --lr must be above 0, not 0.0.\n"
    assert process.stdout == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--nope", "No such option: --nope."),
        ("sft --epoch 3", "No such option: --epoch. Did you mean --epochs?"),
        ("sft --lr", "'--lr' requires an argument"),
        ("sft --lr abc", "--lr must be a number, not 'abc'."),
        ("sft --limit 1.5", "--limit must be a whole number, not '1.5'."),
        ("sft --device gpu", "--device must be auto, cpu, cuda or mps, not 'gpu'."),
        ("sft --merge=no", "'--merge' does not take a value"),
        ("sft runs/a", "unexpected extra argument"),
        ("sfd", "Did you mean 'sft'?"),
        ("prepare --show -1", "--show must be"),
        ("prepare --show many", "--show must be"),
        ("chat --top-p 2", "--top-p must be above 0 and at most 1, not 2.0."),
        ("sft --config nope", "the presets of sft are ours, reference"),
    ],
)
def test_a_mistyped_command_line_is_one_line_and_exit_code_2(line: str, words: str):
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_no_command_at_all_shows_the_help_and_is_exit_code_2():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_commands_before_prepare_name_the_command_to_type(tmp_path: Path):
    process = gpt2chat("orpo", cwd=tmp_path)
    assert process.returncode == 4
    assert "gpt2chat sft" in process.stderr
    assert process.stderr.count("\n") == 1


def test_every_error_has_an_exit_code_of_its_own():
    codes = [error.exit_code for error in Gpt2ChatError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert not {0, 1} & set(codes)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("gpt2chat.core.training.checks.pick_model", broken)
    result = CliRunner().invoke(app, ["orpo"])
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libarrow.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_one_line_and_exit_code_5(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise problem

    monkeypatch.setattr("gpt2chat.core.training.checks.pick_model", full)
    result = CliRunner().invoke(app, ["orpo"])
    assert result.exit_code == 5
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


IN_AN_IMPORT = """
import signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "gpt2chat.cli":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from gpt2chat.__main__ import main
main()
"""


def test_ctrl_c_while_the_program_is_imported_is_one_line_and_exit_code_130():
    process = subprocess.run(
        [sys.executable, "-c", IN_AN_IMPORT], capture_output=True, text=True, check=False
    )
    assert process.returncode == 130
    assert process.stderr == "Interrupted; nothing was changed.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("prepare", "--only", "--chat", "a.jsonl")]
)
def test_an_output_that_is_full_is_one_line(arguments: tuple[str, ...], tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n' * 3)
    command = [sys.executable, "-m", "gpt2chat", *arguments]
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
        )
    assert process.returncode == 6, process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: Cannot write the output")
    assert "Traceback" not in process.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(("command", "written"), [
    ("sft --epochs 1 --json --out run", "run/result.json"),
    ("eval --limit 2 --no-speed --generations 0 --out eval.json", "eval.json"),
    ("chat -p Hi", "."),
])  # fmt: skip
def test_what_was_computed_is_saved_although_the_output_is_full(
    command: str, written: str, tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    arguments = [*command.split(), "--model", str(tiny_folder)]
    if not command.startswith("chat"):
        arguments += ["--data", str(tiny_data)]
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "gpt2chat", *arguments], cwd=tmp_path, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert process.returncode == 6, process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in process.stderr
    assert (tmp_path / written).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the folder")
@pytest.mark.parametrize("command", ["prepare --sample", "sft", "orpo"])
def test_a_working_directory_that_was_deleted_is_one_line(command: str, tmp_path: Path):
    program = (
        f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && {sys.executable} -m gpt2chat {command}"
    )
    (tmp_path / "gone").mkdir()
    process = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
