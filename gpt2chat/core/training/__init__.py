"""From shards to a checkpoint, on TRL."""

import os

from gpt2chat.core.kernelcache import keep_kernels

# trl reports each start to its authors; a tool that works on private chats does not.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# A step has some hundred, forward and backward: with 64 it was a fifth slower (docs/log.md).
keep_kernels(256)
