"""gpt2chat: turn GPT-2 into a chatbot in the terminal."""

__version__ = "0.1.0"
