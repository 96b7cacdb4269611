"""How a number is said with what it counts."""


def counted(number: int, what: str) -> str:
    """Return a number with what it counts: 1 message, 2 messages."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
