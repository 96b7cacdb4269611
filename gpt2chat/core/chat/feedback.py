"""What a user thinks of replies, as rows that `gpt2chat prepare --feedback` trains on.

A reply that was good is a sample, one that was bad stands beside a better one as a pair:

    {"prompt": [messages], "completion": text, "label": true}      label false for a bad one
    {"prompt": [messages], "chosen": text, "rejected": text}

These are TRL's forms of unpaired and of paired preferences. A pair that a vote between models made
says more, which training leaves aside: `chosen_model`, `rejected_model`, `seed` and `date`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpt2chat.core.files import storage
from gpt2chat.core.text.conversations import Conversation


class Feedback:
    """Opinions on replies, each written at once to the end of a file."""

    def __init__(self, path: Path):
        self.path = path
        self._good: dict[Conversation, list[str]] = {}
        self._bad: dict[Conversation, list[str]] = {}

    def good(self, prompt: Conversation, reply: str) -> int:
        """Note a good reply, with a pair for each bad one to the same prompt.

        Returns:
            How many rows were written; none where the same was noted before.

        Raises:
            StorageError: The file cannot be written.
        """
        return self._note(prompt, reply, self._good, self._bad, label=True)

    def bad(self, prompt: Conversation, reply: str) -> int:
        """Note a bad reply, with a pair for each good one to the same prompt; else like `good`."""
        return self._note(prompt, reply, self._bad, self._good, label=False)

    def _note(
        self,
        prompt: Conversation,
        reply: str,
        same: dict[Conversation, list[str]],
        others: dict[Conversation, list[str]],
        *,
        label: bool,
    ) -> int:
        if reply in same.get(prompt, ()):
            return 0
        # One that was noted as the opposite is so no more.
        against = [other for other in others.get(prompt, ()) if other != reply]
        rows: list[dict[str, Any]] = [{"completion": reply, "label": label}]
        for other in against:
            chosen, rejected = (reply, other) if label else (other, reply)
            rows.append({"chosen": chosen, "rejected": rejected})
        self._append(prompt, rows)
        others[prompt] = against
        same.setdefault(prompt, []).append(reply)
        return len(rows)

    def vote(self, prompt: Conversation, chosen: str, replies: Mapping[str, str], seed: int) -> int:
        """Note which model's reply is the best: a pair with each other reply.

        Args:
            chosen: The model that gave it.
            replies: What each model replied, as it came.
            seed: That all of them were drawn with.

        Returns:
            How many rows were written; none where the others replied the same, or nothing.

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
            rows.append({**pair, **models, "seed": seed, "date": date})
        self._append(prompt, rows)
        return len(rows)

    def _append(self, prompt: Conversation, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows to the end of the file, all with the same prompt."""
        messages = prompt.as_dicts()
        lines = [json.dumps({"prompt": messages, **row}, ensure_ascii=False) + "\n" for row in rows]
        if not lines:
            return
        with storage(self.path, "Give another with --feedback."):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write("".join(lines))
