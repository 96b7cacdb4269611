"""Shards are read as they were written, or refused by name."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.data.shards import (
    MANIFEST,
    VERSION,
    manifest_text,
    read_manifest,
    read_pairs,
    read_samples,
)
from gpt2chat.core.errors import DataError
from gpt2chat.core.text.template import render, to_text
from gpt2chat.core.text.tokens import encode_conversation


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of a small data folder, free to be broken."""
    for file in tiny_data.rglob("*"):
        if file.is_file():
            copy = tmp_path / "data" / file.relative_to(tiny_data)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return tmp_path / "data"


def lines(data: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted((data / kind).glob("train-*"))
            for line in file.read_text(encoding="utf-8").splitlines()]  # fmt: skip


def test_samples_are_read_back_as_they_were_rendered(data: Path):
    for sample, row in zip(read_samples(data, "train"), lines(data, "sft"), strict=True):
        assert to_text(render(sample.conversation)) == row["prompt"] + row["completion"]
        assert (sample.id, sample.source, sample.group) == (row["id"], row["source"], row["group"])
        encoded = encode_conversation(sample.conversation)
        sizes = (row["prompt_tokens"], row["prompt_tokens"] + row["completion_tokens"])
        assert (encoded.prompt_length, len(encoded)) == sizes


def test_pairs_are_read_back_as_they_were_rendered(data: Path):
    for pair, row in zip(read_pairs(data, "train"), lines(data, "preference"), strict=True):
        for side, reply in (
            ("chosen", pair.preference.chosen),
            ("rejected", pair.preference.rejected),
        ):
            whole = pair.preference.prompt.with_reply(reply)
            assert to_text(render(whole)) == row["prompt"] + row[side]
            assert len(encode_conversation(whole)) == row["prompt_tokens"] + row[f"{side}_tokens"]


def test_training_and_validation_rows_are_separate(data: Path):
    train, validation = read_samples(data, "train"), read_samples(data, "validation")
    assert train
    assert validation
    assert not {sample.id for sample in train} & {sample.id for sample in validation}


def test_the_manifest_is_read_back_as_it_was_written(data: Path):
    manifest = read_manifest(data)
    assert manifest.window == 1024
    assert manifest_text(manifest) == (data / MANIFEST).read_text(encoding="utf-8")
    assert manifest.rows("sft", "train") == len(read_samples(data, "train"))


def test_without_a_manifest_the_message_suggests_prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        read_samples(Path("data"), "train")
    assert error.value.setting == "data"
    assert "`prepare()`" in str(error.value)


def test_a_shard_changed_by_hand_is_refused_by_name(data: Path):
    shard = data / "sft" / "train-00000-of-00001.jsonl"
    shard.write_text(shard.read_text().replace("the", "teh", 1))
    with pytest.raises(DataError, match=f"{shard}: "):
        read_samples(data, "train")
    assert read_pairs(data, "train")


def test_a_missing_shard_is_refused_by_name(data: Path):
    shard = data / "preference" / "train-00000-of-00001.jsonl"
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard}: "):
        read_pairs(data, "train")


def rewrite(data: Path, **values: Any) -> None:
    manifest = json.loads((data / MANIFEST).read_text())
    (data / MANIFEST).write_text(json.dumps({**manifest, **values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"template": "0" * 16}, "another chat template"),
        ({"tokenizer": "0" * 16}, "another tokenizer"),
        ({"version": VERSION + 1}, "not as prepare wrote it"),
        ({"more": 1}, "not as prepare wrote it"),
        ({"shards": [{"path": "x"}]}, "not as prepare wrote it"),
        ({"shards": None}, "not as prepare wrote it"),
        ({"counts": []}, "not as prepare wrote it"),
        ({"window": "1024"}, "not as prepare wrote it"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(data: Path, values: dict[str, Any], said: str):
    rewrite(data, **values)
    with pytest.raises(DataError, match=said):
        read_samples(data, "train")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}"])
def test_a_file_that_is_not_a_manifest_is_refused(data: Path, text: str):
    (data / MANIFEST).write_text(text)
    with pytest.raises(DataError, match="manifest.json"):
        read_manifest(data)


def without(data: Path, split: str) -> None:
    kept = [asdict(shard) for shard in read_manifest(data).shards if shard.split != split]
    rewrite(data, shards=kept)


def test_no_training_rows_is_an_error_but_no_validation_rows_is_not(data: Path):
    without(data, "validation")
    assert read_samples(data, "validation") == []
    assert read_pairs(data, "validation") == []
    without(data, "train")
    with pytest.raises(DataError, match="samples"):
        read_samples(data, "train")
    with pytest.raises(DataError, match="pairs"):
        read_pairs(data, "train")


def edit_row(data: Path, kind: str, change: dict[str, Any] | str) -> None:
    """Change the third row of a shard, and make its hash right again."""
    shard = data / kind / "train-00000-of-00001.jsonl"
    rows = shard.read_text(encoding="utf-8").splitlines(keepends=True)
    text = change if isinstance(change, str) else json.dumps({**json.loads(rows[2]), **change})
    rows[2] = text + "\n"
    shard.write_text("".join(rows), encoding="utf-8")
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    shards = [asdict(entry) for entry in read_manifest(data).shards]
    path = f"{kind}/{shard.name}"
    rewrite(data, shards=[s | {"sha256": digest} if s["path"] == path else s for s in shards])


@pytest.mark.parametrize(
    "change",
    [
        "{",
        "[" * 100_000,
        "[]",
        '"text"',
        {"conversation": None},
        {"conversation": [{"role": "user", "content": "Hi"}]},
        {"conversation": [{"role": "user", "content": ""}]},
        {"conversation": [{"role": ["user"], "content": "Hi"}]},
        {"id": 1},
        {"group": None},
    ],
)
def test_a_row_that_was_edited_is_named_with_its_file(data: Path, change: dict[str, Any] | str):
    edit_row(data, "sft", change)
    with pytest.raises(DataError, match=r"sft/train-00000-of-00001\.jsonl, row 3"):
        read_samples(data, "train")


@pytest.mark.parametrize("side", [{"chosen": None}, {"rejected": 1}, {"chosen": ""}])
def test_a_pair_that_was_edited_is_named_with_its_file(data: Path, side: dict[str, Any]):
    edit_row(data, "preference", side)
    with pytest.raises(DataError, match=r"preference/train-00000-of-00001\.jsonl, row 3"):
        read_pairs(data, "train")


def test_a_manifest_with_a_file_outside_its_folder_is_refused(data: Path):
    first, *others = (asdict(shard) for shard in read_manifest(data).shards)
    for path in ("../secret", "/etc/passwd"):
        rewrite(data, shards=[first | {"path": path}, *others])
        with pytest.raises(DataError, match="outside"):
            read_manifest(data)
