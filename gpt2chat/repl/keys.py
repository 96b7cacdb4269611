"""Keys of the prompt, in addition to those of every Emacs-like line editor."""

from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from gpt2chat.dialogue.text import is_open


def message_keys() -> KeyBindings:
    """Return the keys: Enter sends unless three quotes are open, Alt-Enter breaks the line."""
    keys = KeyBindings()

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # chosen from the menu, but not sent yet
        elif is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    @keys.add("escape", "c-j", filter=has_focus(DEFAULT_BUFFER))  # as typed while a reply streams
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add(Keys.Vt100MouseEvent)
    def _(_: KeyPressEvent) -> None:
        # A colour code that is pasted into a terminal that does not mark pastes looks like a click,
        # and prompt_toolkit would fail on it.
        pass

    return keys
