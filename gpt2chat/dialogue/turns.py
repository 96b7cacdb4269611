"""Define the commands on the messages of a chat, and on saved chats."""

from gpt2chat import report
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.text.wording import plural
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.text import as_typed, parse_path, shortened


def clear(dialogue: Dialogue, _: str) -> None:
    """Forget all messages. The saved copy of the chat stays."""
    if dialogue.autosave:
        dialogue.autosave.begin_another()
    dialogue.chat.clear()
    report.note("Forgot all messages.")


def retry(dialogue: Dialogue, _: str) -> None:
    """Replace the latest reply with another."""
    dialogue.answer(dialogue.chat.stream_retry())


def undo(dialogue: Dialogue, _: str) -> None:
    """Take back the latest message and its reply."""
    text = dialogue.chat.undo()
    dialogue.draft = as_typed(text)
    report.note(f"Taken back: {shortened(text)}")


def edit(dialogue: Dialogue, text: str) -> None:
    """Replace the latest reply with a better one, and write both to the feedback file."""
    if not text and dialogue.drafts:
        dialogue.draft = "/edit " + as_typed(dialogue.session.latest[1]).lstrip(" ")
        return
    if not text:
        raise ConfigError("/edit needs the better reply, such as /edit Rome is in Italy.")
    rows = dialogue.chat.edit(text)
    if rows:
        report_rows(dialogue, rows)
    else:
        report.note("The reply is unchanged.")


def good(dialogue: Dialogue, _: str) -> None:
    """Write the latest reply to the feedback file as a good one."""
    report_rows(dialogue, dialogue.chat.good())
    if dialogue.session.is_cut:
        report.note(
            "The model did not end this reply itself, so prepare leaves it out. Complete it "
            "with /edit to train on it."
        )


def bad(dialogue: Dialogue, _: str) -> None:
    """Write the latest reply to the feedback file as a bad one; a better one then makes a pair."""
    rows = dialogue.chat.bad()
    report_rows(dialogue, rows)
    if rows == 1:
        report.note("A better reply, by /retry and /good or by /edit, makes a pair with it.")


def report_rows(dialogue: Dialogue, rows: int) -> None:
    """Print how many rows were written to the feedback file."""
    written = f"Noted: {plural(rows, 'row')} in {dialogue.chat.feedback.path}."
    report.note(written if rows else "You have noted that already.")


def save(dialogue: Dialogue, name: str) -> None:
    """Write the chat to a file."""
    path = parse_path("/save", name)
    replaced = ", replacing the chat in it" if path.exists() else ""
    dialogue.chat.save(path)
    report.note(f"Saved {plural(len(dialogue.session.turns), 'message')} to {path}{replaced}.")


def load(dialogue: Dialogue, name: str) -> None:
    """Continue a saved chat. The saved copy of the present one stays."""
    path = parse_path("/load", name)
    dialogue.chat.load(path)
    if dialogue.autosave:
        dialogue.autosave.begin_another()
    turns = dialogue.session.turns
    advice = " /retry answers the latest." if turns[-1].role == "user" else ""
    report.note(f"Loaded {plural(len(turns), 'message')} from {path}.{advice}")
