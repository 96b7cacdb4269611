"""From a prompt to streamed text, on a CPU or a GPU."""

from gpt2chat.core.kernelcache import keep_kernels

keep_kernels(32)
