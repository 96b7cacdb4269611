"""Training takes as many threads as other programs leave cores for."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from gpt2chat.core.training.cores import LOOK, SpareCores, core_limit, spare_threads

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
many_cores = pytest.mark.skipif(CORES < 2, reason="one core leaves nothing to choose")
has_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def busy() -> Iterator[None]:
    """A busy program for each core."""
    spin = "print(flush=True)\nwhile True: pass"
    programs = [
        subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) for _ in range(CORES)
    ]
    for program in programs:
        assert program.stdout is not None
        program.stdout.readline()
    yield
    for program in programs:
        program.kill()
        program.communicate()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Write a /proc/stat in which each core has been busy for a number of ticks, for psutil."""
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path), raising=False)

    def write(ticks: int) -> None:
        numbers = ["", *range((os.cpu_count() or 1) + 1)]
        lines = [f"cpu{number} {ticks} 0 0 1000 0 0 0 0 0 0\n" for number in numbers]
        (tmp_path / "stat").write_text("".join(lines))

    return write


@pytest.mark.parametrize(
    ("threads", "free", "expected"),
    [(4, 4.0, 4), (4, 3.5, 4), (4, 3.4, 3), (4, 1.0, 1), (4, 0.1, 1), (4, -0.3, 1),
     (1, 4.0, 4), (1, 3.8, 4), (1, 3.7, 3), (3, 3.7, 3), (1, 64.0, 4)],
)  # fmt: skip
def test_there_is_a_thread_for_each_free_core(threads: int, free: float, expected: int):
    assert spare_threads(threads, 4, free) == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_a_load_that_wavers_around_half_a_core_changes_the_number_once_at_most(threads: int):
    numbers = [threads]
    for free in (1.45, 1.55, 1.4, 1.6, 1.7, 1.5, 1.3, 1.7):
        numbers.append(spare_threads(numbers[-1], 2, free))
    assert len(set(numbers[1:])) == 1


@pytest.mark.parametrize("cores", [2, 4, 16])
@pytest.mark.parametrize("programs", [1, 2, 8])
def test_next_to_busy_programs_each_core_soon_has_one_thread_or_one_program(
    cores: int, programs: int
):
    threads = cores
    for _ in range(5):
        # The system shares its cores out evenly.
        share = min(1, cores / (threads + programs))
        threads = spare_threads(threads, cores, cores - programs * share)
    assert threads == max(1, cores - programs)


@many_cores
def test_busy_programs_take_threads_away(busy: None):
    SpareCores().on_train_begin()
    assert torch.get_num_threads() == 1


@many_cores
def test_a_number_that_the_user_chose_stays(busy: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    SpareCores().on_train_begin()
    assert torch.get_num_threads() == 2


@many_cores
def test_training_in_another_thread_changes_that_threads_number_only(busy: None):
    numbers: list[int] = []

    def train() -> None:
        SpareCores().on_train_begin()
        numbers.append(torch.get_num_threads())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert (numbers, torch.get_num_threads()) == ([1], 2)


@many_cores
@has_proc
def test_threads_come_back_once_the_other_programs_are_gone(record: Callable[[int], None]):
    record(0)
    cores = SpareCores()
    record(10**6)
    cores.on_train_begin()
    assert torch.get_num_threads() == 1
    time.sleep(LOOK)
    cores.on_step_begin()
    assert torch.get_num_threads() == 2


@has_proc
def test_the_number_stays_where_the_system_does_not_report_processor_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path), raising=False)
    SpareCores().on_train_begin()
    assert torch.get_num_threads() == 2


@has_proc
def test_the_number_stays_from_when_the_system_stops_reporting(
    record: Callable[[int], None], tmp_path: Path
):
    record(0)
    cores = SpareCores()
    (tmp_path / "stat").unlink()
    for look in (cores.on_train_begin, cores.on_step_begin):
        look()
        assert torch.get_num_threads() == 2


def test_a_container_may_allow_fewer_cores_than_the_machine_has(tmp_path: Path):
    groups = tmp_path / "groups"
    groups.write_text("0::/a/b\n")
    assert core_limit(tmp_path, groups) is None
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/cpu.max").write_text("150000 100000\n")
    (tmp_path / "a/b/cpu.max").write_text("max 100000\n")
    assert core_limit(tmp_path, groups) == 1.5


@pytest.mark.parametrize(("quota", "cores"), [("50000", 0.5), ("-1", None)])
def test_control_groups_of_version_1_limit_cores_too(
    quota: str, cores: float | None, tmp_path: Path
):
    (tmp_path / "groups").write_text("4:cpu,cpuacct:/a\n3:memory:/b\n")
    (tmp_path / "cpu/a").mkdir(parents=True)
    (tmp_path / "cpu/a/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/a/cpu.cfs_period_us").write_text("100000\n")
    assert core_limit(tmp_path, tmp_path / "groups") == cores
