"""Measure the CPU time of scoring held-out pairs, by the size of a block of logits.

    gpt2chat prepare --sample && python benchmarks/scoring.py --data data

The sizes take turns. CPU seconds are compared, because other programs on the machine
change them less than elapsed time. `largest difference` is the largest difference of a token's loss
from that with the first size, in nats.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from page import commit, cpu_name, markdown

from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.evaluation.heldout import read_material
from gpt2chat.core.evaluation.scoring import Losses, Scored, token_losses
from gpt2chat.core.model import losses
from gpt2chat.core.model.load import load_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="starter")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2048, 1024, 512, 256])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    settings = EvalConfig(ppl=False, generations=0, limit=given.pairs)
    model = load_model(given.model)
    material = read_material(settings, given.data, model.config.n_positions)
    sides = [*material.chosen_ids, *material.rejected_ids]
    sequences: list[Scored] = [(side.ids, side.prompt_length) for side in sides]
    seconds: dict[int, list[float]] = {block: [] for block in given.blocks}
    scored: dict[int, list[Losses]] = {}
    token_losses(model, sequences[:2], lambda done, total: None)
    for _ in range(given.repeats):
        for block in given.blocks:
            losses.CPU_BLOCK = block
            before = time.process_time()
            scored[block] = token_losses(model, sequences, lambda done, total: None)
            seconds[block].append(time.process_time() - before)
    first = np.concatenate(scored[given.blocks[0]])
    table = [("rows and columns", "CPU seconds, median (lowest to highest)", "largest difference")]
    for block, times in seconds.items():
        spread = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        error = np.abs(np.concatenate(scored[block]) - first).max()
        table.append((str(block), spread, f"{error:.1e}"))
    tokens = sum(len(side) for side in sides)
    print(f"{cpu_name()}; gpt2chat {commit()}; {tokens:,} tokens, {len(first):,} of them scored")
    print(markdown(table))


if __name__ == "__main__":
    main()
