"""Refuse work that a limit on this process would abort."""

from gpt2chat.core.errors import HardwareError


def require_address_space(needed: int) -> None:
    """Refuse to start with less address space than the libraries need.

    A native library that gets no memory aborts the whole process: no exception, no message. Only a
    check beforehand can say so. Windows has no such limit.

    Args:
        needed: Bytes.

    Raises:
        HardwareError: The limit, such as that of `ulimit -v`, is lower.
    """
    try:
        import resource
    except ImportError:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise HardwareError(
            f"This process may use {limit / 2**20:,.0f} MiB of address space, and "
            f"{needed / 2**20:,.0f} MiB are needed. Raise the limit, for example with ulimit -v."
        )
