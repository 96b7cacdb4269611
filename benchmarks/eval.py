"""Measure the time of scoring held-out replies, next to other programs on the same samples.

    gpt2chat prepare --sample && python benchmarks/eval.py --data data

- `gpt2chat`: what `gpt2chat eval` runs.
- `Trainer.evaluate`: transformers, with its default batch of 8, padded to the longest sample. It
  returns the loss only, weighted by batch.
- `one by one`: the reference project's way, all logits of one conversation at a time.

The programs take turns on one machine. The tokens scored are the same for all three; the largest
difference is that of a reply's mean loss from the slowest way.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from page import commit, cpu_name, markdown
from transformers import Trainer, TrainingArguments

from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.evaluation.heldout import read_material
from gpt2chat.core.evaluation.scoring import token_losses
from gpt2chat.core.model.device import device_name
from gpt2chat.core.model.load import load_model
from gpt2chat.core.text.template import PAD
from gpt2chat.core.text.tokens import IGNORED, SPECIAL_IDS, Encoded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="starter")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--replies", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    settings = EvalConfig(preferences=False, generations=0, limit=given.replies)
    model: Any = load_model(given.model).to(device)  # pyright: ignore[reportArgumentType]
    material = read_material(settings, given.data, model.config.n_positions)
    samples = material.reply_ids
    tokens = sum(len(ids) - ids.prompt_length for ids in samples)

    def ours() -> list[float]:
        sequences = [(ids.ids, ids.prompt_length) for ids in samples]
        losses = token_losses(model, sequences, lambda done, total: None)
        return [float(each.mean(dtype=np.float64)) for each in losses]

    def one_by_one() -> list[float]:
        means: list[float] = []
        with torch.inference_mode():
            for ids in samples:
                inputs = torch.tensor([ids.ids], device=device)
                labels = torch.tensor([ids.labels], device=device)
                means.append(float(model(input_ids=inputs, labels=labels).loss))
        return means

    def padded(batch: list[Encoded]) -> dict[str, torch.Tensor]:
        width = max(map(len, batch))
        rows = [ids.ids + [SPECIAL_IDS[PAD]] * (width - len(ids)) for ids in batch]
        labels = [ids.labels + [IGNORED] * (width - len(ids)) for ids in batch]
        mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in batch]
        names = ("input_ids", "labels", "attention_mask")
        return {n: torch.tensor(part) for n, part in zip(names, (rows, labels, mask), strict=True)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, report_to="none", disable_tqdm=True, remove_unused_columns=False,
            prediction_loss_only=True, use_cpu=device.type == "cpu",
        )  # fmt: skip
        trainer: Any = Trainer(model, arguments, eval_dataset=samples, data_collator=padded)  # pyright: ignore[reportArgumentType]

        def with_trainer() -> list[float]:
            trainer.evaluate()
            return []

        ways: dict[str, Callable[[], list[float]]] = {
            "gpt2chat": ours, "Trainer.evaluate": with_trainer, "one by one": one_by_one,
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        means: dict[str, list[float]] = {}
        for repeat in range(given.repeats + 1):
            for name, way in ways.items():
                before = time.perf_counter()
                means[name] = way()
                if repeat:  # the first round warms up
                    seconds[name].append(time.perf_counter() - before)
    ours_takes = statistics.median(seconds["gpt2chat"])
    table = [("way", "seconds, median (lowest to highest)", "tokens/s", "times gpt2chat's")]
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{median:.2f} ({min(times):.2f} to {max(times):.2f})"
        table.append((name, spread, f"{tokens / median:,.0f}", f"{median / ours_takes:.2f}"))
    difference = np.abs(np.subtract(means["gpt2chat"], means["one by one"])).max()
    where = cpu_name() if device.type == "cpu" else device_name(device)
    print(f"{where}; gpt2chat {commit()}; {len(samples)} replies, {tokens:,} tokens scored")
    print(f"largest difference of a reply's mean loss: {difference:.1e} nats")
    print(markdown(table))


if __name__ == "__main__":
    main()
