"""Serve models over HTTP: OpenAI's routes, the chat page, votes."""
