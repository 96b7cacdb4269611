"""From models and held-out data to figures with intervals."""
