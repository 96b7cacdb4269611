"""Write the selected rows as shards, each with a file of its ids, and what was dropped."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt2chat.core.data.chunks import REPORTED_REPLY
from gpt2chat.core.data.counts import dropped_line
from gpt2chat.core.data.selection import Order, Selection
from gpt2chat.core.data.shards import TOKENS, Shard
from gpt2chat.core.data.store import SPLITS
from gpt2chat.core.text.template import END_OF_TURN

SHARD_ROWS = 20_000


def write_shards(selection: Selection, key: int, order: Order, folder: Path) -> Iterator[Shard]:
    """Write the rows of a split, and yield the manifest's entry of each file."""
    from safetensors.numpy import save

    kind, split = SPLITS[key]
    ids = selection.store.read("ids", np.uint16)
    prompts, first, second = (
        selection.index[name].astype(np.int64) for name in ("prompt", "first", "second")
    )
    # A pair has two samples, each with the prompt.
    ends = np.cumsum(prompts + first + np.where(second > 0, prompts + second, 0))
    firsts = range(0, len(order.places), SHARD_ROWS)
    for number, begin in enumerate(firsts):
        stem = f"{kind}/{split}-{number:05}-of-{len(firsts):05}"
        path, tokens = f"{stem}.jsonl", f"{TOKENS}/{stem}.safetensors"
        for name in (path, tokens):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        places = order.places[begin : begin + SHARD_ROWS]
        digest = hashlib.sha256()
        with (folder / path).open("wb") as shard:
            repeats = order.repeats[begin : begin + SHARD_ROWS].tolist()
            for place, repeat in zip(places.tolist(), repeats, strict=True):
                line = selection.line(place)
                if repeat:  # Each copy of a row has an id of its own.
                    values: dict[str, Any] = json.loads(line)
                    values["id"] += f"#{repeat + 1}"
                    text = json.dumps(values, ensure_ascii=False)
                    line = text.encode("utf-8", "backslashreplace") + b"\n"
                digest.update(line)
                shard.write(line)
            size = shard.tell()
        replies = [first, second] if kind == "preference" else [first]
        lengths = np.stack([(prompts + reply)[places] for reply in replies], axis=1)
        spans = zip(ends[places] - lengths.sum(axis=1), ends[places], strict=True)
        content = save(
            {
                "ids": np.concatenate([ids[start:end] for start, end in spans]),
                "lengths": lengths.astype(np.int32).ravel(),
                "prompt_lengths": prompts[places].repeat(len(replies)).astype(np.int32),
            }
        )
        (folder / tokens).write_bytes(content)
        digests = (digest.hexdigest(), tokens, hashlib.sha256(content).hexdigest())
        yield Shard(path, kind, split, len(places), size, *digests)


def write_dropped(selection: Selection, path: Path) -> None:
    """Write every dropped record and row, with its file, line and reason.

    If a row was removed because it resembles another, `like` is the place of the other.
    """

    def at(row: int) -> dict[str, Any]:
        entry = selection.index[row]
        numbers = {"line": int(entry["line"]), "reply": int(entry["reply_number"])}
        return {"file": selection.part_of(row).file, **numbers}

    with path.open("wb") as file:
        selection.store.read("dropped").tofile(file)
        for removal in selection.removals:
            for row, like in zip(removal.places.tolist(), removal.like.tolist(), strict=True):
                values = json.loads(selection.line(row))
                text: str = values.get("completion") or values["chosen"]
                text = text.removesuffix(END_OF_TURN)[:REPORTED_REPLY]
                source = selection.part_of(row).source
                line = dropped_line(
                    source, reason=removal.reason, text=text, **at(row), like=at(like)
                )
                file.write(line.encode())
