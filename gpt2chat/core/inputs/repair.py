"""Repair texts that a wrong encoding or control characters have damaged."""

import re
from typing import NamedTuple

from ftfy import fix_encoding
from ftfy.badness import is_bad
from ftfy.fixes import remove_terminal_escapes

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufffe\uffff]")
"""C0 except tab and line feed, delete, C1, the byte order mark and Unicode's noncharacters."""

# ftfy's patterns contain a character outside this set, and reach at most two characters away from
# it. So the ends of a long run of these are enough, and ftfy takes 0.2 µs per character.
_PLAIN = (
    "\x00-\x7f\xa0–—…‘’“”•"
    "\u0600-\u1fff\u2c00-\uf8fe\ufb03-\ufffc\U00010000-\U0010ffff"
)  # fmt: skip
_LONG_RUN = re.compile(f"([{_PLAIN}]{{4}})[{_PLAIN}]+(?=[{_PLAIN}]{{4}})")


class Repair(NamedTuple):
    """A repaired text, and what the repair changed."""

    text: str
    encoding: bool
    """Whether a wrong encoding was undone: `cafÃ©` became `café`."""
    controls: bool
    """Whether control characters or noncharacters were removed."""


def repair(text: str) -> Repair:
    r"""Undo wrong encodings, make every line end `\n`, and remove control characters.

    Quotes, ligatures, widths, HTML entities, joiners, marks of direction, U+FFFD and lone
    surrogates stay as they are. A change of line ends alone is not flagged. ftfy decides what is
    a wrong encoding, so a text that quotes a damaged text on purpose is changed too. Repairing a
    repaired text changes nothing.
    """
    encoding = controls = False
    # Removing a character can join the halves of a misread one, so repeat until nothing changes.
    while _CONTROL.search(text) or (not text.isascii() and is_bad(_LONG_RUN.sub(r"\1", text))):
        decoded = fix_encoding(text)
        # Line ends before control characters, of which a carriage return is one, and escapes before
        # the escape character, without which `[31m` would stay in the text.
        lines = decoded.replace("\r\n", "\n").replace("\r", "\n")
        clean = _CONTROL.sub("", remove_terminal_escapes(lines))
        encoding = encoding or decoded != text
        controls = controls or clean != lines
        if clean == text:
            break
        text = clean
    return Repair(text, encoding, controls)


def is_destroyed(text: str) -> bool:
    """Return whether a text has lost characters: U+FFFD is in their place."""
    return "\ufffd" in text
