"""Bind the prompt's own keys, in addition to those of every Emacs-like line editor."""

from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from gpt2chat.dialogue.text import is_open


def message_keys() -> KeyBindings:
    """Return the key bindings: Enter sends unless three quotes are open, Alt-Enter adds a line."""
    keys = KeyBindings()

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # the first Enter chooses from the menu
        elif is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    # The same keys, as the terminal sends them while a reply streams.
    @keys.add("escape", "c-j", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add(Keys.Vt100MouseEvent)
    def _(_: KeyPressEvent) -> None:
        # In a terminal that does not mark pastes, a pasted colour code looks like a mouse click,
        # and prompt_toolkit would fail on it.
        pass

    return keys
