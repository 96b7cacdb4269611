"""Write users' ratings of replies as rows that `prepare(feedback=FILE)` reads.

A good reply is a sample; a bad one and a better one to the same prompt are a pair:

    {"prompt": [messages], "completion": text, "label": true}      label false for a bad one
    {"prompt": [messages], "chosen": text, "rejected": text}

These are TRL's forms of unpaired and paired preferences. Rows have further fields:

- `cut: true`: the model did not end the good or chosen reply itself. `prepare` leaves such a row
  out, since it would train the model to stop in mid-sentence.
- `chosen_model`, `rejected_model`, `seed` and `date`: details of a vote between models, which
  training ignores, as it does `model` and `reason` of a rating.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpt2chat.core.files import storage
from gpt2chat.core.text.conversations import Conversation, Preference

REMEMBERED = 1024
"""Prompts whose ratings can still make a pair. A server runs for months, so older ones go."""


class Feedback:
    """Appends ratings of replies to a file, each at once."""

    def __init__(self, path: Path):
        self.path = path
        self._good: dict[Conversation, list[str]] = {}
        self._bad: dict[Conversation, list[str]] = {}
        self._cut: set[tuple[Conversation, str]] = set()

    def good(self, prompt: Conversation, reply: str, *, cut: bool = False) -> int:
        """Write a good reply, and a pair with each bad one to the same prompt.

        Args:
            cut: Whether something other than the model ended the reply.

        Returns:
            The number of rows written; 0 if the reply was rated good before.

        Raises:
            StorageError: The file cannot be written.
        """
        return self.rate(prompt, reply, good=True, cut=cut)

    def bad(self, prompt: Conversation, reply: str, *, cut: bool = False) -> int:
        """Write a bad reply, and a pair with each good one to the same prompt; see `good`."""
        return self.rate(prompt, reply, good=False, cut=cut)

    def recall(self, prompt: Conversation, reply: str, *, good: bool, cut: bool = False) -> None:
        """Take a rating over that the file has already, so that later ones make pairs with it."""
        same = self._good if good else self._bad
        same.setdefault(prompt, []).append(reply)
        if cut:
            self._cut.add((prompt, reply))

    def rate(
        self,
        prompt: Conversation,
        reply: str,
        *,
        good: bool,
        cut: bool = False,
        details: Mapping[str, str] | None = None,
    ) -> int:
        """Write a good or a bad reply; see `good`.

        Args:
            details: Further fields of the row that rates the reply.
        """
        same, others = (self._good, self._bad) if good else (self._bad, self._good)
        if reply in same.get(prompt, ()):
            return 0
        if cut:
            self._cut.add((prompt, reply))
        # A reply that was rated the other way before makes no pair with itself.
        against = [other for other in others.get(prompt, ()) if other != reply]
        rows: list[dict[str, Any]] = [
            {"completion": reply, "label": good, **(details or {}), **_cut(cut)}
        ]
        for other in against:
            chosen, rejected = (reply, other) if good else (other, reply)
            rows.append(
                {"chosen": chosen, "rejected": rejected, **_cut((prompt, chosen) in self._cut)}
            )
        # Remembered only once it is written: after a full disk the same rating can be tried again.
        self._append(prompt, rows)
        # A reply that is rated the other way now leaves the list of its earlier rating.
        others[prompt] = against
        same.setdefault(prompt, []).append(reply)
        for ratings in (self._good, self._bad):
            while len(ratings) > REMEMBERED:
                oldest = next(iter(ratings))
                del ratings[oldest]
                self._cut = {entry for entry in self._cut if entry[0] != oldest}
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
        """Write which model's reply is the best, as a pair with each other reply.

        Args:
            chosen: The model that gave the best reply.
            replies: The replies of all models, by model.
            seed: The seed of all replies.
            cut: Whether something other than the model ended the best reply.

        Returns:
            The number of rows written; 0 if all other replies are the same or empty.

        Raises:
            StorageError: The file cannot be written.
        """
        best = replies[chosen].strip()
        rows: list[dict[str, Any]] = []
        for model, reply in replies.items():
            if model == chosen or reply.strip() in ("", best):
                continue  # such a pair says nothing, and `prepare` would drop it
            pair = {"chosen": best, "rejected": reply.strip()}
            models = {"chosen_model": chosen, "rejected_model": model}
            date = datetime.now(UTC).isoformat(timespec="seconds")
            rows.append({**pair, **models, "seed": seed, "date": date, **_cut(cut)})
        self._append(prompt, rows)
        return len(rows)

    def prefer(
        self, pair: Preference, *, cut: bool = False, details: Mapping[str, str] | None = None
    ) -> int:
        """Write that one reply is better than another, and return the number of rows, 1.

        Args:
            cut: Whether something other than the model ended the better reply.
            details: Further fields of the row.

        Raises:
            StorageError: The file cannot be written.
        """
        date = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"chosen": pair.chosen, "rejected": pair.rejected, "date": date}
        self._append(pair.prompt, [{**row, **(details or {}), **_cut(cut)}])
        return 1

    def _append(self, prompt: Conversation, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to the file, all with the same prompt."""
        messages = prompt.as_dicts()
        lines = [json.dumps({"prompt": messages, **row}, ensure_ascii=False) + "\n" for row in rows]
        if not lines:
            return
        with storage(self.path, "Give another file as `feedback`."):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened for each rating: two programs may append to one file, and it may be moved away.
            with self.path.open("ab+") as file:
                # A file that was edited by hand may lack its last line break.
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        lines.insert(0, "\n")
                file.write("".join(lines).encode())


def _cut(cut: bool) -> dict[str, bool]:
    return {"cut": True} if cut else {}
