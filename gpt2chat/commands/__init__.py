"""Thin: flags to a frozen config, to one function of the core, to a report."""
