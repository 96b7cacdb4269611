"""Define the commands on the settings of a chat: system prompt, document and sampling."""

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any, cast

from gpt2chat import report
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import CheckpointError, ConfigError
from gpt2chat.core.model.names import local_folder
from gpt2chat.core.text.tokens import encode_text
from gpt2chat.core.text.wording import plural
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.text import parse_path, read_text, shortened


def system(dialogue: Dialogue, text: str) -> None:
    """Show or change the system prompt."""
    if text:
        dialogue.session.set_system(None if text.lower() == "default" else text)
    report.note(f"The system prompt: {dialogue.session.system}")


def document(dialogue: Dialogue, text: str) -> None:
    """Show, set or drop the document to talk about."""
    if text.startswith("@"):
        path = parse_path("/document", text[1:].strip(), "@page.txt")
        dialogue.session.set_document(read_text(path))
    elif text:
        dialogue.session.set_document(None if text.lower() == "off" else text)
    report.note(f"The document: {document_summary(dialogue)}")


def document_summary(dialogue: Dialogue) -> str:
    """Return the beginning and the length of the document."""
    text = dialogue.session.document
    if text is None:
        return "none"
    return f"{shortened(text)} ({plural(len(encode_text(text)), 'token')})"


def context(dialogue: Dialogue, _: str) -> None:
    """Show the prompt that the model reads next."""
    report.show_context(dialogue.session.layout(dialogue.chat.sampling.max_new_tokens))


def set_(dialogue: Dialogue, text: str) -> None:
    """Show or change how replies are sampled."""
    name, value = (re.split(r"\s*=\s*|\s+", text, maxsplit=1) + [""])[:2]
    name = name.lower().lstrip("-").replace("-", "_")  # as on the command line, too
    chat, names = dialogue.chat, list(settings(dialogue))
    if name and name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"The settings are {', '.join(names)}."
        raise ConfigError(f"There is no setting {name}. {advice}")
    if value.lower() == "default":
        chat.sampling = dataclasses.replace(chat.sampling, **{name: getattr(Sampling(), name)})
    elif value:
        chat.sampling = chat.sampling.with_setting(name, value)
    values = settings(dialogue)
    report.show_rows([(name, values[name])] if name else list(values.items()))


def settings(dialogue: Dialogue) -> dict[str, str]:
    """Return the settings that /set can change, with their values as one types them."""
    values: dict[str, Any] = dataclasses.asdict(dialogue.chat.sampling)
    for name, value in values.items():
        if isinstance(value, tuple | list):
            values[name] = " ".join(map(repr, cast(list[str], value))) or "none"
        else:
            values[name] = "none" if value is None else str(value)
    return values


def show(dialogue: Dialogue, _: str) -> None:
    """Show the model, the settings and the files of the chat."""
    name, *others = dialogue.models.names
    session, autosave = dialogue.session, dialogue.autosave
    # /show does not wait for the model.
    loading = dialogue.models.loading(name)
    model = loading.result() if loading.done() else None
    rows = [
        ("model", name),
        ("folder", _folder(name)),
        ("parameters", f"{model.parameters:,}" if model else "loading"),
        ("device", model.device if model else "loading"),
        ("window", f"{session.window:,} tokens, {session.used:,} used"),
        ("sampling", ", ".join(f"{n} {value}" for n, value in settings(dialogue).items())),
        ("system prompt", session.system),
        ("document", document_summary(dialogue)),
        ("feedback", str(dialogue.chat.feedback.path.absolute())),
        ("chats", str(autosave.folder) if autosave else "not saved"),
        ("typed lines", str(dialogue.history) if dialogue.history else "not saved"),
    ]
    report.show_rows([*rows, ("to compare", ", ".join(others))] if others else rows)


def _folder(name: str) -> str:
    try:
        folder = local_folder(name)
    except CheckpointError:  # deleted since it was loaded
        folder = Path(name)
    return str(folder.absolute()) if folder else "Hugging Face Hub"
