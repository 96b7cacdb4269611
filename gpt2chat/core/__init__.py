"""What gpt2chat does, without the terminal: from settings to files, models and text."""
