"""Commands on the messages of a chat, and on files of them."""

from typing import TYPE_CHECKING

from gpt2chat import report
from gpt2chat.core.errors import ConfigError, Gpt2ChatError
from gpt2chat.core.text.wording import counted
from gpt2chat.dialogue.text import as_typed, given_path, shortened

if TYPE_CHECKING:
    from gpt2chat.dialogue.dialogue import Dialogue


def clear(dialogue: "Dialogue", _: str) -> None:
    """Forget all messages. What was kept of them stays kept."""
    if dialogue.autosave:
        dialogue.autosave.begin_another()
    dialogue.session.clear()
    report.note("All messages are forgotten.")


def retry(dialogue: "Dialogue", _: str) -> None:
    """Replace the latest reply by another."""
    prompt = dialogue.session.retry(dialogue.sampling.max_new_tokens)
    try:
        dialogue.answer(prompt, dialogue.retries + 1)
    finally:
        dialogue.session.take_back()  # no reply came: the old one stays


def undo(dialogue: "Dialogue", _: str) -> None:
    """Take back the latest message and its reply."""
    text = dialogue.session.undo()
    dialogue.draft = as_typed(text)
    report.note(f"Taken back: {shortened(text)}")


def edit(dialogue: "Dialogue", text: str) -> None:
    """Put a better reply in the place of the latest, and note both."""
    prompt, old = dialogue.session.latest
    if not text and dialogue.drafts:
        dialogue.draft = "/edit " + as_typed(old).lstrip(" ")
        return
    if not text:
        raise ConfigError("/edit needs the better reply, such as /edit Rome is in Italy.")
    dialogue.session.edit(text)
    new = dialogue.session.latest[1]
    if new == old:
        report.note("The reply stays as it was.")
        return
    try:
        rows = dialogue.feedback.bad(prompt, old) + dialogue.feedback.good(prompt, new)
    except (Gpt2ChatError, OSError):
        dialogue.session.edit(old)  # so that it can be edited again once the file can be written
        raise
    tell_noted(dialogue, rows)


def good(dialogue: "Dialogue", _: str) -> None:
    """Note that the latest reply is good."""
    tell_noted(dialogue, dialogue.feedback.good(*dialogue.session.latest))


def bad(dialogue: "Dialogue", _: str) -> None:
    """Note that the latest reply is bad; with a better one to come it makes a pair."""
    written = dialogue.feedback.bad(*dialogue.session.latest)
    tell_noted(dialogue, written)
    if written == 1:
        report.note("With a better one, by /retry and /good or by /edit, it makes a pair.")


def tell_noted(dialogue: "Dialogue", rows: int) -> None:
    """Say what was written to the file of opinions."""
    what = f"Noted: {counted(rows, 'row')} in {dialogue.feedback.path}."
    report.note(what if rows else "That is noted already.")


def save(dialogue: "Dialogue", name: str) -> None:
    """Write the chat to a file."""
    path = given_path("/save", name)
    replaced = ", in place of the chat before" if path.exists() else ""
    dialogue.session.save(path)
    report.note(f"Saved {counted(len(dialogue.session.turns), 'message')} to {path}{replaced}.")


def load(dialogue: "Dialogue", name: str) -> None:
    """Go on with a saved chat. What was kept of the one before stays kept."""
    path = given_path("/load", name)
    dialogue.session.load(path)
    if dialogue.autosave:
        dialogue.autosave.begin_another()
    turns = dialogue.session.turns
    waits = " /retry answers the latest." if turns[-1].role == "user" else ""
    report.note(f"Loaded {counted(len(turns), 'message')} from {path}.{waits}")
