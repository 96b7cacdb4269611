"""Texts whose characters broke on the way: a wrong encoding, control characters."""

import re
from typing import NamedTuple

from ftfy import fix_encoding
from ftfy.badness import is_bad
from ftfy.fixes import remove_terminal_escapes

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufffe\uffff]")
"""C0 but tab and line feed, delete, C1, the byte order mark, what is no character."""

# What ftfy looks for has a character that is not one of these, and lies within two of it. Of a
# long run of these its ends tell as much as the whole, and ftfy takes 0.2 µs a character.
_PLAIN = (
    "\x00-\x7f\xa0–—…‘’“”•"
    "\u0600-\u1fff\u2c00-\uf8fe\ufb03-\ufffc\U00010000-\U0010ffff"
)  # fmt: skip
_PLAIN_RUN = re.compile(f"([{_PLAIN}]{{4}})[{_PLAIN}]+(?=[{_PLAIN}]{{4}})")


class Mended(NamedTuple):
    """A text, and what had to be done to it."""

    text: str
    encoding: bool
    """A wrong encoding was undone: `cafÃ©` became `café`."""
    controls: bool
    """Control characters, or what is no character, were taken out."""


def mend(text: str) -> Mended:
    r"""Undo wrong encodings, make every line end a `\n`, and take control characters out.

    Quotes, ligatures, widths and HTML entities stay as they are, and so do joiners, marks of
    direction, U+FFFD and lone surrogates. Line ends alone are not flagged. What ftfy makes of a
    text is taken as it is, so a text that quotes broken text on purpose is mended too. A mended
    text does not change when it is mended again.
    """
    encoding = controls = False
    # What is taken out can bring the two halves of a broken character together.
    while _CONTROL.search(text) or _may_be_misread(text):
        decoded = fix_encoding(text)
        lines = decoded.replace("\r\n", "\n").replace("\r", "\n")
        clean = _CONTROL.sub("", remove_terminal_escapes(lines))
        encoding = encoding or decoded != text
        controls = controls or clean != lines
        if clean == text:
            break
        text = clean
    return Mended(text, encoding, controls)


def is_destroyed(text: str) -> bool:
    """Return whether characters were lost, and U+FFFD stands where they were."""
    return "\ufffd" in text


def _may_be_misread(text: str) -> bool:
    return not text.isascii() and is_bad(_PLAIN_RUN.sub(r"\1", text))
