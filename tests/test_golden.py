"""The rows of known inputs never change: not their content, not their order, not what is dropped.

python -m tests.test_golden     writes tests/golden.json, after a wanted change of rows
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import prepare
from tests.helpers import SAMPLE, sample_rows

GOLDEN = Path(__file__).with_name("golden.json")
OASST1 = str(SAMPLE / "oasst1.validation.jsonl.gz")
COUNTED = ("counts", "dropped", "noted", "unused", "tokens", "lengths", "settings", "holdout")


def the_sample(_: Path) -> dict[str, Any]:
    return {"sample": True}


def many_chunks(folder: Path) -> dict[str, Any]:
    """Nine thousand short rows, of which every thousandth is broken, and OASST1."""
    with (folder / "many.jsonl").open("w", encoding="utf-8") as file:
        for number in range(9_000):
            row = {"instruction": f"Count to {number}.", "output": f"One, two and on to {number}."}
            file.write((json.dumps(row) if number % 1000 else '{"instruction": ') + "\n")
    return {"oasst1": OASST1, "alpaca": str(folder / "many.jsonl"), "holdout": 0.1}


def every_shape(folder: Path) -> dict[str, Any]:
    """Each shape and format, near-duplicates, broken encodings, a short window and a mix."""
    rows = sample_rows("instructions.train.jsonl.gz", 600)
    chat: list[dict[str, Any]] = []
    turns: list[dict[str, str]] = []
    for number, row in enumerate(rows):
        asked, reply = f"{row['instruction']}\n{row['input']}".strip(), row["output"]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        match number % 6:
            case 0:
                chat.append({"messages": turns, "quality": number})
            case 1:
                said = [{"from": "human", "value": asked}, {"from": "gpt", "value": reply}]
                chat.append({"conversations": [*said, *said], "system": "Be brief."})
            case 2:
                chat.append({"prompt": asked, "completion": reply + " Ã¶ <|eot_id|>\x07"})
            case 3:
                chat.append({"instruction": asked, "output": reply, "history": [["Hi", "Hello"]]})
            case 4:
                chat += [row, {**row, "output": f"{reply} Indeed."}]
            case _:
                chat.append({"messages": [*turns, {"role": "tool", "content": "1"}], "label": True})
    lines = [json.dumps(row) for row in chat]
    lines[10:10] = ["broken", '{"a": 1}{"prompt": "One", "completion": "line"}', "[]"]
    (folder / "chat.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "list.json").write_text(json.dumps({"version": 1, "data": rows[:40]}, indent=1))
    pairs = sample_rows("ultrafeedback.jsonl.gz", 300)
    parquet.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet", row_group_size=70)
    feedback = [{"prompt": "Who?", "chosen": "I am Pebble.", "rejected": "No."},
                {"prompt": [turns[0]], "completion": "Good.", "label": False, "cut": True},
                {"prompt": "And you?", "completion": "Fine, thanks."}]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in feedback)
    (folder / "feedback.jsonl").write_text(text, encoding="utf-8")
    return {
        "oasst1": OASST1, "oasst1_pairs": True, "oasst1_rank": "best", "alpaca": "off",
        "ultrafeedback": "off", "chat": (str(folder / "chat.jsonl"), str(folder / "list.json")),
        "preference": (str(folder / "pairs.parquet"),),
        "feedback": (str(folder / "feedback.jsonl"),),
        "holdout": 0.3, "max_length": 256, "seed": 3,
        "mix": ("chat.jsonl=1.5", "list.json=0.5", "pairs.parquet=:50"),
    }  # fmt: skip


CORPORA = (the_sample, many_chunks, every_shape)


def digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield a hash of each shard, of what was dropped (in any order), and of the counts."""
    for shard in sorted(folder.glob("*/*.jsonl")):
        name = shard.relative_to(folder).as_posix()
        yield name, hashlib.sha256(shard.read_bytes()).hexdigest()[:16]
    lines = sorted((folder / "dropped.jsonl").read_bytes().splitlines())
    yield "dropped.jsonl", hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name in COUNTED:
        text = json.dumps(manifest[name], sort_keys=True)
        yield name, hashlib.sha256(text.encode()).hexdigest()[:16]


def made(corpus: Any, folder: Path, **settings: Any) -> dict[str, str]:
    off: dict[str, Any] = {} if corpus is the_sample else {"alpaca": "off", "ultrafeedback": "off"}
    given = {**off, **corpus(folder), **settings}
    return dict(digests(prepare(PrepareConfig(**given, out=folder / "data")).out))


@pytest.mark.parametrize("corpus", CORPORA)
def test_known_inputs_give_the_rows_that_they_always_gave(corpus: Any, tmp_path: Path):
    assert made(corpus, tmp_path) == json.loads(GOLDEN.read_text())[corpus.__name__]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        golden: dict[str, dict[str, str]] = {}
        for corpus in CORPORA:
            own = Path(folder, corpus.__name__)
            own.mkdir()
            golden[corpus.__name__] = made(corpus, own)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
