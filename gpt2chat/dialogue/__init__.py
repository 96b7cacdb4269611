"""Translate typed lines into calls of a core Chat, and their results into output."""
