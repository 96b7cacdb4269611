"""How many compiled kernels PyTorch keeps on a CPU."""

import os


def keep_kernels(count: int) -> None:
    """Bound what oneDNN and PyTorch keep of shapes they have computed, unless the user does.

    Each keeps a kernel for every shape, 1,024 of them, and nearly every prompt and every packed row
    has a shape of its own: hundreds of MiB that nobody asks for again (docs/log.md). They read it
    before their first product.

    Source:
        https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(count))
