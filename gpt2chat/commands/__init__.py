"""The subcommands: each passes its settings to one function of the core and prints the result."""
