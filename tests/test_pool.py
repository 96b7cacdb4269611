"""Jobs are done by several processes, and their results come in order."""

import os
import signal
import time
from pathlib import Path

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


def killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


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


def test_what_is_done_already_is_not_done_again():
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
def test_an_error_of_a_job_comes_in_its_turn(workers: int):
    results = ordered(range(10), refuse, never, workers)
    assert [next(results)[1] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="the third is refused"):
        next(results)


def test_a_worker_that_is_killed_ends_the_run_with_one_line():
    with pytest.raises(HardwareError, match="A worker was ended from outside.*--workers"):
        list(ordered(range(10), killed, never, workers=2))


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
