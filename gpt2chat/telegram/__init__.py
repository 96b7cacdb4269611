"""The Telegram bot: chats in SQLite, replies that survive a restart, closed by default."""
