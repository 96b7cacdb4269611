"""`gpt2chat eval`."""


def evaluate() -> None:
    """Placeholder."""
    raise NotImplementedError
