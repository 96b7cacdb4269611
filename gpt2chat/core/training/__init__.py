"""From shards to a checkpoint, on TRL."""
