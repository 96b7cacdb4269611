"""What an evaluation has computed is read again, and only that."""

from pathlib import Path

import pytest

from gpt2chat.core.errors import StorageError
from gpt2chat.core.evaluation.memo import Memo, key_of, model_sha256
from gpt2chat.core.model.names import ModelFolder


def test_contents_come_back_under_their_keys(tmp_path: Path):
    memo = Memo(tmp_path / "folder" / "memo")
    assert memo.read(["a"]) == {}
    memo.add([("a", b"1"), ("b", b"2")])
    memo.add([("b", b"3")])
    assert Memo(memo.path).read(["a", "b", "c"]) == {"a": b"1", "b": b"3"}


def test_a_file_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "memo").write_text("mine, and longer than the header of a database " * 9)
    before = (tmp_path / "memo").read_text()
    with pytest.raises(StorageError) as refusal:
        Memo(tmp_path / "memo").add([("a", b"1")])
    assert refusal.value.setting == "out"
    assert (tmp_path / "memo").read_text() == before


def test_keys_differ_if_any_fact_does():
    facts = [("a", 1), ("a", "1"), ("a", 1, None), ("a", (1,)), (("a", 1),)]
    assert len({key_of(*each) for each in facts}) == len(facts)


def test_the_hash_of_a_model_is_that_of_its_weights_and_of_its_base(tmp_path: Path):
    def folder(name: str, weights: str, base: ModelFolder | None = None) -> ModelFolder:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(weights)
        (tmp_path / name / "eval.json").write_text(name)
        return ModelFolder(name, tmp_path / name, 1024, is_chat=True, base=base)

    one, same, other = folder("one", "a"), folder("same", "a"), folder("other", "b")
    assert model_sha256(one) == model_sha256(same) != model_sha256(other)
    assert model_sha256(folder("x", "c", one)) != model_sha256(folder("y", "c", other))
