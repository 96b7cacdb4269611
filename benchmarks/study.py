"""Train the starter model with one setting changed at a time, and measure each result.

    python benchmarks/study.py study

Prepares the bundled sample, trains, measures with `gpt2chat eval`, and prints the tables of
docs/log.md. Runs that are finished in the folder are skipped, so the script resumes where it was
stopped. Every run is one line of RUNS: its name, the command, the model it starts from, and flags.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2chat.core.files import STARTER


@dataclass(frozen=True, slots=True)
class Run:
    """One training run, and the data of its measurement."""

    name: str
    command: str
    start: str
    """`starter`, or another run's name."""
    flags: str
    data: str = "sample"


SFT = "--epochs 1 --evals 1"
ORPO = "--epochs 1 --evals 1 --limit 320 --lr 2e-4 --token-lr 10"
RUNS = [
    Run("sft", "sft", "starter", f"{SFT} --lr 2e-4"),
    Run("sft-lr4e-4", "sft", "starter", f"{SFT} --lr 4e-4"),
    Run("sft-lr1e-4", "sft", "starter", f"{SFT} --lr 1e-4"),
    Run("orpo", "orpo", "sft", f"{ORPO} --beta 0.1"),
    Run("orpo-b0", "orpo", "sft", f"{ORPO} --beta 0"),
    Run("sft-all", "sft", "starter", f"{SFT} --lr 2e-4 --train-on all"),
    Run("orpo-b0.3", "orpo", "sft", f"{ORPO} --beta 0.3"),
    Run("orpo-full", "orpo", "sft", f"{ORPO} --beta 0.3 --nll-scope full"),
    Run("sft-2ep", "sft", "starter", "--epochs 2 --evals 2 --lr 2e-4"),
    Run("sft-lr8e-4", "sft", "starter", f"{SFT} --lr 8e-4"),
    Run("orpo-b1", "orpo", "sft", f"{ORPO} --beta 1"),
    Run("rank-all", "sft", "starter", f"{SFT} --lr 4e-4", "trees"),
    Run("rank-best", "sft", "starter", f"{SFT} --lr 4e-4", "best"),
    Run("rank-best-2ep", "sft", "starter", "--epochs 2 --evals 1 --lr 4e-4", "best"),
    Run("sft-seed1", "sft", "starter", f"{SFT} --lr 2e-4 --seed 1"),
    Run("sft-lr4e-4-seed1", "sft", "starter", f"{SFT} --lr 4e-4 --seed 1"),
    Run("orpo-b0.3-seed1", "orpo", "sft", f"{ORPO} --beta 0.3 --seed 1"),
    Run("orpo-b0-seed1", "orpo", "sft", f"{ORPO} --beta 0 --seed 1"),
    Run("orpo-lr1e-4", "orpo", "sft", f"{ORPO} --beta 0.3 --lr 1e-4"),
    Run("sft-neftune5", "sft", "starter", f"{SFT} --lr 2e-4 --neftune 5"),
    Run("sft-lora16", "sft", "starter", f"{SFT} --lr 2e-3 --lora-r 16"),
]
TREES = "--oasst1 trees.jsonl.gz --alpaca off --ultrafeedback off --holdout 0.3"
DATA = {"sample": "--sample", "trees": TREES, "best": f"{TREES} --oasst1-rank best"}
MEASURED = {"sample": "sample", "trees": "trees", "best": "trees"}
"""What the runs of each data are measured on: of OASST1's trees, always on all replies."""


def gpt2chat(folder: Path, *arguments: str) -> str:
    """Run the command line in a folder; return its stdout."""
    command = [sys.executable, "-m", "gpt2chat", *arguments]
    process = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return process.stdout


def measure(folder: Path, model: str, data: str) -> dict[str, Any]:
    """Return the figures of a model by their names, and save them next to the runs."""
    kept = folder / "figures" / f"{model.rpartition('/')[2]}.{data}.json"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        flags = ("--limit", "250", "--generations", "0", "--no-speed", "--precision", "bf16")
        text = gpt2chat(folder, "eval", "--model", model, "--data", data, *flags, "--json",
                        "--out", f"figures/{model.rpartition('/')[2]}.eval.json")  # fmt: skip
        kept.write_text(text)
    return json.loads(kept.read_text())["models"][0]["figures"]


def main() -> None:
    """Do the runs that are not finished, and print one line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STARTER / "sample" / "oasst1.validation.jsonl.gz", folder / "trees.jsonl.gz")
    for name, flags in DATA.items():
        if not (folder / name).exists():
            gpt2chat(folder, "prepare", *flags.split(), "--out", name)
    print("| run | flags | perplexity | accuracy | margin | s |\n|---|---|---|---|---|---|")
    show("starter", "", measure(folder, "starter", "sample"), 0)
    show("starter", "trees", measure(folder, "starter", "trees"), 0)
    for run in RUNS:
        out = f"runs/{run.name}"
        result = folder / out / "result.json"
        if not result.exists():
            start = run.start if run.start == "starter" else f"runs/{run.start}"
            where = ("--model", start, "--data", run.data, "--out", out, "--overwrite")
            gpt2chat(folder, run.command, *where, *run.flags.split(), "--json")
        seconds = json.loads(result.read_text())["seconds"]
        figures = measure(folder, out, MEASURED[run.data])
        show(run.name, f"{run.command} {run.flags}", figures, seconds)


def show(name: str, flags: str, figures: dict[str, Any], seconds: float) -> None:
    """Print a row of the table."""
    keys = ("perplexity", "preference_accuracy", "preference_margin")
    values = [f"{figures[key]['value']:.3f}" if key in figures else "-" for key in keys]
    print(f"| {name} | {flags} | {' | '.join(values)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
