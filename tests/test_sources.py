"""Flags become sources: files found, Hub names told from paths, the bundled sample."""

from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.errors import ConfigError, DataError
from gpt2chat.core.inputs.sources import SAMPLE, Source, find_sources


def found(**settings: object) -> list[Source]:
    off = {"oasst1": "off", "alpaca": "off", "ultrafeedback": "off"}
    return find_sources(PrepareConfig(**{**off, **settings}))  # pyright: ignore[reportArgumentType]


def touch(folder: Path, name: str) -> str:
    (folder / name).touch()
    return str(folder / name)


def test_by_default_three_names_on_the_hub_are_read():
    sources = find_sources(PrepareConfig())
    assert [(source.name, source.content) for source in sources] == [
        ("oasst1", "oasst1"), ("alpaca", "chat"), ("ultrafeedback", "preference"),
    ]  # fmt: skip
    assert all(source.files is None for source in sources)


def test_no_source_is_an_error():
    with pytest.raises(ConfigError, match="off"):
        found()


def test_a_path_on_disk_wins_over_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    touch(tmp_path / "owner" / "name", "train.jsonl")
    monkeypatch.chdir(tmp_path)
    assert found(alpaca="owner/name")[0].files == {"train": (Path("owner/name/train.jsonl"),)}


@pytest.mark.parametrize("value", ["alpaca.jsonl", "data/alpaca.parquet", "./alpaca", "/no/alpaca"])
def test_a_missing_path_is_not_looked_up_on_the_hub(value: str):
    with pytest.raises(DataError, match="no such file"):
        found(alpaca=value)


def test_own_data_is_looked_up_on_the_hub_only_with_an_owner():
    (source,) = found(chat=("owner/name:train[:100]",))
    assert (source.name, source.files) == ("name", None)
    with pytest.raises(DataError, match="no such file"):
        found(chat=("name",))


def test_a_shape_is_forced_for_one_source_or_for_all_own_data(tmp_path: Path):
    files = (touch(tmp_path, "a.jsonl"), touch(tmp_path, "b.jsonl"))
    assert [s.shape for s in found(chat=files, shape=("sharegpt",))] == ["sharegpt"] * 2
    assert [s.shape for s in found(chat=files, shape=("b.jsonl=alpaca",))] == ["", "alpaca"]
    both = found(alpaca=files[0], chat=files[1:], shape=("messages", "alpaca=alpaca"))
    assert [s.shape for s in both] == ["alpaca", "messages"]


@pytest.mark.parametrize(
    ("settings", "suggestion"),
    [
        ({"shape": ("c.jsonl=hh",)}, "a.jsonl"),
        ({"shape": ("hh",)}, "messages"),
        ({"mix": ("alpaca=2",)}, "a.jsonl"),
    ],
)
def test_an_unknown_name_or_shape_is_refused_with_the_known_ones(
    tmp_path: Path, settings: dict[str, Any], suggestion: str
):
    with pytest.raises(ConfigError, match=suggestion) as error:
        found(chat=(touch(tmp_path, "a.jsonl"),), **settings)
    assert error.value.setting in settings


def test_a_forced_shape_needs_a_source_that_can_have_it(tmp_path: Path):
    file = touch(tmp_path, "a.jsonl")
    with pytest.raises(ConfigError, match="preference"):
        found(alpaca=file, shape=("hh",))
    with pytest.raises(ConfigError, match="does not apply"):
        found(oasst1=file, shape=("oasst1=messages",))


def test_nothing_is_held_out_of_a_source_with_a_validation_split(tmp_path: Path):
    files = (touch(tmp_path, "train.jsonl"), touch(tmp_path, "valid.jsonl"))
    assert [source.holdout for source in found(chat=files, holdout=0.3)] == [0, 0]
    assert [source.holdout for source in found(chat=files[:1], holdout=0.3)] == [0.3]


def test_the_sample_is_four_files_and_their_licences():
    sources = find_sources(PrepareConfig(sample=True))
    names = [file.name for source in sources for files in (source.files or {}).values()
             for file in files]  # fmt: skip
    assert sorted(names) == sorted(file.name for file in SAMPLE.glob("*.gz"))
    licences = (SAMPLE / "LICENSES.md").read_text(encoding="utf-8")
    assert all(name in licences for name in names)


def test_only_leaves_out_public_data_sets_that_are_not_given():
    rows = str(SAMPLE / "instructions.train.jsonl.gz")
    assert [source.value for source in find_sources(PrepareConfig(only=True, chat=(rows,)))] == [
        rows
    ]
    asked = PrepareConfig(only=True, alpaca=rows)
    assert [source.name for source in find_sources(asked)] == ["alpaca"]
    with pytest.raises(ConfigError, match="off"):
        find_sources(PrepareConfig(only=True))
