"""Parse the transcripts of Anthropic HH: one text with `Human:` and `Assistant:` turns."""

import re

from gpt2chat.core.errors import RowError
from gpt2chat.core.text.conversations import Conversation, Message, Role

SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}

_BEGINNING = re.compile(r"\s*(?:Human|Assistant):")
# A speaker's name within a line is part of the message.
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def is_transcript(value: object) -> bool:
    """Return whether a value is text that begins with a turn."""
    return isinstance(value, str) and _BEGINNING.match(value) is not None


def parse_transcript(text: str, *, prompt: bool = False) -> Conversation:
    """Return the conversation in a transcript.

        "\\n\\nHuman: Hi\\n\\nAssistant: Hello!"

    Args:
        prompt: The transcript is a prompt, so an empty assistant turn at its end is allowed: the
            reply goes there.

    Raises:
        RowError: The text does not begin with a turn, a turn is empty, or the order is wrong.
    """
    if not is_transcript(text):
        raise RowError("transcript does not begin with Human: or Assistant:")
    # Only white space comes before the first speaker, so the first part is empty.
    _, *parts = _TURN.split(text)
    turns = list(zip(parts[::2], parts[1::2], strict=True))
    if prompt and turns[-1][0] == "Assistant" and not turns[-1][1].strip():
        del turns[-1]
    return Conversation(tuple(Message(SPEAKERS[speaker], said) for speaker, said in turns))
