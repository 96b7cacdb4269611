"""Complete commands and their arguments at Tab."""

from collections.abc import Iterable, Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from gpt2chat.core.model.names import known_models
from gpt2chat.dialogue.commands import COMMANDS
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.settings import settings


class Completions(Completer):
    """Completes lines that begin with a slash, not messages."""

    def __init__(self, dialogue: Dialogue):
        self._dialogue = dialogue
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        """Yield the completions of the text before the cursor."""
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line:
            return
        word, space, rest = line.partition(" ")
        if not space:
            for command in COMMANDS:
                yield from _matching(word, command.names, command.meaning)
            return
        command = next((entry for entry in COMMANDS if word.lower() in entry.names), None)
        takes = command.takes if command else "nothing"
        if takes == "file" or (takes == "document" and rest.startswith("@")):
            path = rest.removeprefix("@") if takes == "document" else rest
            yield from self._paths.get_completions(Document(path), complete_event)
        else:
            yield from _matching(rest, self._words(word.lower(), takes, rest))

    def _words(self, command: str, takes: str, rest: str) -> Iterable[str]:
        """Return the words that may follow a command; `rest` is what follows it so far."""
        if takes == "document":
            return ("@", "off")
        if takes == "setting":
            values = settings(self._dialogue)
            name, space, _ = rest.partition(" ")
            if not space:
                return (f"{name} " for name in values)
            choices = (values.get(name, ""), "default")
            return (f"{name} {choice}" for choice in choices if choice)
        if takes == "model":
            loaded = self._dialogue.models.names
            return [name for name in known_models() if name not in loaded]
        return ("default",) if command == "/system" else ()


def _matching(typed: str, words: Iterable[str], meaning: str = "") -> Iterator[Completion]:
    """Yield the words that begin with the typed text, in any case."""
    for word in words:
        if word.lower().startswith(typed.lower()):
            yield Completion(word, start_position=-len(typed), display_meta=meaning)
