"""`prepare` on a cluster: a real scheduler and three worker processes on the loopback interface."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.executors import in_order
from gpt2chat.core.data.prepare import Progress, prepare
from gpt2chat.core.errors import ConfigError, DataError
from tests.test_executors import refuse
from tests.test_golden import many_chunks
from tests.test_prepare import tree

# Dask opens sockets and event loops that it leaves to the garbage collector.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    settings: dict[str, Any] = {"dashboard_address": None, "worker_dashboard_address": None}
    with LocalCluster(3, threads_per_worker=1, memory_limit=0, silence_logs=50, **settings) as it:
        yield it


def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(cluster: Any, tmp_path: Path):
    given: dict[str, Any] = {**many_chunks(tmp_path), "oasst1": "off", "ultrafeedback": "off"}
    alone = prepare(PrepareConfig(**given, workers=1, out=tmp_path / "alone"))
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        before: Any = client.run(os.getpid)
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.advance and not killed:
            killed.append(next(iter(before.values())))
            os.kill(killed[0], signal.SIGKILL)

    address = cluster.scheduler_address
    together = prepare(PrepareConfig(**given, cluster=address, out=tmp_path / "together"), kill)
    assert killed
    assert tree(together.out) == tree(alone.out)


def test_an_error_in_a_worker_of_the_cluster_is_the_same_error(cluster: Any):
    with pytest.raises(DataError, match="the third is refused"):
        list(in_order(refuse, range(5), cluster=cluster.scheduler_address))


def test_workers_of_this_machine_and_a_cluster_exclude_each_other():
    with pytest.raises(ConfigError) as error:
        PrepareConfig(cluster="tcp://127.0.0.1:8786", workers=2)
    assert error.value.setting == "cluster"
