"""Commands on what stands around the messages: system prompt, document, sampling; and what is."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2chat import report
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import CheckpointError, ConfigError
from gpt2chat.core.runs import local_folder
from gpt2chat.core.text.tokens import encode_text
from gpt2chat.core.text.wording import counted
from gpt2chat.dialogue.text import given_path, read_text, shortened

if TYPE_CHECKING:
    from gpt2chat.dialogue.dialogue import Dialogue

SWITCH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


def system(dialogue: "Dialogue", text: str) -> None:
    """Show or change the system prompt."""
    if text:
        dialogue.session.set_system(None if text.lower() == "default" else text)
    report.note(f"The system prompt: {dialogue.session.system}")


def document(dialogue: "Dialogue", text: str) -> None:
    """Show, set or drop the document to talk about."""
    if text.startswith("@"):
        path = given_path("/document", text[1:].strip(), "@page.txt")
        dialogue.session.set_document(read_text(path))
    elif text:
        dialogue.session.set_document(None if text.lower() == "off" else text)
    report.note(f"The document: {about_document(dialogue)}")


def about_document(dialogue: "Dialogue") -> str:
    """Return the document's beginning and length."""
    text = dialogue.session.document
    if text is None:
        return "none"
    return f"{shortened(text)} ({counted(len(encode_text(text)), 'token')})"


def context(dialogue: "Dialogue", _: str) -> None:
    """Show the prompt that the model reads next."""
    report.show_context(dialogue.session.layout(dialogue.sampling.max_new_tokens))


def set_(dialogue: "Dialogue", text: str) -> None:
    """Show or change how replies are sampled and shown."""
    name, value = (re.split(r"\s*=\s*|\s+", text, maxsplit=1) + [""])[:2]
    name = name.lower().lstrip("-").replace("-", "_")
    if name and name not in settings(dialogue):
        names = ", ".join(settings(dialogue))
        raise ConfigError(f"There is no setting {name}. There are {names}.")
    if name == "markdown":
        dialogue.markdown = _switched(value, dialogue.markdown)
    elif value.lower() == "default":
        default = {name: getattr(Sampling(), name)}
        dialogue.sampling = dataclasses.replace(dialogue.sampling, **default)
    elif value:
        dialogue.sampling = dialogue.sampling.with_setting(name, value)
    shown = settings(dialogue)
    report.show_rows([(name, shown[name])] if name else list(shown.items()))


def _switched(value: str, now: bool) -> bool:
    if value and value.lower() not in (*SWITCH, "default"):
        raise ConfigError(f"markdown must be on or off, not {value}.")
    return SWITCH.get(value.lower(), True) if value else now


def settings(dialogue: "Dialogue") -> dict[str, str]:
    """Return what /set can change, as it is typed."""
    values = {name: _spelled(v) for name, v in dataclasses.asdict(dialogue.sampling).items()}
    return {**values, "markdown": "on" if dialogue.markdown else "off"}


def _spelled(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(repr, value)) or "none"
    return "none" if value is None else str(value)


def show(dialogue: "Dialogue", _: str) -> None:
    """Show what answers, how, and where things are kept."""
    name, *others = dialogue.models.names
    session = dialogue.session
    values = settings(dialogue)
    kept = dialogue.autosave
    rows = [
        ("model", name),
        ("folder", _folder(name)),
        *_about_model(dialogue, name),
        ("window", f"{session.window:,} tokens, {session.used:,} used"),
        ("sampling", ", ".join(f"{n} {v}" for n, v in values.items() if n != "markdown")),
        ("markdown", values["markdown"]),
        ("system prompt", session.system),
        ("document", about_document(dialogue)),
        ("feedback", str(dialogue.feedback.path.absolute())),
        ("chats", str(kept.folder) if kept else "not kept"),
        ("typed lines", str(dialogue.history) if dialogue.history else "not kept"),
    ]
    report.show_rows([*rows, ("to compare", ", ".join(others))] if others else rows)


def _about_model(dialogue: "Dialogue", name: str) -> list[tuple[str, str]]:
    loading = dialogue.models.loading(name)
    if not loading.done():
        return [("parameters", "loading"), ("device", "loading")]
    model = loading.result()
    return [("parameters", f"{model.parameters:,}"), ("device", model.device)]


def _folder(name: str) -> str:
    try:
        folder = local_folder(name)
    except CheckpointError:  # it is gone, and what was loaded of it is in memory
        folder = Path(name)
    return str(folder.absolute()) if folder else "Hugging Face Hub"
