"""Run each way in a process of its own, which waits while another one is timed."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from decoding.decoders import Decoder
from decoding.tasks import Task, Timing
from decoding.ways import WAYS


class Worker:
    """The parent's side of a worker process."""

    def __init__(self, way: str, folder: Path, device: torch.device):
        # To a file: nobody reads a pipe while the process works. `close` closes it.
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        command = [sys.executable, sys.argv[0], "--worker", way, str(folder), device.type]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env={**os.environ, **WAYS[way].environment},
        )  # fmt: skip
        self.failure = self._answer().get("failed", "")

    def measure(self, task: Task, seed: int) -> Timing | str:
        """Return the times of a task, or the reason of its failure."""
        if self.failure:
            return self.failure
        answer = self._answer({**asdict(task), "seed": seed})
        return answer["failed"] if "failed" in answer else Timing(**answer)

    def close(self) -> None:
        """End the process, and wait for it."""
        self.process.communicate()
        self.errors.close()

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the process has used on all cores."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def _answer(self, question: dict[str, Any] | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if question is not None:
                self.process.stdin.write(json.dumps(question) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        # Its libraries may end a process without a Python error.
        self.errors.seek(0)
        last = (self.errors.read().strip().splitlines() or ["no word"])[-1]
        self.failure = f"the process ended with {self.process.wait()}: {last}"
        return {"failed": self.failure}


def serve(way: str, folder: str, device: str) -> None:
    """Load a way's model, report that it is ready, and answer each line of stdin with a line."""
    # The libraries print too; what they print goes to stderr.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    try:
        decoder = WAYS[way].load(Path(folder), torch.device(device))
    except Exception as error:  # each library has errors of its own
        say({"failed": in_one_line(error)})
        return
    say({})
    for line in sys.stdin:
        say(answer_of(decoder, **json.loads(line)))
    channel.close()
    # CTranslate2 and llama.cpp have threads that may not outlive their library in peace.
    os._exit(0)


def answer_of(decoder: Decoder, seed: int, **task: int) -> dict[str, Any]:
    asked = Task(**task)
    try:
        return asdict(decoder.run(asked.prompts(seed), asked.new))
    except Exception as error:
        return {"failed": in_one_line(error)}


def in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
