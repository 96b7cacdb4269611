"""Where a model comes from, and what licence that leaves it."""

from pathlib import Path

import pytest

from gpt2chat.core.training.lineage import (
    ALPACA,
    PERMISSIVE_DATA,
    Ancestor,
    ancestors,
    hub_base,
    licence,
)


def run(folder: Path, model: str, data: str = "data") -> str:
    folder.mkdir()
    (folder / "run.toml").write_text(f"model = {model!r}\ndata = {data!r}\n")
    return str(folder)


def test_a_run_is_followed_back_to_its_base(tmp_path: Path):
    sft = run(tmp_path / "sft", "gpt2", "mine")
    orpo = run(tmp_path / "orpo", sft)
    assert ancestors(orpo) == [Ancestor(orpo, "data"), Ancestor(sft, "mine"), Ancestor("gpt2", "")]
    assert hub_base(orpo) == "gpt2"


def test_a_run_that_names_itself_ends_the_search(tmp_path: Path):
    folder = str(tmp_path / "sft")
    run(tmp_path / "sft", folder)
    assert [known.model for known in ancestors(folder)] == [folder]


@pytest.mark.parametrize("base", ["starter", "runs/gone", "/models/own", "./own"])
def test_a_base_that_no_other_reader_has_is_not_named(base: str, tmp_path: Path):
    assert hub_base(run(tmp_path / "sft", base)) is None


def test_the_licence_is_told_where_base_and_data_are_known(tmp_path: Path):
    data = Path("data")
    assert licence("gpt2", data, PERMISSIVE_DATA) == "mit"
    assert licence("openai-community/gpt2-xl", data, PERMISSIVE_DATA) == "mit"
    assert (
        licence(run(tmp_path / "sft", "gpt2"), data, [*PERMISSIVE_DATA, ALPACA]) == "cc-by-nc-4.0"
    )
    assert licence(run(tmp_path / "other", "gpt2", "mine"), data, PERMISSIVE_DATA) is None
    assert licence("gpt2", data, ["own.jsonl"]) is None
    assert licence("someone/gpt2-of-theirs", data, PERMISSIVE_DATA) is None
    assert licence("starter", data, PERMISSIVE_DATA) is None
