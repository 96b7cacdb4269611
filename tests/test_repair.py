"""Broken texts are mended, and whole ones stay as they are."""

import re

import pytest
from ftfy import fix_encoding
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2chat.core.inputs import repair as module
from gpt2chat.core.inputs.repair import Repair, is_destroyed, repair
from tests.helpers import sample_rows

BROKEN = [
    "cafÃ©",
    "donâ€™t",
    "â€œquotedâ€\x9d",
    "2Â°C",
    "Porter\x92s",
    "Ð¿Ñ€Ð¸Ð²ÐµÑ‚",
    "l’Å“uvre Ã  lire",
]
"""What UTF-8 looks like where it was read as Windows-1252, and the other way."""
WHOLE = [
    "“It’s 2 °C – 50 % off…”, she said; ﬁne &amp; dandy, ＡＢＣ",
    "¿Qué? ¡Sí! El niño comió piñas por 5 €.",
    "« À la carte », œuvre, NOËL, ça, où, l’été",
    "Größe, ÄÖÜ, Straße, „Gänsefüßchen“",
    "São Paulo, NÃO, coração, à toa, É isso",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Zażółć gęślą jaźń, ŁÓDŹ",
    "Þetta er íslenska, Ærø, Ørsted, Åse, ÅÄÖ",
    "İstanbul, ığüşöç, Iğdır",
    "Съешь же ещё этих мягких французских булок",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ά, Έ, Ή",
    "السلام عليكم، كيف حالك؟ \u200f",
    "שלום עולם \u200e",
    "हिन्दी में लिखा हुआ वाक्य",
    "ภาษาไทยไม่มีช่องว่าง",
    "漢字かな交じり文。「引用」",
    "한국어 문장입니다.",
    "Tiếng Việt có nhiều dấu, như ế, ộ, ữ",
    "family 👨\u200d👩\u200d👧, flag 🇮🇸, e\u0301 apart, (╯°□°)╯︵ ┻━┻, ಠ_ಠ",
    "¬P → Q, x ∈ ℝ, ∑ x² ≤ ½, 3 × 4 ± 1, 90°",
    "│ a │ b │\n├───┼───┤",
    "tab\tand\n\nlines, \u00a0 no-break, \u00ad soft, \u2028 separator",
]
CONTROLS = [*map(chr, range(9)), "\x0b", "\x0c", *map(chr, range(14, 32)), "\x7f", "\x81", "\x9d",
            "\ufeff", "\ufdd0", "\ufffe", "\uffff"]  # fmt: skip


def strings(value: object) -> list[str]:
    """Return all texts in a record."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]


def bundled() -> list[str]:
    return [text
            for name in ("instructions.train", "oasst1.train.chat", "oasst1.validation",
                         "ultrafeedback")
            for row in sample_rows(f"{name}.jsonl.gz", 9999)
            for text in strings(row)]  # fmt: skip


texts = st.text() | st.lists(
    st.sampled_from(
        [
            *BROKEN,
            *WHOLE,
            *CONTROLS,
            "\r",
            "\r\n",
            "\ufffd",
            "\ud800",
            "Ã",
            "©",
            "Â",
            "â€",
            " ",
            "\x1b[31m",
            "a",
            "\xa0",
        ]
    ),  # fmt: skip
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("cafÃ©", "café"),
        ("donâ€™t", "don’t"),
        ("2Â°C below", "2°C below"),
        ("Porter\x92s five forces", "Porter’s five forces"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("Ã¢â‚¬Å“twiceÃ¢â‚¬Â\x9d", "“twice”"),
        ("real é and Ã© on one line", "real é and é on one line"),
    ],
)
def test_a_wrong_encoding_is_undone(broken: str, whole: str):
    assert repair(broken) == Repair(whole, encoding=True, controls=False)
    long = "A long and plain beginning. " * 9
    assert repair(long + broken + long).text == long + whole + long


@pytest.mark.parametrize("text", ["", "plain", *WHOLE])
def test_a_sound_text_stays_as_it_is(text: str):
    assert repair(text) == Repair(text, encoding=False, controls=False)


@pytest.mark.parametrize("control", CONTROLS)
def test_control_characters_are_removed(control: str):
    assert repair(f"be{control}fore") == Repair("before", encoding=False, controls=True)


def test_terminal_colours_are_removed_with_their_parameters():
    assert repair("\x1b[1;31mred\x1b[0m") == Repair("red", encoding=False, controls=True)


def test_line_ends_become_line_feeds_and_are_not_flagged():
    assert repair("a\r\nb\rc\n\td") == Repair("a\nb\nc\n\td", encoding=False, controls=False)


def test_a_misread_character_split_by_a_control_character_is_repaired():
    assert repair("caf\u00c3\x00\u00a9") == Repair("café", encoding=True, controls=True)


def test_a_text_with_lost_characters_stays_and_is_recognised():
    text = "a na\ufffdve text"
    assert repair(text) == Repair(text, encoding=False, controls=False)
    assert is_destroyed(text)
    assert not is_destroyed("a naïve text")
    # The last byte was lost, so that only the place of the quote can be told.
    assert is_destroyed(repair("â€œ like this â€\ufffd").text)


def test_two_of_the_bundled_texts_are_repaired():
    changes = {text: repair(text) for text in bundled()}
    repaired = {text for text, result in changes.items() if result.encoding}
    assert sum("2Â°C" in text for text in repaired) == sum(
        "Porter\x92s" in text for text in repaired
    )
    assert all("2Â°C" in text or "Porter\x92s" in text for text in repaired)
    assert len(repaired) == 2
    assert not any(result.controls for result in changes.values())
    others = {text for text, result in changes.items() if result.text != text} - repaired
    assert all(changes[text].text == re.sub("\r\n?", "\n", text) for text in others)
    assert sum(map(is_destroyed, changes)) == 2


@given(texts)
@example("\ufeff\u00c3\x00\u00a9")
@example("\x1b\x1b[31m[31m")
@example("\u00c3\r\u00a9\r\n")
def test_repairing_a_repaired_text_changes_nothing(text: str):
    repaired = repair(text)
    assert repair(repaired.text) == Repair(repaired.text, encoding=False, controls=False)
    assert not set(CONTROLS) & set(repaired.text)
    assert "\r" not in repaired.text
    assert (repaired.text == text) or repaired.encoding or repaired.controls or "\r" in text


@given(texts)
def test_a_text_that_ftfy_leaves_alone_stays(text: str):
    # Free of controls and lone carriage returns, what is left to do is what ftfy does.
    text = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufffe\uffff]", "", text)
    once = fix_encoding(text)
    assert repair(text).encoding == (once != text)
    if once == text:
        assert repair(text).text == text


def test_the_characters_cut_from_long_runs_are_never_misread():
    plain = re.compile(f"[{module._PLAIN}]")  # pyright: ignore[reportPrivateUsage]
    looked_for = re.compile(f"[{''.join(MOJIBAKE_CATEGORIES.values())}]")
    both = [c for c in map(chr, range(0x110000)) if plain.match(c) and looked_for.match(c)]
    assert "".join(both) == "\xa0–—‘’“”•…"
    pairs = [one + other for one in both for other in both]
    around = ["", "a", "A", " ", "1", ".", "漢"]
    assert not any(is_bad(left + pair + right)
                   for left in around for pair in pairs for right in around)  # fmt: skip
