"""Compare generation by gpt2chat, transformers, CTranslate2, llama.cpp: same weights and prompts.

    python benchmarks/decode.py
    python benchmarks/decode.py --model gpt2 --batches 1 8 64 --repeats 9
    python benchmarks/decode.py --quiet 0.1      # on a machine that others use too

Prints tables and writes them into docs/measurements.md; with --no-write it only prints. Runs on a
GPU if there is one. A program that is not installed is left out; decoding/decoders.py says how to
install it.

Each way has a process of its own with the model loaded, and they take turns: A B C, A B C. Figures
are medians, with the lowest and the highest. All ways generate the same number of tokens, the
likeliest one each time, with the same number of threads. The first round is warm-up, including
compilation. `drawn` is GPT-2 124M's shape with random weights: the time of a token does not depend
on the values.
"""

import argparse
import datetime
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from decoding.perplexity import Cost, costs
from decoding.rounds import Found, measure_all
from decoding.tables import batch_columns, cost_table, failure_lines, single_columns, table
from decoding.tasks import Task
from decoding.ways import OURS, WAYS, version_of
from decoding.workers import Worker, serve
from page import commit, cpu_name, page_around, write_block
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.device import device_name, pick_device
from gpt2chat.core.model.load import load_model, set_ids
from gpt2chat.core.text.tokens import STOP_IDS, VOCAB

DRAWN = "drawn"


class Asked(argparse.Namespace):
    """The command line."""

    model: str
    device: Any
    ways: list[str]
    prompts: list[int]
    new: int
    prefill: list[int]
    batches: list[int]
    batch_new: int
    repeats: int
    quiet: float
    scored: str
    replies: int
    write: bool
    worker: list[str]

    @property
    def decode_tasks(self) -> list[Task]:
        return [Task(prompt, self.new) for prompt in self.prompts]

    @property
    def prefill_tasks(self) -> list[Task]:
        return [Task(prompt, 1) for prompt in self.prefill]

    @property
    def batch_tasks(self) -> list[Task]:
        return [Task(self.prompts[0], self.batch_new, batch) for batch in self.batches]

    @property
    def tasks(self) -> list[Task]:
        """What is timed, each task once."""
        return list(dict.fromkeys([*self.decode_tasks, *self.prefill_tasks, *self.batch_tasks]))


def prepare_folder(name: str, folder: Path) -> int:
    """Save the model that all ways read, and return its number of positions.

    The embeddings of the tokens that end a reply become the mean of all embeddings. Their score is
    then the mean of all scores and never the highest one, so no way needs to forbid them, which
    would cost each a different time.
    """
    if name == DRAWN:
        torch.manual_seed(0)
        model = set_ids(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB)))
    else:
        model = load_model(name)
    transformer: Any = model.transformer
    rows: torch.Tensor = transformer.wte.weight.data
    rows[list(STOP_IDS)] = rows.mean(0)
    save_model(model, folder)
    return model.config.n_positions


def measured(asked: Asked, ways: Sequence[str]) -> Found:
    """Time all ways on one folder, each in a process of its own."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as name:
        window = prepare_folder(asked.model, Path(name))
        longest = max(task.prompt + task.new for task in asked.tasks)
        if longest > window:
            raise SystemExit(f"{longest} tokens do not fit in the model's {window} positions.")
        try:
            for way in ways:
                workers[way] = Worker(way, Path(name), asked.device)
            return measure_all(workers, asked.tasks, asked.repeats, asked.quiet)
        finally:
            for worker in workers.values():
                worker.close()


def block(asked: Asked, ways: Sequence[str], found: Found, cost: dict[str, Cost]) -> str:
    """Return the text between the marks: the command and machine, and the tables."""
    parts = [
        "\n".join([*origin(asked, ways, found), *failure_lines(found)]),
        "One reply: tokens per second after the first one, at the positions in the heading; then "
        "the time of\nthe prompt, up to the first token. A ratio is gpt2chat's speed divided by "
        "that row's.",
        table(ways, found, single_columns(asked.decode_tasks, asked.prefill_tasks)),
    ]
    if asked.batches:
        parts.append(
            "Several replies at a time: tokens per second of all replies together, "
            f"{asked.batch_new} tokens each after a prompt of {asked.prompts[0]}."
        )
        parts.append(table(ways, found, batch_columns(asked.batch_tasks)))
    if cost:
        replies = next(iter(cost.values())).perplexity.samples
        parts.append(
            f"Perplexity of {replies} replies of the bundled sample's validation split, "
            f"{asked.scored}, with 95 % intervals."
        )
        parts.append(cost_table(cost))
    return "\n\n".join(parts)


def origin(asked: Asked, ways: Sequence[str], found: Found) -> list[str]:
    """Return the lines with command, date, machine, versions, and programs not installed."""
    command = shlex.join(["python", "benchmarks/decode.py", *sys.argv[1:]])
    where = cpu_name() if asked.device.type == "cpu" else device_name(asked.device)
    versions = dict.fromkeys(version_of(WAYS[way]) for way in ways if WAYS[way].package != OURS)
    model = "GPT-2 124M's shape with drawn weights" if asked.model == DRAWN else asked.model
    absent = [way.title for way in WAYS.values() if way.lacking]
    return [
        f"`{command}`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d, %H:%M} UTC;",
        f"{where}; torch {version('torch')}, {', '.join(versions)}, gpt2chat {commit()}.",
        f"Model: {model}. Medians of {asked.repeats} runs in turn, lowest and highest in brackets.",
        f"Other programs used {statistics.median(found.others):.2f} cores meanwhile, "
        f"{max(found.others):.2f} at most.",
        *([f"Not installed: {', '.join(absent)}."] if absent else []),
    ]


def parsed() -> Asked:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DRAWN, help=f"{DRAWN}, starter, a folder or a Hub name")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[], metavar="WAY",
                        help=f"instead of the usual: {', '.join(WAYS)}")  # fmt: skip
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 896], help="tokens")
    parser.add_argument("--new", type=int, default=128, help="tokens after each prompt")
    parser.add_argument("--prefill", type=int, nargs="*", default=[512, 960], help="tokens")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--batch-new", type=int, default=32, help="tokens after each of a batch")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up")
    parser.add_argument("--quiet", type=float, default=0.0, metavar="CORES",
                        help="repeat a run while other programs use more than this")  # fmt: skip
    parser.add_argument("--scored", default="starter", help="model whose perplexity is measured")
    parser.add_argument("--replies", type=int, default=250, help="most of them, 0 for none")
    parser.add_argument("--no-write", dest="write", action="store_false", help="only print")
    parser.add_argument("--worker", nargs=3, default=[], help=argparse.SUPPRESS)
    asked = parser.parse_args(namespace=Asked())
    if asked.new < 2 or asked.batch_new < 2 or asked.repeats < 1:
        parser.error("a decode speed needs --new and --batch-new of 2 or more, and --repeats of 1")
    asked.device = pick_device(asked.device)
    return asked


def chosen_ways(asked: Asked) -> list[str]:
    """Return the ways to measure: those named, or those of the device that are installed."""
    kind = asked.device.type
    usual = [name for name, way in WAYS.items() if kind in way.devices and not way.lacking]
    return asked.ways or usual


def main() -> None:
    """Time all ways in turn; print the tables and write them into the page."""
    asked = parsed()
    if asked.worker:
        serve(*asked.worker)
        return
    # Asked before an hour of measuring, not after.
    around = page_around("decode.py") if asked.write else None
    ways = chosen_ways(asked)
    found = measured(asked, ways)
    if not found.timings:
        raise SystemExit("\n".join(["Every way failed.", *failure_lines(found)]))
    cost = costs(asked.scored, asked.replies, asked.device) if asked.replies else {}
    text = block(asked, ways, found, cost)
    print(text)
    if around:
        write_block(around, text)


if __name__ == "__main__":
    main()
