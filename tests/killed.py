"""Kill a run at each call that changes an entry of its folder, and start it again.

    python -m tests.killed FOLDER [overwrite]

Prints a line of JSON for each kill: what the folder held then, and what it holds at the end. A run
here uses `gpt2chat.core.runs` with small files in place of weights, so it takes milliseconds.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2chat.core.config.training import SftConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.files import write_text
from gpt2chat.core.runs import Conditions, open_run

STEPS = 4
CONDITIONS = Conditions(command="sft", processes=1, sharded=False, samples="0123 4567")
STATE = {"max_steps": STEPS, "epoch": 1.0, "best_metric": None, "best_global_step": None,
         "log_history": [], "stateful_callbacks": {}}  # fmt: skip


def train(folder: Path, **changes: Any) -> None:
    """Do to a run folder what a run of four steps does."""
    settings = SftConfig(out=folder, data=folder.with_name("data"), **changes)
    with open_run(settings, "sft") as start:
        run, first = start.run, 1
        if start.checkpoint is None:
            run.start(settings, CONDITIONS)
        else:
            run.require_same(CONDITIONS, settings.data)
            run.remove_damaged(start.checkpoint)
            first = int(start.checkpoint.name.rpartition("-")[2]) + 1
        for step in range(first, STEPS + 1):
            write_text(folder / "metrics.jsonl", f'{{"step": {step}}}\n')
            checkpoint = run.checkpoints / f"checkpoint-{step}"
            write_text(checkpoint / "model.safetensors", str(step))
            write_text(checkpoint / "trainer_state.json", json.dumps(STATE | {"global_step": step}))
            run.seal(checkpoint)
            run.prune(None)
        write_text(folder / "model.safetensors", str(STEPS))
        run.finish({"command": "sft", "finished": "2026-01-01T00:00:00+00:00"})


def kill_at(number: int) -> None:
    """Kill this process before it changes an entry of a folder for that time, from 0."""
    calls = 0

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            nonlocal calls
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return call(*given, **named)

        return counted

    for name in ("rename", "replace", "mkdir", "rmdir", "unlink"):
        setattr(os, name, counting(getattr(os, name)))


def in_a_fork(do: Callable[[], object]) -> int:
    """Do something in a fork of this process; return its exit code, or minus its signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        do()
        code = 0
    except ConfigError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def main(parent: str, *flags: str) -> None:
    """Kill a run at its first call, the next one at its second, and so on."""
    overwrite = "overwrite" in flags
    number, code = 0, -signal.SIGKILL
    while code:
        folder = Path(parent) / str(number)
        if overwrite:
            train(folder)

        def killed(number: int = number, folder: Path = folder) -> None:
            kill_at(number)
            train(folder, overwrite=overwrite)

        code = in_a_fork(killed)
        left = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        again = in_a_fork(lambda folder=folder: train(folder, resume="auto"))
        if again == ConfigError.exit_code:
            again = in_a_fork(lambda folder=folder: train(folder, overwrite=True))
        names = sorted(path.name for path in folder.iterdir())
        line = {"kill": number, "code": code, "left": left, "again": again, "names": names}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
