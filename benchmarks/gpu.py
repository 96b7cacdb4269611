"""Measure everything that needs a GPU in one run, most valuable first, in so many minutes.

    python benchmarks/gpu.py --minutes 9 --out gpu-results
    python benchmarks/gpu.py --page gpu-results    # then: write its tables into the page
    python benchmarks/gpu.py --dry-run             # tiny sizes on a CPU: is the script sound?

Needs no network and downloads nothing: the model is GPT-2 124M's shape with drawn weights, whose
time does not depend on their values, and the data is the bundled sample.

Each section has a process of its own, which ends at its time limit. Every result is appended to
results.jsonl in the moment it is known, and tables.md is written again after each section, so a run
that is cut off loses nothing. A section that does not fit into the time left is skipped.
"""

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from page import ROOT, commit, cpu_name, markdown, page_around, write_block

# The sections import what they need, so that a process starts fast on a machine paid by the minute.

Row = dict[str, str | float]
"""A line of a section's table: cells by their headings."""


@dataclass(frozen=True)
class Sizes:
    """How much to measure: on a GPU, or in a dry run."""

    samples: int
    """Samples for SFT. These fill eight sequences to 99.5 %, so that little padding is computed."""
    pairs: int
    """Pairs for ORPO; they fill sixteen sequences to 99.8 %."""
    epochs: int
    trl_steps: int
    new: int
    """Tokens that are timed after each prompt."""
    prompts: tuple[int, ...]
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    """Lengths of prompts that are new to the decoder."""


FULL = Sizes(1652, 570, 40, 40, 160, (64, 580), (1, 2, 4, 8, 16, 32, 64), tuple(range(201, 209)))
DRY = Sizes(4, 2, 2, 2, 2, (8,), (1, 2), (5, 6))


class Asked(argparse.Namespace):
    """The command line."""

    minutes: float
    out: Path
    data: Path
    sections: list[str]
    dry_run: bool
    page: Path | None
    inside: bool

    @property
    def sizes(self) -> Sizes:
        return DRY if self.dry_run else FULL

    @property
    def model(self) -> Path:
        return self.out / "model"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry_run else "cuda")


def wait(device: torch.device) -> float:
    """Wait for all work of the device, and return the time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# The model, the data and the machine


def describe_machine(asked: Asked) -> Row:
    """Write the model and the data that all sections use; return what describes the machine."""
    from transformers import GPT2Config, GPT2LMHeadModel

    import gpt2chat
    from gpt2chat.core.model.checkpoint import save_model
    from gpt2chat.core.model.load import set_ids
    from gpt2chat.core.text.tokens import STOP_IDS, VOCAB

    torch.manual_seed(0)
    sizes: Any = {"n_embd": 32, "n_layer": 2, "n_head": 2} if asked.dry_run else {}
    model: Any = set_ids(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, **sizes)))
    # The score of a token that ends a reply is then the mean of all, never among the highest.
    rows = model.transformer.wte.weight.data
    rows[list(STOP_IDS)] = rows.mean(0)
    save_model(model, asked.model)
    if not asked.data.exists():
        gpt2chat.prepare(sample=True, out=asked.data)
    versions: list[str] = []
    for name in ("torch", "triton", "transformers", "trl"):
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    device = torch.cuda.get_device_name() if asked.device.type == "cuda" else cpu_name()
    return {
        "device": device, "versions": ", ".join(versions), "commit": commit(),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d, %H:%M} UTC",
    }  # fmt: skip


# Training


def train_by_command(
    asked: Asked,
    command: str,
    *,
    compiled: bool = True,
    dropout: float | None = None,
    share: int = 1,
) -> Row:
    """Run what `gpt2chat sft` or `orpo` runs, with its own clock, metrics and saving.

    Args:
        share: Divide the epochs by this.
    """
    from gpt2chat.core.config.training import OrpoConfig, SftConfig
    from gpt2chat.core.training.memory import peak_memory
    from gpt2chat.core.training.train import train

    sizes = asked.sizes
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "model": str(asked.model), "data": asked.data, "out": Path(folder) / "run",
            "device": asked.device.type, "compile": "on" if compiled else "off",
            "dropout": dropout, "eval_samples": 0, "evals": 1,
        }  # fmt: skip
        if command == "sft":
            epochs = max(2, sizes.epochs // share)
            result = train(SftConfig(limit=sizes.samples, epochs=epochs, **common))
        else:
            # Twice as many sequences as SFT has: half the epochs are as many steps.
            epochs = sizes.epochs // 2
            result = train(OrpoConfig(limit=sizes.pairs, epochs=epochs, **common))
    return {
        "": f"gpt2chat {command}" + ", compiled" * compiled,
        "tokens/s": result.tokens_per_second,
        "utilisation, %": 100 * result.utilisation,
        "peak memory, GiB": peak_memory(asked.device) / 2**30,
        "graphs": result.graphs,
        "steps": result.steps,
        "whole run, s": result.seconds,
    }


def train_peer(asked: Asked, way: str) -> Row:
    """Run TRL on the same samples; `tuned` is without checkpointing, in batches of like lengths."""
    import train as peers

    objective, _, kind = way.partition("/")
    named = peers.Asked(
        data=asked.data, model=str(asked.model), samples=asked.sizes.samples,
        pairs=asked.sizes.pairs, epochs=asked.sizes.epochs, steps_limit=asked.sizes.trl_steps,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        figures = peers.trl(named, objective, Path(folder), kind)
    return {
        "": peers.TITLES[way],
        "tokens/s": figures.speed,
        "utilisation, %": 100 * figures.flops / figures.seconds / figures.peak,
        "peak memory, GiB": figures.memory / 2**30,
        "steps": figures.steps,
    }


def eager_rows(asked: Asked) -> Iterator[Row]:
    """Train uncompiled, with PyTorch's log-softmax and with the Triton kernels'."""
    for name in ("PyTorch's head", "Triton's head"):
        used = use_kernels(name.startswith("Triton"), asked.device)
        row = train_by_command(asked, "sft", compiled=False, share=3)
        yield {**row, "": f"gpt2chat sft, {name}{'' if used else ' (kernels not used)'}"}


def inside_steps(asked: Asked) -> Iterator[Row]:
    """Say which lines wait for the device in five steps, and what its time goes to in two."""
    from transformers import TrainerCallback

    from gpt2chat.core.config.training import SftConfig
    from gpt2chat.core.training.job import make_job

    cuda = asked.device.type == "cuda"
    waits: Counter[str] = Counter()
    activity = torch.profiler.ProfilerActivity
    profile = torch.profiler.profile(activities=[activity.CUDA if cuda else activity.CPU])

    class Phases(TrainerCallback):
        caught: Any = None

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                if cuda:
                    torch.cuda.set_sync_debug_mode("warn")
                self.watching = warnings.catch_warnings(record=True)
                self.caught = self.watching.__enter__()
                warnings.simplefilter("always")
            elif state.global_step == 8:
                if cuda:
                    torch.cuda.set_sync_debug_mode("default")
                self.watching.__exit__(None, None, None)
                waits.update(f"{Path(w.filename).name}:{w.lineno}" for w in self.caught)
                wait(asked.device)
                profile.__enter__()
            elif state.global_step == 10:
                wait(asked.device)
                profile.__exit__(None, None, None)
                control.should_training_stop = True

    with tempfile.TemporaryDirectory() as folder:
        job = make_job(
            SftConfig(
                model=str(asked.model), data=asked.data, out=Path(folder) / "run",
                limit=asked.sizes.samples, epochs=40, eval_samples=0, compile="on",
                device="cuda" if cuda else "cpu",
            )
        )  # fmt: skip
        # With a number of steps it saves nothing.
        job.trainer([Phases()], max_steps=10).train()
    if not cuda:
        waits.clear()  # warnings of other kinds
    yield {"": "waits in five steps of SFT", "what": str(dict(waits)) if waits else "none"}
    yield from kernel_rows(profile, 2)


def kernel_rows(profile: Any, steps: int) -> Iterator[Row]:
    """Yield the kernels that took most of the device's time, for each step."""
    kernels = [each for each in profile.key_averages() if each.self_device_time_total > 0]
    kernels.sort(key=lambda each: -each.self_device_time_total)
    yield {
        "": "all kernels", "µs a step": sum(k.self_device_time_total for k in kernels) / steps,
        "launches a step": sum(k.count for k in kernels) / steps,
    }  # fmt: skip
    for each in kernels[:12]:
        name = each.key[:70].replace("|", "/")
        yield {
            "": f"`{name}`", "µs a step": each.self_device_time_total / steps,
            "launches a step": each.count / steps,
        }  # fmt: skip


# Decoding


def use_kernels(wanted: bool, device: torch.device) -> bool:
    """Turn the Triton kernels on or off for this process; return whether they are used."""
    from gpt2chat.core.model.compiling import kernels_for

    os.environ["GPT2CHAT_TRITON"] = "on" if wanted else "off"
    kernels_for.cache_clear()
    return kernels_for(device) is not None


def decoder_of(asked: Asked, *, kernels: bool = False, compiled: bool = False) -> tuple[Any, str]:
    """Return a decoder, and its name in the tables."""
    from gpt2chat.core.generation.engine import make_decoder
    from gpt2chat.core.model.load import load_model

    used = use_kernels(kernels, asked.device)
    model: Any = load_model(str(asked.model)).to(asked.device)  # pyright: ignore[reportArgumentType]
    precision = "fp32" if asked.dry_run else "auto"
    decoder = make_decoder(model, precision, compiled=compiled)[1]
    name = ("Triton kernels" if kernels else "PyTorch") + ", compiled" * compiled
    return decoder, name + " (kernels not used)" * (kernels and not used)


def decode_row(asked: Asked, decoder: Any, prompt: int, batch: int = 1, **draw: Any) -> Row:
    """Time a loop of the device: prompts, the first step's capture, and steps after it."""
    from gpt2chat.core.config.sampling import Sampling
    from gpt2chat.core.generation.graph import GraphLoop

    device, new = asked.device, asked.sizes.new
    # Prompts and their replies end below 256 and 768 positions: the timed steps all run the graph
    # that was captured before them.
    slots = decoder.with_slots(batch, prompt + new + 16)
    ids = list(range(1000, 1000 + prompt))
    with torch.inference_mode():
        slots.extend(ids, 0)
        begun = wait(device)
        logits = torch.stack([slots.extend(ids, 0, slot) for slot in range(batch)])
        read = wait(device)
        loop = GraphLoop(slots, Sampling(**draw))
        loop.begin(logits, [prompt] * batch, 1)
        captured = wait(device)
        for _ in range(8):
            loop.next()
        first = time.perf_counter()
        for _ in range(new):
            loop.next()
        step = (time.perf_counter() - first) / new
    return {
        "prompt": prompt, "replies": batch, "tokens/s": batch / step, "step, µs": 1e6 * step,
        "prompts, ms": 1e3 * (read - begun), "capture, ms": 1e3 * (captured - read),
    }  # fmt: skip


def decode_rows(asked: Asked) -> Iterator[Row]:
    """Decode one reply in each way, with the default sampling and greedily."""
    for way in ({}, {"kernels": True}, {"kernels": True, "compiled": True}, {"compiled": True}):
        decoder, name = decoder_of(asked, **way)
        for prompt in asked.sizes.prompts:
            yield {"": name, "sampling": "default", **decode_row(asked, decoder, prompt)}
        greedy = decode_row(asked, decoder, 64, temperature=0, repetition_penalty=1)
        yield {"": name, "sampling": "greedy", **greedy}


def decode_peer(asked: Asked) -> Iterator[Row]:
    """Decode one reply by transformers' `generate`, greedily, with each of its caches."""
    from decoding.decoders import Transformers
    from decoding.tasks import Task, decode_speed

    new, prompt = max(2, asked.sizes.new // 2), asked.sizes.prompts[0]
    for cache in ("dynamic", "static"):
        dtype = "float32" if asked.dry_run else "bfloat16"
        peer = Transformers(asked.model, asked.device, dtype, cache)
        ids = [list(range(1000, 1000 + prompt))]
        timings = [peer.run(ids, new) for _ in range(1 if asked.dry_run else 3)]
        speed = decode_speed(Task(prompt, new), timings[-1])
        yield {
            "": f"transformers, {cache} cache", "sampling": "greedy", "prompt": prompt,
            "replies": 1, "tokens/s": speed, "step, µs": 1e6 / speed,
        }  # fmt: skip


def batch_rows(asked: Asked) -> Iterator[Row]:
    """Decode several replies at a time."""
    for kernels in (False, True):
        decoder, name = decoder_of(asked, kernels=kernels)
        for batch in asked.sizes.batches:
            # The kernels are for few replies: beyond, both rows would be the same.
            if batch <= (8 if kernels else 64):
                yield {"": name, **decode_row(asked, decoder, asked.sizes.prompts[0], batch)}


def length_rows(asked: Asked) -> Iterator[Row]:
    """Read prompts of lengths that are new to cuDNN, with it allowed and without."""
    from gpt2chat.core.generation import decoder as module

    def as_pytorch_prefers(_: torch.device) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    decoder, _ = decoder_of(asked)
    usual = module.attention_kernels
    for name, kernels in (("cuDNN left out", usual), ("cuDNN allowed", as_pytorch_prefers)):
        module.attention_kernels = kernels
        times: list[float] = []
        for length in (*asked.sizes.lengths, asked.sizes.lengths[-1]):
            begun = wait(asked.device)
            decoder.extend(list(range(1000, 1000 + length)), 0)
            times.append(1e3 * (wait(asked.device) - begun))
        yield {
            "": name, "first, ms": times[0], "a new length, ms": statistics.median(times[1:-1]),
            "the same again, ms": times[-1],
        }  # fmt: skip
    module.attention_kernels = usual


def size_rows(asked: Asked) -> Iterator[Row]:
    """Decode one reply with other sizes of the Triton kernels."""
    decoder, name = decoder_of(asked, kernels=True)
    if "not used" in name:
        raise RuntimeError("the Triton kernels cannot be used here")
    from gpt2chat.core.model import triton_kernels

    for sizes in ((8, 256, 4), (4, 512, 4), (8, 512, 8), (16, 256, 8), (4, 256, 2), (16, 128, 4)):
        triton_kernels.ROWS, triton_kernels.TILE, triton_kernels.WARPS = sizes
        row = decode_row(asked, decoder, asked.sizes.prompts[0])
        yield {"": "{} outputs, {} inputs, {} warps".format(*sizes), **row}


def inside_decoding(asked: Asked) -> Iterator[Row]:
    """Say what the device's time goes to in a step of decoding."""
    from gpt2chat.core.config.sampling import Sampling
    from gpt2chat.core.generation.graph import GraphLoop

    activity = torch.profiler.ProfilerActivity
    kind = activity.CUDA if asked.device.type == "cuda" else activity.CPU
    for kernels in (False, True):
        decoder, name = decoder_of(asked, kernels=kernels)
        loop = GraphLoop(decoder, Sampling())
        loop.begin(decoder.extend(list(range(1000, 1064)), 0)[None], [64], 1)
        for _ in range(4):
            loop.next()
        with torch.profiler.profile(activities=[kind]) as profile:
            for _ in range(10):
                loop.next()
            wait(asked.device)
        for row in kernel_rows(profile, 10):
            yield {"way": name, **row}


# The tests


def test_rows(asked: Asked) -> Iterator[Row]:
    """Run the tests that need a GPU; a dry run only collects them."""
    import pytest

    counts: Counter[str] = Counter()
    failed: list[Row] = []

    class Results:
        def pytest_collection_finish(self, session: Any) -> None:
            counts["collected"] = len(session.items)

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                counts[report.outcome] += 1
            if report.failed:
                lines = str(report.longrepr).splitlines()
                reason = next((line for line in lines if line.startswith("E ")), lines[-1])
                failed.append({"": f"`{report.nodeid}`", "reason": reason[:200].replace("|", "/")})

    files = [str(ROOT / "tests" / f"test_{n}.py") for n in ("attention", "generate", "train")]
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    options += ["-o", "filterwarnings=default"]
    code = pytest.main(options + ["--collect-only"] * asked.dry_run + files, plugins=[Results()])
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    yield {"": "tests marked gpu", "result": summary or f"pytest ended with {code}"}
    yield from failed


# The run


@dataclass(frozen=True)
class Section:
    """Something to measure in a process of its own."""

    title: str
    seconds: int
    """Expected time on an H100, start of the process included. Twice this is its limit."""
    measure: Callable[[Asked], Iterator[Row] | Row]


MACHINE, SFT, ORPO, DECODE = "machine", "Training: SFT", "Training: ORPO", "Decoding one reply"
SECTIONS = {
    MACHINE: Section("Machine", 60, describe_machine),
    "sft": Section(SFT, 85, lambda asked: train_by_command(asked, "sft")),
    "decode": Section(DECODE, 75, decode_rows),
    "orpo": Section(ORPO, 85, lambda asked: train_by_command(asked, "orpo")),
    "trl-sft-tuned": Section(SFT, 30, lambda asked: train_peer(asked, "sft/trl-tuned")),
    "trl-orpo-tuned": Section(ORPO, 30, lambda asked: train_peer(asked, "orpo/trl-tuned")),
    "trl-sft": Section(SFT, 30, lambda asked: train_peer(asked, "sft/trl")),
    "trl-orpo": Section(ORPO, 30, lambda asked: train_peer(asked, "orpo/trl")),
    "transformers": Section(DECODE, 25, decode_peer),
    "tests": Section("Tests", 80, test_rows),
    "batches": Section("Decoding several replies", 30, batch_rows),
    "eager": Section("Training without compiling", 50, eager_rows),
    "steps": Section("Inside a training step", 50, inside_steps),
    "dropout": Section(
        "Training: SFT without dropout", 60,
        lambda asked: train_by_command(asked, "sft", dropout=0.0),
    ),
    "lengths": Section("Prompts of new lengths", 15, length_rows),
    "sizes": Section("Sizes of the Triton kernels", 30, size_rows),
    "kernels": Section("Inside a decoding step", 25, inside_decoding),
}  # fmt: skip
"""All sections in the order in which they are measured: what the project promises, its peers, the
tests, and then what explains the figures."""


def record(asked: Asked, section: str, row: Row) -> None:
    """Append a result to results.jsonl, and print it."""
    line = json.dumps({"section": section, **row}, ensure_ascii=False)
    print(line, flush=True)
    with (asked.out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def measure_here(asked: Asked) -> None:
    """Measure sections in this process."""
    if asked.dry_run:
        # What is compiled runs uncompiled: C++ compilers take minutes.
        torch.compiler.set_stance("force_eager")
    for name in asked.sections:
        try:
            rows = SECTIONS[name].measure(asked)
            for row in [rows] if isinstance(rows, dict) else rows:
                record(asked, name, row)
        except Exception as error:  # one section's failure must not cost the others
            reason = (str(error).splitlines() or [""])[0]
            record(asked, name, {"failed": f"{type(error).__name__}: {reason[:300]}"})


def tables(folder: Path) -> str:
    """Return all results of a folder as text with tables."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[Row] = [json.loads(line) for line in lines]
    parts: list[str] = []
    for title in dict.fromkeys(section.title for section in SECTIONS.values()):
        names = [name for name, section in SECTIONS.items() if section.title == title]
        ours = [row for row in rows if row["section"] in names]
        good = [row for row in ours if "failed" not in row]
        if not ours:
            continue
        if title == SECTIONS[MACHINE].title and good:
            about = good[0]
            parts.append(
                f"`python benchmarks/gpu.py`, {about['date']};\n{about['device']}; "
                f"{about['versions']}, gpt2chat {about['commit']}.\nModel: GPT-2 124M's shape with "
                "drawn weights; data: the bundled sample. Padding is not counted."
            )
            continue
        parts.append(f"### {title}")
        # Each kind of row has a table of its own: what waits, and the kernels.
        for headings in dict.fromkeys(tuple(row) for row in good):
            alike = [row for row in good if tuple(row) == headings]
            cells = [tuple(map(cell, list(row.values())[1:])) for row in alike]
            parts.append(markdown([headings[1:], *cells]))
        parts += [f"{row['section']}: {row['failed']}" for row in ours if "failed" in row]
    return "\n\n".join(parts)


def cell(value: str | float) -> str:
    """Return a figure with three digits at least, and separators from 1,000 on."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def run_all(asked: Asked) -> None:
    """Measure the sections one after the other until the time is over."""
    begun = time.perf_counter()
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "results.jsonl").unlink(missing_ok=True)
    sections = list(dict.fromkeys([MACHINE, *asked.sections]))
    # In a dry run one process is enough: nothing is timed, and each start costs seconds.
    groups = [sections] if asked.dry_run else [[name] for name in sections]
    for names in groups:
        left = 60 * asked.minutes - (time.perf_counter() - begun)
        expected = sum(SECTIONS[name].seconds for name in names)
        if left < expected and not asked.dry_run:
            record(asked, names[0], {"failed": f"skipped: {left:.0f} s left of {expected}"})
            continue
        command = [sys.executable, __file__, "--inside", "--out", str(asked.out)]
        command += ["--data", str(asked.data), "--sections", *names]
        command += ["--dry-run"] * asked.dry_run
        environment = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", **os.environ}
        # One GPU: TRL would split its batches over all it sees.
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
        log = (asked.out / f"{names[0]}.log").open("w", encoding="utf-8")
        try:
            # To the log goes what libraries print; results are read from results.jsonl.
            done = subprocess.run(
                command, env=environment, stdout=log, stderr=log, timeout=min(left, 2 * expected)
            )
            if done.returncode:
                record(asked, names[0], {"failed": f"ended with {done.returncode}, see its log"})
        except subprocess.TimeoutExpired:
            record(asked, names[0], {"failed": "ran out of time"})
        finally:
            log.close()
        (asked.out / "tables.md").write_text(tables(asked.out) + "\n", encoding="utf-8")
        if MACHINE in names and not (asked.model.exists() and asked.data.exists()):
            raise SystemExit(f"Without a model and data nothing can be measured: see {log.name}.")
    print(tables(asked.out))


def parsed() -> Asked:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder to write")
    parser.add_argument("--data", type=Path, help="folder of prepare; default: the sample's")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS),
                        metavar="NAME", help=f"only these of: {', '.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--page", type=Path, help="write this folder's tables into the page")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(namespace=Asked())
    asked.data = asked.data or asked.out / "data"
    return asked


def main() -> None:
    """Measure, or write the tables of an earlier run into docs/measurements.md."""
    asked = parsed()
    if asked.inside:
        measure_here(asked)
    elif asked.page is not None:
        write_block(page_around("gpu.py"), tables(asked.page))
    elif not asked.dry_run and not torch.cuda.is_available():
        raise SystemExit("There is no GPU. Try --dry-run.")
    else:
        run_all(asked)


if __name__ == "__main__":
    main()
