"""What memory a step takes, and whether it is there: refused with flags that are taken."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.errors import HardwareError
from gpt2chat.core.training import memory
from gpt2chat.core.training import plan as planning
from gpt2chat.core.training import train as training
from gpt2chat.core.training.job import Job, make_job
from gpt2chat.core.training.memory import available_memory, group_memory, needed_memory
from gpt2chat.core.training.plan import plan
from gpt2chat.core.training.train import train


@pytest.fixture
def settings(tiny_folder: Path, tiny_data: Path, tmp_path: Path) -> SftConfig:
    return SftConfig(
        model=str(tiny_folder), data=tiny_data, out=tmp_path / "sft", precision="fp32",
        device="cpu", epochs=1,
    )  # fmt: skip


@pytest.fixture
def orpo(settings: SftConfig) -> OrpoConfig:
    return OrpoConfig(
        model=settings.model, data=settings.data, out=settings.out, precision="fp32", device="cpu"
    )


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the bytes that there are."""

    def set_free(size: float) -> None:
        def available(_: torch.device) -> int:
            return int(size)

        monkeypatch.setattr(memory, "available_memory", available)

    return set_free


def refused(job: Job, share: float) -> str:
    """Return what is said where a share of what a job needs is there."""
    available = int(share * needed_memory(job))
    with pytest.raises(HardwareError) as caught:
        memory.check_fits(job, available)
    return str(caught.value)


def test_a_step_that_does_not_fit_is_refused_with_the_flag_that_mends_it(
    settings: SftConfig, free: Callable[[float], None]
):
    job = make_job(settings)
    assert needed_memory(job) < available_memory(job.device)
    free(0.9 * needed_memory(job))
    with pytest.raises(HardwareError) as caught:
        plan(settings)
    assert caught.value.setting == "batch_tokens"
    free(1000)
    with pytest.raises(HardwareError) as caught:
        plan(settings)
    assert caught.value.setting == "lora_r"


@pytest.mark.parametrize("command", ["sft", "orpo"])
def test_the_flags_that_are_named_are_taken_and_leave_no_sample_out(
    settings: SftConfig, orpo: OrpoConfig, command: str
):
    """Also where the rows have to be shorter than max_length."""

    def make(**more: Any) -> Job:
        changes = {"max_length": 4096, **more}
        if command == "sft":
            return make_job(replace(settings, **changes))
        return make_job(replace(orpo, **changes))

    job = make()
    hint = refused(job, 0.7)
    found = re.search(r"`batch_tokens=(\d+), max_length=(\d+)`", hint)
    assert found is not None, hint
    tokens, length = map(int, found.groups())
    mended = make(batch_tokens=tokens, max_length=length)
    assert (mended.samples, mended.left_out) == (job.samples, job.left_out)
    assert needed_memory(mended) < 0.7 * needed_memory(job)


def test_samples_that_are_left_out_count_for_nothing(settings: SftConfig):
    job = make_job(replace(settings, limit=20))
    left_out = set(range(len(job.tokens))) - {item for items in job.sequences for item in items}
    job.tokens.lengths[left_out.pop()] = 10_000
    assert "`batch_tokens=" in refused(job, 0.8)


def test_a_step_in_bf16_takes_less_on_a_gpu_by_what_attention_does_not_save(settings: SftConfig):
    job = replace(make_job(settings), autocast=True)
    on_gpu = replace(job, device=torch.device("cuda"))
    tokens = max(int(job.tokens.sizes[list(one)].sum()) for one in job.sequences)
    # 2 layers of width 32; a GPU holds the weights, too.
    weights = 4 * sum(weight.numel() for weight in job.model.parameters())
    assert needed_memory(job) - needed_memory(on_gpu) == (75 - 45) * tokens * 2 * 32 - weights


def test_a_run_that_surely_does_not_fit_is_refused_before_anything_is_written(
    settings: SftConfig, free: Callable[[float], None]
):
    free(0.5 * needed_memory(make_job(settings)))
    with pytest.raises(HardwareError) as refused:
        train(settings)
    assert refused.value.setting == "batch_tokens"
    assert not settings.out.exists()


def test_a_run_that_may_fit_is_let_begin(settings: SftConfig, free: Callable[[float], None]):
    free(0.8 * needed_memory(make_job(settings)))
    train(settings)


@pytest.mark.parametrize("where", ["matmul_flops", "trainer"])
@pytest.mark.parametrize("module", [training, planning])
def test_a_gpu_too_small_for_the_model_is_one_line(
    where: str, module: Any, settings: SftConfig, monkeypatch: pytest.MonkeyPatch
):
    def no_room(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(*((module, where) if where == "matmul_flops" else (Job, where)), no_room)
    with pytest.raises(HardwareError) as refused:
        train(settings) if module is training else plan(settings)
    assert refused.value.setting == "model"


def test_the_processes_on_one_cpu_share_its_memory(
    settings: SftConfig, monkeypatch: pytest.MonkeyPatch
):
    job = make_job(settings)
    one = needed_memory(job)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert needed_memory(job) == 4 * one


def group(folder: Path, **values: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in values.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def test_the_limit_of_a_container_is_that_of_its_tightest_control_group(tmp_path: Path):
    stat = "anon 600\ninactive_file 100\n"
    group(tmp_path / "a", memory_max="1000\n", memory_current="700\n", memory_stat=stat)
    group(tmp_path / "a/b", memory_max="max\n", memory_current="700\n", memory_stat=stat)
    groups = tmp_path / "groups"
    groups.write_text("0::/a/b\n")
    assert group_memory(tmp_path, groups) == 400
    groups.write_text("0::/elsewhere\n")
    assert group_memory(tmp_path, groups) is None
    assert group_memory(tmp_path, tmp_path / "none") is None


def test_control_groups_of_version_1_have_limits_too(tmp_path: Path):
    for name, text in (("limit", "2000"), ("usage", "500")):
        (tmp_path / "memory" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "memory" / "a" / f"memory.{name}_in_bytes").write_text(text)
    (tmp_path / "memory" / "a" / "memory.stat").write_text("total_inactive_file 50\n")
    (tmp_path / "groups").write_text("5:cpu:/b\n4:memory:/a\n0::/\n")
    assert group_memory(tmp_path, tmp_path / "groups") == 1550


def test_what_a_machine_has_free_is_no_more_than_its_container_may_take(
    monkeypatch: pytest.MonkeyPatch,
):
    def limit(*_: Path) -> int:
        return 12345

    monkeypatch.setattr(memory, "group_memory", limit)
    assert available_memory(torch.device("cpu")) == 12345
