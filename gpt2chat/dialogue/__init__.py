"""Turn typed lines into calls of a core Chat, and print the results."""
