"""`gpt2chat chat`."""


def chat() -> None:
    """Placeholder."""
    raise NotImplementedError
