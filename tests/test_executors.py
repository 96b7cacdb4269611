"""Chunks are done by any executor, and their results come in order."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2chat.core.data import executors
from gpt2chat.core.data.executors import FEW, in_order
from gpt2chat.core.errors import DataError, HardwareError, NetworkError


def square(number: int) -> tuple[int, int]:
    """Return the square and the process; the first call takes longest."""
    time.sleep(0.2 if number == 0 else 0)
    return number**2, os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise DataError("the third is refused")
    return number


def killed_always(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_once(file: Path) -> str:
    """Die at the first call for the file named 2, in the middle of the others."""
    if file.name == "2" and not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return file.name


class Odd(Exception):
    """An error that cannot be sent to another process."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one} and {two}")


def odd(_: int) -> int:
    raise Odd(1, 2)


def printing(number: int) -> int:
    print("a library prints this")  # noqa: T201
    return number


def note_process(folder: Path) -> int:
    (folder / str(os.getpid())).touch()
    return 1


def note_and_sleep(folder: Path) -> None:
    note_process(folder)
    time.sleep(60)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_chunks(workers: int):
    results = list(in_order(square, range(20), workers))
    assert [value for value, _ in results] == [number**2 for number in range(20)]
    assert ({process for _, process in results} == {os.getpid()}) == (workers == 1)


def test_few_chunks_start_no_process():
    results = list(in_order(square, range(FEW), workers=0))
    assert {process for _, process in results} == {os.getpid()}


def test_chunks_are_not_read_far_ahead_of_their_turn():
    read: list[int] = []

    def chunks():
        for number in range(100):
            read.append(number)
            yield number

    results = in_order(refuse, chunks(), workers=2)
    next(results)
    assert len(read) < 10
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_in_order(workers: int):
    results = in_order(refuse, range(10), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="the third is refused"):
        next(results)


def test_another_worker_does_the_chunk_of_a_killed_one(tmp_path: Path):
    chunks = [tmp_path / str(number) for number in range(10)]
    assert list(in_order(killed_once, chunks, 2)) == [str(number) for number in range(10)]


def test_a_chunk_that_kills_every_worker_is_a_hardware_error():
    with pytest.raises(HardwareError) as error:
        list(in_order(killed_always, range(10), 2))
    assert error.value.setting == "workers"


def test_a_bug_in_a_worker_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="in odd"):
        list(in_order(odd, range(2), 2))


def test_what_a_library_prints_does_not_get_between_the_results():
    assert list(in_order(printing, range(4), 2)) == list(range(4))


def test_an_abandoned_run_leaves_no_worker(tmp_path: Path):
    results = in_order(note_process, [tmp_path] * 9, 2)
    next(results)
    results.close()
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


PRESSED = """
from gpt2chat.core.data.executors import in_order
from tests.test_executors import at_work
for _ in in_order(at_work, range(9), workers=2):
    pass
"""


def at_work(number: int) -> int:
    os.write(2, b"at work\n")
    time.sleep(60)
    return number


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.3])
def test_ctrl_c_twice_ends_the_workers_and_the_run(wait: float, tmp_path: Path):
    script = tmp_path / "pressed.py"  # Without a guard against being imported.
    script.write_text(PRESSED)
    with subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        process.stderr.readline()
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(wait)
        # The pipe is closed when the last worker has ended; a worker would sleep for a minute.
        _, said = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in said
    assert b'"<string>"' not in said, "a worker has printed a traceback"


def test_chunks_are_done_in_this_process_if_no_other_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
):
    def refuse_to_start(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse_to_start)
    assert {process for _, process in in_order(square, range(5), 2)} == {os.getpid()}


def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    parent = os.fork()
    if parent == 0:
        list(in_order(note_and_sleep, [tmp_path] * 2, 2))
    end = time.monotonic() + 60
    try:
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_cluster_that_does_not_answer_is_a_network_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    with pytest.raises(NetworkError) as error:
        list(in_order(refuse, range(3), cluster="tcp://127.0.0.1:9"))
    assert error.value.setting == "cluster"


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
