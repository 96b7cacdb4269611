"""Write a number with its noun."""


def plural(number: float, noun: str) -> str:
    """Return a number with its noun: 1 message, 2 messages, 0.5 epochs."""
    digits = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{digits} {noun}" if number == 1 else f"{digits} {noun}s"
