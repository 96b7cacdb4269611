"""Talk with a model: messages, the window, saved chats and feedback."""
