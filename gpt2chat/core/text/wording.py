"""Numbers with a noun, in the singular or the plural."""


def plural(number: float, what: str) -> str:
    """Return a number with what it counts: 1 message, 2 messages, 0.5 epochs."""
    said = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{said} {what}" if number == 1 else f"{said} {what}s"
