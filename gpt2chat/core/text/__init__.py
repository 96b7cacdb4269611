"""What a conversation is, its one rendering, its ids."""
