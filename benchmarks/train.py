"""Compare training steps of gpt2chat and TRL, for SFT and ORPO: same shards, same model, one run.

    python benchmarks/train.py --data demo/data
    python benchmarks/train.py --data data --model gpt2 --samples 4000 --pairs 1000 \\
        --epochs 20 --steps-limit 60        # on a GPU
    python benchmarks/train.py --data demo/data --busy 2 --no-write \\
        --ways sft/trl-tuned sft/gpt2chat   # next to two busy programs too

Prints a table and writes it into docs/measurements.md; with --no-write it only prints.

Each way runs in a process of its own, so peak memory is that way's alone, and one that fails has a
row with the reason. Tokens are counted before they are batched, so none of them is padding. The
first fifth of the steps, at least one, is warm-up, including compilation; the others are timed as
one block. Other programs on the machine slow a way down and never speed it up: --repeats takes the
fastest of several rounds.
"""

import argparse
import datetime
import json
import math
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from page import UNBOUNDED, commit, cpu_name, markdown, page_around, write_block
from transformers import TrainerCallback

from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.data.shards import read_manifest
from gpt2chat.core.model.checkpoint import chat_tokenizer
from gpt2chat.core.model.device import device_name
from gpt2chat.core.model.flops import matmul_flops, row_flops
from gpt2chat.core.model.load import load_model
from gpt2chat.core.training.job import Job, make_job
from gpt2chat.core.training.memory import peak_memory

# ORPO is experimental in TRL, which says so at length.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

HEAD = ("", "tokens/s", "pairs/s", "peak memory, GiB", "utilisation", "to TRL's defaults",
        "to TRL tuned", "timed")  # fmt: skip
TITLES = {
    "sft/trl": "SFT: TRL SFTTrainer, defaults",
    "sft/trl-tuned": "SFT: TRL, tuned",
    "sft/trl-packed": "SFT: TRL, packing",
    "sft/gpt2chat": "SFT: gpt2chat",
    "sft/gpt2chat-compiled": "SFT: gpt2chat, compiled",
    "orpo/trl": "ORPO: TRL ORPOTrainer, defaults",
    "orpo/trl-tuned": "ORPO: TRL, tuned",
    "orpo/gpt2chat": "ORPO: gpt2chat",
    "orpo/gpt2chat-compiled": "ORPO: gpt2chat, compiled",
}

BATCH = "per_device_train_batch_size"

Sizes = tuple[list[int], int]
"""Tokens of each sequence in a row of a data set, and how many of all are trained."""


class Asked(argparse.Namespace):
    """The command line."""

    data: Path
    model: str
    samples: int
    pairs: int
    epochs: float
    steps_limit: int
    ways: list[str]
    compiled: bool
    repeats: int
    busy: int
    write: bool
    way: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The measurements of one way in its timed steps."""

    steps: int
    seconds: float
    tokens: int
    sequences: int
    flops: float
    """That the real tokens need."""
    memory: int
    """Bytes at the highest, warm-up included."""
    peak: float
    """Operations a second of one large matrix product, in the same process."""
    read: int
    """Tokens in the data set."""
    rows: int
    """Samples or pairs in it."""
    device: str
    precision: str

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Clock(TrainerCallback):
    """Times all steps after the first fifth as one block, and ends the run at a limit.

    It waits for the device only at the two ends of the block.
    """

    def __init__(self, device: torch.device, limit: int):
        self.device, self.limit = device, limit
        self.first = self.last = 0
        """Steps before the block, and with it."""
        self.times: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last = min(state.max_steps, self.limit)
        self.first = max(1, self.last // 5)
        if self.last < 2:
            raise ValueError("one step is too few to time: more samples or epochs")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in (self.first, self.last):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.times.append(time.perf_counter())
        if state.global_step == self.last:
            control.should_training_stop = True


def measure(trainer: Any, sizes: Callable[[Any], Sizes], job: Job, limit: int) -> Figures:
    """Train, and return the figures of the timed steps.

    Args:
        sizes: Returns what a row of the trainer's data set holds.
    """
    seen: list[list[Sizes]] = []
    collate = trainer.data_collator

    # A batch is a step, and batches are made in the order of the steps.
    def counting(rows: list[Any]) -> Any:
        seen.append([sizes(row) for row in rows])
        return collate(rows)

    read = sum(sum(sizes(row)[0]) for row in trainer.train_dataset)
    same = sum(int(job.tokens.sizes[list(row)].sum()) for row in job.sequences)
    if abs(read - same) > same / 1000:
        raise ValueError(f"it reads {read:,} tokens where gpt2chat reads {same:,}")
    clock = Clock(job.device, limit)
    trainer.data_collator = counting
    trainer.add_callback(clock)
    trainer.train()
    timed = [row for batch in seen[clock.first : clock.last] for row in batch]
    memory = peak_memory(job.device)  # before matmul_flops, which takes some too
    config = job.model.config
    return Figures(
        steps=clock.last - clock.first,
        seconds=clock.times[1] - clock.times[0],
        tokens=sum(sum(lengths) for lengths, _ in timed),
        sequences=sum(len(lengths) for lengths, _ in timed),
        flops=sum(row_flops(config, lengths, trained) for lengths, trained in timed),
        memory=memory,
        peak=matmul_flops(job.device, job.autocast),
        read=read,
        rows=job.samples,
        device=device_name(job.device) if job.device.type == "cuda" else cpu_name(),
        precision="bf16 autocast" if job.autocast else "float32 (TRL's defaults: bf16)",
    )


def job_of(asked: Asked, objective: str, folder: Path, *, compiled: bool) -> Job:
    """Return the job of `gpt2chat sft` or `orpo`, without validations."""
    common: dict[str, Any] = {
        "data": asked.data, "model": asked.model, "out": folder, "epochs": asked.epochs,
        "eval_samples": 0, "compile": "on" if compiled else "off",
    }  # fmt: skip
    if objective == "sft":
        return make_job(SftConfig(limit=asked.samples, **common))
    return make_job(OrpoConfig(limit=asked.pairs, **common))


def gpt2chat(asked: Asked, objective: str, folder: Path, *, compiled: bool) -> Figures:
    """Measure the command's own trainer."""
    job = job_of(asked, objective, folder, compiled=compiled)

    def sizes(row: Any) -> Sizes:
        samples = job.tokens.samples_of(row["items"])
        lengths = job.tokens.lengths[samples]
        return lengths.tolist(), int((lengths - job.tokens.prompt_lengths[samples]).sum())

    # With a number of steps it saves nothing at the end.
    steps = min(asked.steps_limit, math.ceil(asked.epochs * job.steps_per_epoch))
    return measure(job.trainer([], max_steps=steps), sizes, job, asked.steps_limit)


def trl_changes(objective: str, kind: str, job: Job) -> dict[str, Any]:
    """Return what a way changes in TRL's settings."""
    if kind == "trl":
        return {}
    changes: dict[str, Any] = {"gradient_checkpointing": False, "bf16": job.autocast}
    if kind == "trl-packed":
        # A batch of 8 rows of 1,024 tokens is as much as 32 samples.
        return {**changes, "packing": True}
    # In the order of `texts`. 32 sequences on a GPU: a pair has two.
    gpu_batch = 32 if objective == "sft" else 16
    batch = gpu_batch if job.device.type == "cuda" else 8
    return {
        **changes,
        BATCH: batch,
        "train_sampling_strategy": "sequential",
    }


def trl(asked: Asked, objective: str, folder: Path, kind: str) -> Figures:
    """Measure TRL's trainer on the texts of the samples that gpt2chat's job trains on."""
    # In place of the job's own model, whose memory is free then.
    model = load_model(asked.model)
    job = replace(job_of(asked, objective, folder, compiled=False), model=model)
    sft = objective == "sft"
    changes = trl_changes(objective, kind, job)
    settings: type[Any] = SFTConfig if sft else ORPOConfig
    trainer: type[Any] = SFTTrainer if sft else ORPOTrainer
    with warnings.catch_warnings():
        # transformers 5.23 renames gradient_checkpointing, which TRL turns on.
        warnings.filterwarnings("ignore", "`gradient_checkpointing`", FutureWarning)
        args = settings(
            output_dir=str(folder), num_train_epochs=asked.epochs, save_strategy="no",
            report_to="none", disable_tqdm=True, use_cpu=job.device.type == "cpu",
            **changes,
        )  # fmt: skip
    made = trainer(
        model=model,
        args=args,
        train_dataset=texts(asked.data, objective, job, changes.get(BATCH)),
        processing_class=chat_tokenizer(model.config.n_positions),
    )
    return measure(made, sft_sizes if sft else orpo_sizes, job, asked.steps_limit)


def texts(data: Path, objective: str, job: Job, batch: int | None) -> Dataset:
    """Return the rows of the shards that the job trains on, as TRL takes them.

    Args:
        batch: Put rows of like lengths into each batch of so many, and the batches in a drawn
            order. TRL's `group_by_length` does so where there are thousands of rows, and hardly
            with hundreds.
    """
    kind = "sft" if objective == "sft" else "preference"
    columns = ("prompt", "completion") if kind == "sft" else ("prompt", "chosen", "rejected")
    shards = [s for s in read_manifest(data).shards if (s.kind, s.split) == (kind, "train")]
    lines = [line for s in shards for line in (data / s.path).read_bytes().splitlines()]
    # An item of the job is a row of the shards.
    items = sorted(item for row in job.sequences for item in row)
    if batch:
        items.sort(key=lambda item: -job.tokens.longest[item])
        batches = [items[first : first + batch] for first in range(0, len(items), batch)]
        *whole, rest = batches
        random.Random(0).shuffle(whole)
        items = [item for batch in [*whole, rest] for item in batch]
    rows = [json.loads(lines[item]) for item in items]
    return Dataset.from_list([{name: row[name] for name in columns} for row in rows])


def sft_sizes(row: Any) -> Sizes:
    """Return what a row holds that SFTTrainer has tokenised, and maybe packed."""
    return row.get("seq_lengths") or [len(row["input_ids"])], trained(row["labels"])


def orpo_sizes(row: Any) -> Sizes:
    """Return what a pair holds that ORPOTrainer has tokenised: its prompt twice."""
    sides = ("chosen", "rejected")
    lengths = [len(row[f"{side}_input_ids"]) for side in sides]
    return lengths, sum(trained(row[f"{side}_labels"]) for side in sides)


def trained(labels: list[int]) -> int:
    return sum(label != -100 for label in labels)


def run_way(asked: Asked) -> None:
    """Measure one way in this process, and print its figures as the last line."""
    objective, _, kind = asked.way.partition("/")
    with tempfile.TemporaryDirectory() as name:
        if kind.startswith("gpt2chat"):
            compiled = kind.endswith("-compiled")
            figures = gpt2chat(asked, objective, Path(name), compiled=compiled)
        else:
            figures = trl(asked, objective, Path(name), kind)
    print(json.dumps(asdict(figures)), flush=True)


def measured_apart(way: str) -> Figures | str:
    """Return the figures of a way from a process of its own, or the reason of its failure."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
    # One GPU: TRL would split its batches over all it sees.
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    if "gpt2chat" not in way:
        environment |= UNBOUNDED
    elif "OMP_WAIT_POLICY" not in environment:
        # As the command line sets it (gpt2chat/environment.py).
        environment.setdefault("GOMP_SPINCOUNT", "1000")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return Figures(**json.loads(done.stdout.splitlines()[-1]))
    sys.stderr.write(done.stderr)
    if done.returncode < 0:
        return f"failed: ended by signal {-done.returncode}"
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    return f"failed: {last[:120]}".replace("|", "/")


def busy_table(asked: Asked, quiet: dict[str, Figures | str]) -> str:
    """Measure each way again next to busy programs; return its speed with and without them.

    Everything runs in one call, because the load of the machine changes from hour to hour.
    """
    rows = [("", "tokens/s", f"next to {asked.busy} busy programs", "share kept")]
    spin = [sys.executable, "-c", "while True: pass"]
    for way, alone in quiet.items():
        if isinstance(alone, str):
            continue
        programs = [subprocess.Popen(spin) for _ in range(asked.busy)]
        try:
            beside = measured_apart(way)
        finally:
            for program in programs:
                program.kill()
                program.wait()
        if isinstance(beside, str):
            rows.append((TITLES[way], f"{alone.speed:,.0f}", beside, "-"))
        else:
            share = f"{beside.speed / alone.speed:.0%}"
            rows.append((TITLES[way], f"{alone.speed:,.0f}", f"{beside.speed:,.0f}", share))
    return markdown(rows)


def measure_all(asked: Asked) -> dict[str, Figures | str]:
    """Return each way's figures in its fastest round; a way that failed is not tried again."""
    # Packing and compiling are for a GPU.
    gpu = torch.cuda.is_available()
    left_out = [*["packed"] * (not gpu), *["compiled"] * (not gpu and not asked.compiled)]
    ways = asked.ways or [way for way in TITLES if way.rpartition("-")[2] not in left_out]
    found: dict[str, Figures | str] = {}
    # Round by round, so that other work on the machine is not one way's alone.
    for _ in range(asked.repeats):
        for way in ways:
            before = found.get(way)
            if isinstance(before, str):
                continue
            now = measured_apart(way)
            said = now if isinstance(now, str) else f"{now.speed:,.0f} tokens/s"
            print(f"{TITLES[way]}: {said}", file=sys.stderr, flush=True)
            if before is None or (isinstance(now, Figures) and now.speed > before.speed):
                found[way] = now
    return found


def table(found: dict[str, Figures | str], peak: float) -> str:
    """Return the Markdown table.

    Args:
        peak: Operations per second that utilisation is relative to.
    """
    rows: list[tuple[str, ...]] = [HEAD]
    for way, figures in found.items():
        if isinstance(figures, str):
            rows.append((TITLES[way], figures, *["-"] * (len(HEAD) - 2)))
            continue
        objective = way.partition("/")[0]
        pairs = f"{figures.sequences / 2 / figures.seconds:.3g}" if objective == "orpo" else "-"
        others = [found.get(f"{objective}/{kind}") for kind in ("trl", "trl-tuned")]
        rows.append((
            TITLES[way], f"{figures.speed:,.0f}", pairs, f"{figures.memory / 2**30:.2f}",
            f"{figures.flops / figures.seconds / peak:.1%}",
            *(f"{figures.speed / other.speed:.2f}×" if isinstance(other, Figures) else "-"
              for other in others),
            f"{figures.seconds:.1f} s, {figures.steps} steps",
        ))  # fmt: skip
    return markdown(rows)


def block(asked: Asked, found: dict[str, Figures | str]) -> str:
    """Return the text between the marks: the command and machine, the table, how to read it."""
    ran = {way: figures for way, figures in found.items() if isinstance(figures, Figures)}
    # Other programs on the machine can only lower it.
    peak = max(figures.peak for figures in ran.values())
    devices = dict.fromkeys(f"{figures.device}, {figures.precision}" for figures in ran.values())
    rows = dict.fromkeys(
        f"{figures.rows:,} {'samples' if way.startswith('sft') else 'pairs'} of "
        f"{figures.read:,} tokens"
        for way, figures in ran.items()
    )
    sources = {name: "" for kind in read_manifest(asked.data).counts.values() for name in kind}
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "trl")]
    command = shlex.join(["python", "benchmarks/train.py", *sys.argv[1:]])
    memory = "PyTorch's on the GPU" if torch.cuda.is_available() else "the whole process's"
    return f"""\
`{command}`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d, %H:%M} UTC;
{"; ".join(devices)}; {", ".join(versions)}, gpt2chat {commit()}.
Model {asked.model}; {" and ".join(rows)} from {", ".join(sources)}.

{table(found, peak)}

Padding tokens are not counted; a pair's prompt counts twice, and both programs compute it twice.
TRL's defaults are batches of 8 and gradient checkpointing. "Tuned" means no checkpointing, batches
of similar lengths and gpt2chat's precision; on a GPU, 32 samples or 16 pairs each. Utilisation is
the share of {peak / 1e12:.3g} TFLOP/s, which one large matrix product reached. The operations that
a step needs are counted for TRL as for gpt2chat (`row_flops`, without padding): padding,
recomputing and logits of untrained tokens do not count. Peak memory is {memory}, including the
warm-up."""


def parsed() -> Asked:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepare")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--samples", type=int, default=4000 if gpu else 120, help="most, for SFT")
    parser.add_argument("--pairs", type=int, default=1000 if gpu else 40, help="most, for ORPO")
    parser.add_argument("--epochs", type=float, default=1.0, help="times through the data")
    parser.add_argument("--steps-limit", type=int, default=10**9, help="most steps of each way")
    parser.add_argument("--ways", nargs="+", choices=TITLES, default=[], metavar="WAY",
                        help=f"instead of the usual: {', '.join(TITLES)}")  # fmt: skip
    parser.add_argument("--compiled", action="store_true", help="compile on a CPU too")
    parser.add_argument("--repeats", type=int, default=1, help="rounds; the fastest counts")
    parser.add_argument("--busy", type=int, default=0, metavar="N",
                        help="measure each way next to N busy programs as well")  # fmt: skip
    parser.add_argument("--no-write", dest="write", action="store_false", help="only print")
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)
    return parser.parse_args(namespace=Asked())


def main() -> None:
    """Measure each way in a process of its own; print the table and write it into the page."""
    asked = parsed()
    if asked.way:
        run_way(asked)
        return
    # Asked before hours of measuring, not after.
    around = page_around("train.py") if asked.write else None
    found = measure_all(asked)
    if all(isinstance(figures, str) for figures in found.values()):
        raise SystemExit("Every way failed.")
    text = block(asked, found)
    if asked.busy:
        text += f"\n\n{busy_table(asked, found)}"
    print(text)
    if around:
        write_block(around, text)


if __name__ == "__main__":
    main()
