"""`gpt2chat prepare`."""


def prepare() -> None:
    """Placeholder."""
    raise NotImplementedError
