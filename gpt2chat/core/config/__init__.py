"""Settings of each command, with their defaults, their help and their checks."""
