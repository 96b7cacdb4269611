"""SFT steps of gpt2chat beside TRL's SFTTrainer, on the same shards and model, in one run.

    python benchmarks/train.py --data demo/data --model starter --samples 120

Counts real tokens only, no padding. Three ways: TRL as it comes (batch 8, gradient checkpointing),
TRL with checkpointing off, and ours, with and without the fused head. Each trains on all samples
once; the first fifth of its steps is warm-up and not timed.
"""

import argparse
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.sft_config import SFTConfig as TrlConfig
from trl.trainer.sft_trainer import SFTTrainer

from gpt2chat.core import packing
from gpt2chat.core.checkpoint import chat_tokenizer
from gpt2chat.core.config import SftConfig
from gpt2chat.core.losses import token_logps
from gpt2chat.core.model import load_model, pick_autocast, pick_device
from gpt2chat.core.packing import pack
from gpt2chat.core.shards import read_samples
from gpt2chat.core.tokens import WINDOW, Encoded, encode_conversations
from gpt2chat.core.trainer import PackedTrainer, arguments, to_dataset


class Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.began)


def timed(clock: Clock, tokens: list[int]) -> float:
    """Return tokens per second without the first fifth of the steps."""
    first = max(1, len(clock.seconds) // 5)
    return sum(tokens[first:]) / sum(clock.seconds[first:])


def ours(samples: list[Encoded], model: str, folder: str, *, fused: bool) -> float:
    """Return tokens per second of packed rows."""
    device = pick_device("auto")
    capacity = 32_768 if device.type == "cuda" else 4_096
    rows = pack([len(sample) for sample in samples], capacity, None, 0)
    settings = SftConfig(out=Path(folder), epochs=1)
    clock = Clock()
    trainer = PackedTrainer(
        model=load_model(model, packed=True),
        args=arguments(settings, validated=False, device=device),
        train_dataset=to_dataset([[("", samples[item]) for item in row] for row in rows]),
        processing_class=chat_tokenizer(WINDOW),
        callbacks=[clock],
        autocast=pick_autocast("auto", device),
    )
    seen: list[int] = []
    collate = trainer.data_collator

    def counting(batch: list[dict[str, Any]]) -> dict[str, Any]:
        seen.append(sum(len(ids) for ids in batch[0]["ids"]))
        return collate(batch)

    trainer.data_collator = counting
    head: Callable[..., torch.Tensor] = packing.head_logps
    try:
        if not fused:
            packing.head_logps = plain_head
        trainer.train()
    finally:
        packing.head_logps = head
    return timed(clock, seen)


def plain_head(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return what head_logps does, by way of whole logits in float32."""
    return token_logps(torch.nn.functional.linear(hidden, weight), targets)


def peer(samples: list[Encoded], model: str, folder: str, **changes: Any) -> float:
    """Return tokens per second of TRL's SFTTrainer on padded batches."""
    device = pick_device("auto")
    rows = [
        {
            "input_ids": s.ids,
            "completion_mask": [0] * s.prompt_length + [1] * (len(s) - s.prompt_length),
        }
        for s in samples
    ]
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        args = TrlConfig(
            output_dir=folder,
            num_train_epochs=1,
            completion_only_loss=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1000,
            bf16=pick_autocast("auto", device),
            use_cpu=device.type == "cpu",
            **changes,
        )
    trainer = SFTTrainer(
        model=load_model(model),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=chat_tokenizer(WINDOW),
        callbacks=[clock],
    )
    seen: list[int] = []
    collate = trainer.data_collator

    def counting(batch: list[dict[str, Any]]) -> Any:
        seen.append(sum(len(row["input_ids"]) for row in batch))
        return collate(batch)

    trainer.data_collator = counting
    trainer.train()
    return timed(clock, seen)


def main() -> None:
    """Print a table of tokens per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--model", default="starter")
    parser.add_argument("--samples", type=int, default=120)
    options = parser.parse_args()
    conversations = [sample.conversation for sample in read_samples(options.data, "train")]
    samples = encode_conversations(conversations[: options.samples])
    ways: dict[str, Callable[[str], float]] = {
        "TRL SFTTrainer, defaults": lambda folder: peer(samples, options.model, folder),
        "TRL, no gradient checkpointing": lambda folder: peer(
            samples, options.model, folder, gradient_checkpointing=False
        ),
        "gpt2chat, plain head": lambda folder: ours(samples, options.model, folder, fused=False),
        "gpt2chat": lambda folder: ours(samples, options.model, folder, fused=True),
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    print(f"{device or 'CPU'}, {torch.get_num_threads()} threads; torch {torch.__version__}, ")
    print(f"transformers {transformers.__version__}, trl {trl.__version__}; {len(samples)} samples")
    base = 0.0
    for name, way in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            speed = way(folder)
        base = base or speed
        print(f"| {name} | {speed:,.0f} tokens/s | {speed / base:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
