"""The tests. Without a GPU, Triton's kernels run in its interpreter."""

import os

import torch

if not torch.cuda.is_available():
    # Triton reads this when it is imported, which transformers does in conftest.py.
    os.environ.setdefault("TRITON_INTERPRET", "1")
