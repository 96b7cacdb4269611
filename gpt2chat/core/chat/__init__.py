"""The history of a chat, what of it fits, what is kept of it."""
