"""From records to shards: samples, fitted and checked, by several processes."""
