"""Compare `prepare` with the reference project's construction, on the same OASST1 files.

    python benchmarks/prepare.py
    python benchmarks/prepare.py --times 1 10 --rows 52000 --workers 2
    python benchmarks/prepare.py --peer ../main --times 1 10 50

With `--peer`, the folder of another version's repository, both versions take turns at the whole
stage, and the one table has the median of the ratios. Without, three tables:

1. Conversations from message rows, without tokenising: the reference's way (a pandas frame; for
   each message the frame is scanned for its parent, again for every branch) and ours, on 1 and 10
   times OASST1's English validation split; then ours alone on 50 times, to show that it is linear.
2. The whole stage with tokenising, cleaning and writing, as a command, compared with the
   reference's construction followed by transformers' tokenizer.
3. Alpaca-like samples per second: the whole command on `--rows` rows made from the bundled
   instructions, and its peak memory over all processes, on a tenth of the rows and on all.

Each copy of the split has its own message ids and other words in front, so none is a duplicate.
"""

import argparse
import gzip
import json
import operator
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoTokenizer

from gpt2chat.core.files import STARTER
from gpt2chat.core.inputs.oasst1 import Trees, parse_message

SAMPLE = STARTER / "sample"
LANG = "en"
ROOT = Path(__file__).parents[1]
Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    with gzip.open(SAMPLE / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def copies(rows: list[Row], times: int) -> Iterator[Row]:
    """Yield `times` copies of message rows, each with ids and words of its own."""
    for copy in range(times):
        for row in rows:
            ids = {
                key: f"{row[key]}-{copy}"
                for key in ("message_id", "parent_id", "message_tree_id")
                if row.get(key)
            }
            yield {**row, **ids, "text": f"({copy}) {row['text']}" if copy else row["text"]}


def write(path: Path, rows: Iterator[Row]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def reference(path: Path) -> list[list[Row]]:
    """Return the reference's conversations: each message's path, cut to an even number of turns."""
    frame: Any = pd.read_json(path, lines=True)
    frame = frame[frame["lang"] == LANG]
    conversations: list[list[Row]] = []
    for message in frame.to_dict("records"):
        turns = [message]
        while turns[0]["parent_id"] is not None and isinstance(turns[0]["parent_id"], str):
            parent = frame[frame["message_id"] == turns[0]["parent_id"]]
            if parent.empty:
                turns = []
                break
            turns.insert(0, parent.to_dict("records")[0])
        if len(turns) >= 2:
            conversations.append(turns[: len(turns) // 2 * 2])
    return conversations


def ours(path: Path) -> int:
    """Return how many conversations our trees give by the same construction."""
    with path.open(encoding="utf-8") as lines:
        messages = (
            parse_message(json.loads(line), path.name, n) for n, line in enumerate(lines, 1)
        )
        return len([thread.conversation() for thread in Trees(messages, LANG).reference()])


def reference_stage(path: Path) -> int:
    """Return the tokens of the reference's conversations, rendered and tokenised one by one."""
    tokenizer = AutoTokenizer.from_pretrained(STARTER)
    names = {"prompter": "user", "assistant": "assistant"}
    tokens = 0
    for turns in reference(path):
        text = "".join(
            f"<|start_header_id|>{names[turn['role']]}<|end_header_id|>\n{turn['text']}<|eot_id|>"
            for turn in turns
        )
        tokens += len(tokenizer(text, verbose=False)["input_ids"])
    return tokens


def our_stage(path: Path, workers: int, root: Path = ROOT) -> dict[str, Any]:
    """Return what the command prints about the OASST1 rows in a file."""
    return prepare("--oasst1", str(path), "--alpaca", "off", workers=workers, root=root)


def prepare(*sources: str, workers: int, root: Path = ROOT) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gpt2chat", "prepare", *sources]
        command += ["--ultrafeedback", "off", "--workers", str(workers), "--json"]
        done = subprocess.Popen(
            [*command, "--out", f"{folder}/data"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
        peak = Peak(done.pid)
        stdout, stderr = done.communicate()
        if done.returncode:
            raise SystemExit(stderr.decode())
        return {**json.loads(stdout), "peak": peak.stop()}


class Peak(threading.Thread):
    """Watches the memory of a process and its children. Shared pages count once (PSS)."""

    def __init__(self, process: int):
        super().__init__(daemon=True)
        self.process, self.peak, self.ended = process, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            self.peak = max(self.peak, sum(map(memory, family(self.process))))

    def stop(self) -> float:
        """Return the highest sum seen, in MiB."""
        self.ended.set()
        self.join()
        return self.peak / 1024


def family(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return [process]
    return [process, *(member for child in text.split() for member in family(int(child)))]


def memory(process: int) -> int:
    """Return proportional memory in KiB; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def instructions(number: int) -> Iterator[Row]:
    """Yield rows in Alpaca's shape; each repeat of the bundled ones has words of its own."""
    rows = rows_of("instructions.train.jsonl.gz")
    for n in range(number):
        row, copy = rows[n % len(rows)], n // len(rows)
        yield {**row, "instruction": f"{row['instruction']} ({copy})"} if copy else row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--peer-times", type=int, default=10, help="most copies for the reference")
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--peer", type=Path, help="folder of another version to compare with")
    parser.add_argument("--turns", type=int, default=5, help="how often each version runs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, {asked.workers} workers\n")  # fmt: skip
    messages = rows_of("oasst1.validation.jsonl.gz")
    with tempfile.TemporaryDirectory() as folder:
        if asked.peer:
            versions(Path(folder), messages, asked)
            return
        building(Path(folder), messages, asked.times, asked.peer_times)
        stage(Path(folder), messages, asked.times, asked.peer_times, asked.workers)
        samples(Path(folder), asked.rows, asked.workers)


def building(folder: Path, messages: list[Row], times: list[int], most: int) -> None:
    print("| OASST1 validation | conversations | reference, s | gpt2chat, s | ratio |")
    print("|---|---|---|---|---|")
    for number in times:
        path = write(folder / f"{number}.jsonl", copies(messages, number))
        mine, count = min(timed(lambda path=path: ours(path)) for _ in range(3))
        cells = "| - | - |"
        if number <= most:
            theirs, found = timed(lambda path=path: reference(path))
            assert len(found) == count, (len(found), count)
            cells = f"| {theirs:.2f} | {theirs / mine:.0f}× |"
        left, right = cells.split("|")[1:3]
        print(f"| {number}× | {count:,} |{left}| {mine:.2f} |{right}|", flush=True)


def stage(folder: Path, messages: list[Row], times: list[int], most: int, workers: int) -> None:
    print("\n| whole stage | reference + tokenizer, s | gpt2chat prepare, s | ratio | peak, MiB |")
    print("|---|---|---|---|---|")
    for number in times:
        path = folder / f"{number}.jsonl"
        mine, result = timed(lambda path=path: our_stage(path, workers))
        theirs = timed(lambda path=path: reference_stage(path))[0] if number <= most else None
        cells = (
            f"{theirs:.1f} | {mine:.1f} | {theirs / mine:.1f}×" if theirs else f"- | {mine:.1f} | -"
        )
        print(f"| {number}× | {cells} | {result['peak']:.0f} |", flush=True)


def versions(folder: Path, messages: list[Row], asked: argparse.Namespace) -> None:
    print("| rows | peer, s | this version, s | peer / this | peak, MiB |")
    print("|---|---|---|---|---|")
    root = asked.peer.resolve()

    def alpaca(path: Path, root: Path) -> dict[str, Any]:
        given = ("--oasst1", "off", "--alpaca", str(path))
        return prepare(*given, workers=asked.workers, root=root)

    def oasst1(path: Path, root: Path) -> dict[str, Any]:
        return our_stage(path, asked.workers, root)

    corpora = [
        (f"OASST1 validation, {number}×", oasst1, copies(messages, number))
        for number in asked.times
    ]
    corpora.append((f"{asked.rows:,} Alpaca-like", alpaca, instructions(asked.rows)))
    for title, work, rows in corpora:
        path = write(folder / "rows.jsonl", rows)
        theirs, mine, peaks = list[float](), list[float](), list[float]()
        for _ in range(asked.turns):
            theirs.append(timed(partial(work, path, root))[0])
            seconds, result = timed(partial(work, path, ROOT))
            mine.append(seconds)
            peaks.append(result["peak"])
        ratio = statistics.median(map(operator.truediv, theirs, mine))
        print(f"| {title} | {statistics.median(theirs):.2f} | {statistics.median(mine):.2f} | "
              f"{ratio:.2f} | {max(peaks):.0f} |", flush=True)  # fmt: skip


def samples(folder: Path, rows: int, workers: int) -> None:
    print("\n| Alpaca-like rows | s | rows/s | peak, MiB |")
    print("|---|---|---|---|")
    for number in (rows // 10, rows, rows * 10):
        path = write(folder / "alpaca.jsonl", instructions(number))
        for dedup in ("exact", "near"):
            seconds, result = timed(
                lambda path=path, dedup=dedup: prepare(
                    "--oasst1", "off", "--alpaca", str(path), "--dedup", dedup, workers=workers
                )
            )
            print(f"| {number:,}, --dedup {dedup} | {seconds:.1f} | {number / seconds:,.0f} | "
                  f"{result['peak']:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
