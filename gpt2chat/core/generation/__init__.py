"""Generate streamed text from a prompt, on a CPU or a GPU."""
