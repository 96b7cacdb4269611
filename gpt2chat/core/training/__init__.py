"""From shards to a checkpoint, on TRL."""

import os

# trl reports each start to its authors; a tool that works on private chats does not.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
