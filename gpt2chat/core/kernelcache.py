"""Bound the memory that PyTorch's compiled CPU kernels take."""

import os


def keep_kernels(count: int) -> None:
    """Set how many kernels oneDNN and PyTorch keep, unless the environment sets it.

    By default each keeps a kernel for the last 1,024 shapes of a matrix product. Nearly every
    prompt and packed sequence has a shape of its own, so that is hundreds of MiB which nothing
    uses again (docs/log.md, 2026-11-26). Both read the variables at their first product.

    Source:
        https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(count))
