"""Read a file of prompts to answer one by one."""

import json
from pathlib import Path
from typing import Any, cast

from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.text.conversations import Conversation, Message, parse_messages


def read_prompts(path: Path) -> list[Conversation]:
    """Return the prompts of a file, each a conversation that ends with a user message.

    The file is plain text with one prompt per line, or JSON Lines whose objects have a `prompt` (a
    text or a list of messages) or `messages`. It is JSON Lines if its first line is an object.
    Empty lines are skipped.

    Raises:
        DataError: The file cannot be read, has no prompt, or a line is not a prompt.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", setting="prompts") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.", setting="prompts") from error
    # Not `splitlines`: a prompt may contain U+2028, which is no end of line in JSON Lines.
    lines = [(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path} has no prompt. Write one per line.", setting="prompts")
    # By the first line alone: a later text that begins with a brace is still a text.
    is_json = lines[0][1].lstrip().startswith("{")
    prompts: list[Conversation] = []
    for at, line in lines:
        try:
            value: Any = {"prompt": line}
            if is_json:
                value = json.loads(line)
            fields = cast(dict[str, Any], value) if isinstance(value, dict) else {}
            prompt: Any = fields.get("messages", fields.get("prompt"))
            if prompt is None:
                raise RowError("neither prompt nor messages")
            if isinstance(prompt, str):
                conversation = Conversation((Message("user", prompt),))
            else:
                conversation = parse_messages(prompt)
            if conversation.reply is not None:
                raise RowError("the messages end with a reply, not with a user message")
            prompts.append(conversation)
        except (RowError, ValueError, RecursionError) as error:
            reason = "not JSON" if isinstance(error, ValueError | RecursionError) else error
            raise DataError(f"{path}, line {at}: {reason}.", setting="prompts") from error
    return prompts
