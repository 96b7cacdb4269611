"""Pick rows of a data folder, and decode them as training sees them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2chat.core.data.shards import Kind, checked, damage, read_manifest
from gpt2chat.core.text.tokens import decode

KINDS: tuple[Kind, ...] = ("sft", "preference")
PICKS = ("source", "split", "id")


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample as training sees it, decoded from its ids; of a pair, the chosen side."""

    id: str
    untrained: str
    trained: str
    tokens: int
    """Number of all tokens."""
    trained_tokens: int


def pick_samples(data: Path, number: int, picks: Sequence[str] = ()) -> list[Shown]:
    """Return the first rows that match, samples before pairs.

    Args:
        number: Most rows.
        picks: `source=NAME`, `split=validation` (instead of training rows) or `id=ID`; anything
            else is a text that the row contains, in any case.
    """
    from safetensors.numpy import load_file

    named = dict(pick.split("=", 1) for pick in picks if pick.partition("=")[0] in PICKS)
    texts = [pick.casefold() for pick in picks if pick.partition("=")[0] not in PICKS]
    split = named.pop("split", "" if "id" in named else "train")
    shown: list[Shown] = []
    for shard in read_manifest(data).shards:
        if shard.kind not in KINDS or split not in ("", shard.split) or len(shown) >= number:
            continue
        path = checked(data / shard.tokens, shard.tokens_sha256)
        with damage(path):
            arrays = load_file(path)
        # A pair has two samples, the first of which is the chosen side.
        step = 2 if shard.kind == "preference" else 1
        ends = arrays["lengths"].cumsum(dtype="int64")
        with (data / shard.path).open("rb") as lines:
            for place, line in enumerate(lines):
                row = json.loads(line)
                content = "\n".join(message["content"] for message in row["conversation"])
                replies = (row.get(name, "") for name in ("completion", "chosen", "rejected"))
                content = "\n".join((content, *replies)).casefold()
                if any(row[name] != value for name, value in named.items()):
                    continue
                if not all(text in content for text in texts):
                    continue
                sample = place * step
                end, length = int(ends[sample]), int(arrays["lengths"][sample])
                ids = arrays["ids"][end - length : end].tolist()
                untrained = int(arrays["prompt_lengths"][sample])
                texts_of_both = decode(ids[:untrained]), decode(ids[untrained:])
                shown.append(Shown(row["id"], *texts_of_both, length, length - untrained))
                if len(shown) >= number:
                    break
    return shown
