"""GPT-2 on packed rows: attention, losses, loading and saving."""
