"""Parts of benchmarks/decode.py."""
