"""From a prompt to streamed text, on a CPU or a GPU."""
