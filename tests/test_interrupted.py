"""A `prepare` that is killed, again and again, is gone on with, to the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.files import replaced_folder
from tests.helpers import SAMPLE, ignore
from tests.test_prepare import tree

pytestmark = pytest.mark.slow

ROWS = 9_500
WORK = Path(".data.work")
NEW = WORK / "new"
FLAGS = ("--oasst1", str(SAMPLE / "oasst1.validation.jsonl.gz"), "--alpaca", "many.jsonl",
         "--ultrafeedback", "off", "--holdout", "0.1", "--stats")  # fmt: skip


@pytest.fixture(autouse=True)
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a file of some ten chunks, one line of each thousand broken."""
    monkeypatch.chdir(tmp_path)
    with Path("many.jsonl").open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            row = {"instruction": f"Count to {number}.", "output": f"One, two and on to {number}."}
            file.write((json.dumps(row) if number % 1000 else '{"instruction": ') + "\n")


def start(workers: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "gpt2chat", "prepare", *FLAGS, "--workers", str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def parts() -> int:
    """Return how many chunks are done."""
    try:
        return sum(path.read_bytes().count(b"\n") for path in WORK.glob("*/chunks"))
    except FileNotFoundError:  # The folder was renamed at the same time.
        return 0


def stop(process: "subprocess.Popen[bytes]", when: Callable[[], Any], sent: int) -> bool:
    """Send a signal as soon as something holds; return whether the process was still there."""
    end = time.monotonic() + 60
    while not when() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    alive = process.poll() is None
    process.send_signal(sent)
    process.communicate()
    return alive


def unbroken() -> dict[str, bytes]:
    settings = PrepareConfig(
        oasst1=FLAGS[1], alpaca="many.jsonl", ultrafeedback="off", holdout=0.1, stats=True,
        out=Path("unbroken"), workers=1,
    )  # fmt: skip
    return tree(prepare(settings, ignore).out)


def test_a_run_killed_many_times_ends_with_the_bytes_of_an_unbroken_one():
    kills = 0
    for workers in (1, 2, 2, 1):
        before = parts()
        kills += stop(start(workers), lambda before=before: parts() > before + 1, signal.SIGKILL)
        assert parts() >= before
        assert not Path("data").exists()
    kills += stop(start(2), lambda: any(NEW.rglob("*.jsonl")), signal.SIGKILL)
    assert kills == 5
    done = parts()
    assert done > 10
    last = start(2)
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert tree(Path("data")) == unbroken()
    assert sorted(path.name for path in Path().iterdir()) == ["data", "many.jsonl", "unbroken"]


def test_what_an_earlier_run_finished_is_not_done_again():
    stop(start(1), lambda: parts() > 4, signal.SIGKILL)
    (log,) = WORK.glob("*/chunks")
    # Were a chunk done again, its numbers would be those that it has, and not these.
    text = log.read_text().replace('"records": {"alpaca": {"many.jsonl": 1000}}',
                                   '"records": {"alpaca": {"many.jsonl": 1001}}')  # fmt: skip
    log.write_text(text)
    before = parts()
    stop(start(1), lambda: parts() > before, signal.SIGKILL)
    assert log.read_text().startswith(text)


def test_ctrl_c_says_how_to_go_on_and_the_next_run_does():
    process = start(2)
    end = time.monotonic() + 60
    while parts() < 3 and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.decode().splitlines()[-1] == (
        "Interrupted. data is unchanged. Run the same again to resume."
    )
    assert parts() >= 3
    last = start(2)
    last.communicate()
    assert tree(Path("data")) == unbroken()


def test_another_input_starts_over():
    stop(start(1), lambda: parts() > 2, signal.SIGKILL)
    rows = ({"instruction": f"Say {number}.", "output": f"{number}"} for number in range(60))
    Path("many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = start(1)
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert tree(Path("data")) == unbroken()


def test_two_runs_do_not_write_one_folder():
    with replaced_folder(Path("data"), "other"):
        process = start(1)
        _, said = process.communicate()
        assert process.returncode == 2
        assert b"Another process is preparing data. Wait for it" in said
        assert WORK.is_dir()
    assert not WORK.exists()


def test_parts_that_lost_their_rows_are_made_again():
    stop(start(1), lambda: parts() > 4, signal.SIGKILL)
    (rows,) = WORK.glob("*/rows")
    os.truncate(rows, rows.stat().st_size // 2)
    last = start(2)
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert tree(Path("data")) == unbroken()


def test_a_failure_of_ones_own_leaves_nothing_to_go_on_with():
    def fail() -> None:
        with replaced_folder(Path("data"), "key") as space:
            (space.parts / "1.json").touch()
            raise ConfigError("no")

    with pytest.raises(ConfigError):
        fail()
    assert not WORK.exists()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bytes(workers: int):
    process = start(workers)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert tree(Path("data")) == unbroken()
    assert os.path.getsize("data/dropped.jsonl") > 0
