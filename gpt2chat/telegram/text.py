"""Split texts into messages as long as Telegram allows."""

import re
from collections.abc import Iterator

LONGEST = 4096
"""Most UTF-16 code units of a message, which is how Telegram counts."""
# From the best place to the worst: after a paragraph, a line, a sentence, a word.
PLACES = [re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"[.!?…]['\")\]]*\s", r"\s")]
# Characters that change the one before them: accents, variation selectors, the joiner, skin tones.
CONTINUES = re.compile("[\u0300-\u036f\ufe00-\ufe0f\u200d\U0001f3fb-\U0001f3ff]")


def units(text: str) -> int:
    """Return the length of a text as Telegram counts it: an emoji is two UTF-16 code units."""
    return len(text) + sum(char > "\uffff" for char in text)


def split(text: str, most: int = LONGEST) -> Iterator[str]:
    """Yield the pieces of a text, none empty or longer than `most`, cut at the best places.

    Only white space between them is lost. A place in the first half of a piece is passed over for
    a worse one in the second half, so that no text is needlessly short.
    """
    text = text.strip()
    while units(text) > most:
        # Count from the left until the next character would not fit.
        end, room = 0, most
        while room >= (size := units(text[end])):
            end, room = end + 1, room - size
        # One more character, which may be the white space that a cut removes.
        window = text[: end + 1]
        cut = end
        for place in PLACES:
            ends = [match.end() for match in place.finditer(window)]
            good = [at for at in ends if end // 2 < len(window[:at].rstrip()) <= end]
            if good:
                cut = good[-1]
                break
        else:
            # A mark, a joiner or a modifier belongs to the character before it.
            while cut > 1 and CONTINUES.match(text[cut]):
                cut -= 1
            cut = cut if cut > 1 else end
        yield text[:cut].rstrip()
        text = text[cut:].lstrip()
    if text:
        yield text
