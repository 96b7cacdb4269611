"""What a user thinks of replies, as rows that `gpt2chat prepare --feedback` trains on.

A reply that was good is a sample, one that was bad stands beside a better one as a pair:

    {"prompt": [messages], "completion": text, "label": true}      label false for a bad one
    {"prompt": [messages], "chosen": text, "rejected": text}

These are TRL's forms of unpaired and of paired preferences.
"""

import json
from pathlib import Path
from typing import Any

from gpt2chat.core.conversations import Conversation
from gpt2chat.core.files import storage


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
        if reply in others.get(prompt, ()):
            others[prompt].remove(reply)  # the opinion has changed
        rows: list[dict[str, Any]] = [{"completion": reply, "label": label}]
        for other in others.get(prompt, ()):
            chosen, rejected = (reply, other) if label else (other, reply)
            rows.append({"chosen": chosen, "rejected": rejected})
        messages = prompt.as_dicts()
        lines = [json.dumps({"prompt": messages, **row}, ensure_ascii=False) for row in rows]
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write("\n".join(lines) + "\n")
        same.setdefault(prompt, []).append(reply)
        return len(rows)
