"""Measure models on held-out data, with an interval for each figure."""
