"""Train a checkpoint from shards, on TRL's trainer."""
