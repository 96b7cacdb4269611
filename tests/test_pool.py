"""Jobs are done by several processes, and their results come in order."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.data.pool import FEW, ordered
from gpt2chat.core.errors import DataError, HardwareError


def square(number: int) -> tuple[int, int]:
    """Return the square and the process; the first job takes longest."""
    time.sleep(0.3 if number == 0 else 0)
    return number**2, os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise DataError("the third is refused")
    return number


def always_killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_once(file: Path) -> str:
    """Die at the first try of the job that the file is for, in the middle of the others."""
    if file.name == "2" and not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return file.name


class DiesAtItsStart:
    """A function that no worker survives being sent: it is killed before its first job."""

    def __init__(self, file: Path, times: int):
        self.file, self.times = file, times

    def __call__(self, number: int) -> int:
        return number

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        deaths = len(self.file.read_bytes()) if self.file.exists() else 0
        if deaths < self.times:
            self.file.write_bytes(bytes(deaths + 1))
            os.kill(os.getpid(), signal.SIGKILL)


class Odd(Exception):
    """An error that cannot be sent to another process."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one} and {two}")


def odd(_: int) -> int:
    raise Odd(1, 2)


def never(_: int) -> None:
    return None


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int):
    results = list(ordered(range(20), square, never, workers))
    assert [job for job, _ in results] == list(range(20))
    assert [value for _, (value, _) in results] == [number**2 for number in range(20)]
    processes = {process for _, (_, process) in results}
    assert (processes == {os.getpid()}) == (workers == 1)


def test_few_jobs_start_no_process():
    results = list(ordered(range(FEW), square, never, workers=0))
    assert {process for _, (_, process) in results} == {os.getpid()}


def test_a_finished_job_is_not_done_again():
    def done(number: int) -> tuple[int, int] | None:
        return (-1, 0) if number % 2 else None

    results = list(ordered(range(6), square, done, workers=2))
    assert [value for _, (value, _) in results] == [0, -1, 4, -1, 16, -1]


def test_jobs_are_not_read_far_ahead_of_their_turn():
    read: list[int] = []

    def jobs():
        for number in range(100):
            read.append(number)
            yield number

    results = ordered(jobs(), refuse, never, workers=2)
    next(results)
    assert len(read) < 10
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_is_raised_in_order(workers: int):
    results = ordered(range(10), refuse, never, workers)
    assert [next(results)[1] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="the third is refused"):
        next(results)


def test_another_worker_does_the_job_of_a_killed_one(tmp_path: Path):
    jobs = [tmp_path / str(number) for number in range(10)]
    results = [name for _, name in ordered(jobs, killed_once, lambda _: None, workers=2)]
    assert results == [str(number) for number in range(10)]


def test_a_job_that_kills_every_worker_is_a_hardware_error():
    with pytest.raises(HardwareError) as error:
        list(ordered(range(10), always_killed, never, workers=2))
    assert error.value.setting == "workers"


def test_a_worker_that_is_killed_while_it_starts_is_replaced(tmp_path: Path):
    run = DiesAtItsStart(tmp_path / "deaths", 1)
    assert [value for _, value in ordered(range(10), run, never, workers=2)] == list(range(10))


def test_workers_that_are_all_killed_while_they_start_end_the_run(tmp_path: Path):
    with pytest.raises(HardwareError):
        list(ordered(range(10), DiesAtItsStart(tmp_path / "deaths", 9), never, workers=2))


def test_a_bug_in_a_worker_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="in odd"):
        list(ordered(range(2), odd, never, workers=2))


def test_an_abandoned_run_leaves_no_worker(tmp_path: Path):
    results = ordered([tmp_path] * 9, note_process, lambda _: None, workers=2)
    next(results)
    results.close()
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


def note_process(folder: Path) -> int:
    (folder / str(os.getpid())).touch()
    return 1


PRESSED = """
import os, signal, sys, time
from gpt2chat.core.data.pool import ordered
from tests.test_pool import never, sleep
for _ in ordered(range(9), sleep, never, workers=2):
    pass
"""


def sleep(number: int) -> int:
    os.write(1, b"at work\n")
    time.sleep(60)
    return number


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.3])
def test_ctrl_c_twice_ends_the_workers_and_the_run(wait: float, tmp_path: Path):
    script = tmp_path / "pressed.py"
    script.write_text(PRESSED)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(wait)
        # The pipe is closed when the last worker has ended; a worker would sleep for a minute.
        _, said = process.communicate(timeout=30)
    assert said.count(b"Traceback") <= 2


def test_jobs_run_in_this_process_if_none_can_be_started(monkeypatch: pytest.MonkeyPatch):
    def refuse_to_start(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse_to_start)
    results = list(ordered(range(5), square, never, workers=2))
    assert {process for _, (_, process) in results} == {os.getpid()}


def wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    parent = os.fork()
    if parent == 0:
        list(ordered([tmp_path] * 2, wait, lambda _: None, workers=2))
    try:
        began = time.monotonic()
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < began + 30
            time.sleep(0.05)
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < began + 60
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
