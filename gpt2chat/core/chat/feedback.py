"""Write users' opinions on replies as rows that `prepare(feedback=FILE)` trains on.

A good reply is a sample; a bad one and a better one to the same prompt are a pair:

    {"prompt": [messages], "completion": text, "label": true}      label false for a bad one
    {"prompt": [messages], "chosen": text, "rejected": text}

These are TRL's forms of unpaired and paired preferences. Fields that training ignores say more:

- `cut: true`: the model did not end the good or chosen reply itself. `prepare` leaves such a row
  out, since it would train the model to stop in mid-sentence.
- `chosen_model`, `rejected_model`, `seed` and `date`: of a vote between models.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from gpt2chat.core.files import storage
from gpt2chat.core.text.conversations import Conversation


class Feedback:
    """Opinions on replies, each appended to a file at once."""

    def __init__(self, path: Path):
        self.path = path
        self._good: dict[Conversation, list[str]] = {}
        self._bad: dict[Conversation, list[str]] = {}
        self._cut: set[tuple[Conversation, str]] = set()

    def good(self, prompt: Conversation, reply: str, *, cut: bool = False) -> int:
        """Note a good reply, and a pair with each bad one to the same prompt.

        Args:
            cut: The model did not end the reply itself.

        Returns:
            The number of rows written; 0 if the same was noted before.

        Raises:
            StorageError: The file cannot be written.
        """
        return self._note(prompt, reply, self._good, self._bad, label=True, cut=cut)

    def bad(self, prompt: Conversation, reply: str, *, cut: bool = False) -> int:
        """Note a bad reply, and a pair with each good one to the same prompt; see `good`."""
        return self._note(prompt, reply, self._bad, self._good, label=False, cut=cut)

    def _note(
        self,
        prompt: Conversation,
        reply: str,
        same: dict[Conversation, list[str]],
        others: dict[Conversation, list[str]],
        *,
        label: bool,
        cut: bool,
    ) -> int:
        if reply in same.get(prompt, ()):
            return 0
        if cut:
            self._cut.add((prompt, reply))
        # An opinion that changed no longer makes pairs.
        against = [other for other in others.get(prompt, ()) if other != reply]
        rows: list[dict[str, Any]] = [{"completion": reply, "label": label, **_cut(cut)}]
        for other in against:
            chosen, rejected = (reply, other) if label else (other, reply)
            rows.append(
                {"chosen": chosen, "rejected": rejected, **_cut((prompt, chosen) in self._cut)}
            )
        self._append(prompt, rows)
        others[prompt] = against
        same.setdefault(prompt, []).append(reply)
        return len(rows)

    def vote(
        self,
        prompt: Conversation,
        chosen: str,
        replies: Mapping[str, str],
        seed: int,
        *,
        cut: bool = False,
    ) -> int:
        """Note which model's reply is the best, as a pair with each other reply.

        Args:
            chosen: The model that gave the best reply.
            replies: The replies of all models, by model.
            seed: The seed that all of them were drawn with.
            cut: The model did not end the best reply itself.

        Returns:
            The number of rows written; 0 if the others replied the same, or nothing.

        Raises:
            StorageError: The file cannot be written.
        """
        best = replies[chosen].strip()
        rows: list[dict[str, Any]] = []
        for model, reply in replies.items():
            if model == chosen or reply.strip() in ("", best):
                continue
            pair = {"chosen": best, "rejected": reply.strip()}
            models = {"chosen_model": chosen, "rejected_model": model}
            date = datetime.now(UTC).isoformat(timespec="seconds")
            rows.append({**pair, **models, "seed": seed, "date": date, **_cut(cut)})
        self._append(prompt, rows)
        return len(rows)

    def _append(self, prompt: Conversation, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to the file, all with the same prompt."""
        messages = prompt.as_dicts()
        lines = [json.dumps({"prompt": messages, **row}, ensure_ascii=False) + "\n" for row in rows]
        if not lines:
            return
        with storage(self.path, "Give another file as `feedback`."):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                # A file that was edited by hand may lack its last line break.
                if file.tell() and not _ends_with_newline(file):
                    lines.insert(0, "\n")
                file.write("".join(lines).encode())


def _cut(cut: bool) -> dict[str, bool]:
    return {"cut": True} if cut else {}


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
