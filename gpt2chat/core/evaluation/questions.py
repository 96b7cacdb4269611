"""Read the fixed questions that models answer, and decide whether replies keep to instructions."""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gpt2chat.core.text.conversations import Conversation, Message

FILE = Path(__file__).with_name("questions.toml")


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt of the fixed set."""

    name: str
    kind: str
    """The heading in the file: reference, small-talk, turns or instructions."""
    prompt: Conversation
    checks: Mapping[str, Any]
    """What a reply must fulfil, by the names in `CHECKS`."""

    def kept(self, reply: str) -> list[bool]:
        """Return for each check whether a reply fulfils it."""
        return [CHECKS[name](reply.strip(), value) for name, value in self.checks.items()]


def _has(reply: str, words: str | list[str]) -> bool:
    words = [words] if isinstance(words, str) else words
    # Whole words: "art" is not in "start".
    return all(re.search(rf"\b{re.escape(word)}\b", reply, re.IGNORECASE) for word in words)


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    # An empty reply fulfils nothing, although it has no commas either.
    "most-words": lambda reply, count: 0 < len(reply.split()) <= count,
    "least-words": lambda reply, count: len(reply.split()) >= count,
    # A reply without a letter is in neither case.
    "lower-case": lambda reply, _: reply.lower() == reply and reply.upper() != reply,
    "upper-case": lambda reply, _: reply.upper() == reply and reply.lower() != reply,
    "has": _has,
    "lacks": lambda reply, word: bool(reply) and not _has(reply, word),
    "lacks-text": lambda reply, text: bool(reply) and text not in reply,
    "begins": lambda reply, text: reply.startswith(text),
    "ends": lambda reply, text: reply.endswith(text),
    "digits": lambda reply, _: reply.removesuffix(".").isdecimal(),
    "bullets": lambda reply, count: len(re.findall(r"^- *\S", reply, re.MULTILINE)) == count,
    "numbered": lambda reply, count: (
        re.findall(r"^(\d+)\. *\S", reply, re.MULTILINE)
        == [str(number + 1) for number in range(count)]
    ),
}
"""Functions of a reply and a value, by the names of the checks in the file."""


@cache
def read_questions() -> tuple[int, tuple[Question, ...]]:
    """Return the version of the fixed set, and its questions."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    version = content.pop("version")
    roles = ("user", "assistant")
    return version, tuple(
        Question(
            name,
            kind,
            Conversation(
                tuple(Message(roles[at % 2], text) for at, text in enumerate(entry["turns"]))
            ),
            entry.get("checks", {}),
        )
        for kind, entries in content.items()
        for name, entry in entries.items()
    )
