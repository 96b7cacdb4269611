"""One frozen dataclass per subcommand: each setting with its default and its meaning."""
