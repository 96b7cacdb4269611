"""Measure the size, the closeness and the speed of each export of a model, on the CPU.

    python benchmarks/export.py --model runs/orpo --threads 2

Speed is that of greedy replies to the proof's five questions, in the program that the export is
for, with its own cache: the median of some rounds, in each of which all programs answer in turn.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import torch

from gpt2chat.core.config.export import PRECISIONS, ExportConfig, ExportPrecision
from gpt2chat.core.display import text_table
from gpt2chat.core.export.export import export
from gpt2chat.core.export.llama import Llama
from gpt2chat.core.export.merged import Transformers
from gpt2chat.core.export.onnx_graph import FILES, OnnxRuntime
from gpt2chat.core.export.proof import bundled_material
from gpt2chat.core.export.runtime import Original, Runtime
from gpt2chat.core.generation.loading import load_generator

Opened = tuple[str, float, str, AbstractContextManager[Runtime]]
"""Name of an export, its megabytes, how close it is, and the program that runs it."""


def exports(model: str, work: Path) -> Iterator[Opened]:
    """Export a model in every format and precision."""
    formats: list[tuple[str, ExportPrecision]] = [
        *(("gguf", precision) for precision in PRECISIONS["gguf"]),
        *(("onnx", precision) for precision in PRECISIONS["onnx"]),
        ("merged", "fp32"),
    ]
    for kind, precision in formats:
        out = work / f"{kind}-{precision}"
        settings = ExportConfig(model=model, to=kind, precision=precision, out=out)  # pyright: ignore[reportArgumentType]
        done = export(settings)
        close = done.proofs[-1]
        figures = f"{close.largest:.2g}, {close.mean:.2g}, {close.same_replies} of {close.replies}"
        if kind == "gguf":
            (file,) = out.glob("*.gguf")
            yield f"{kind} {precision}", file.stat().st_size / 1e6, figures, Llama(file)
        elif kind == "onnx":
            file = out / "onnx" / FILES[precision]
            program = nullcontext(OnnxRuntime(out, precision))
            yield f"{kind} {precision}", file.stat().st_size / 1e6, figures, program
        else:
            size = (out / "model.safetensors").stat().st_size / 1e6
            yield f"{kind} {precision}", size, figures, nullcontext(Transformers(out))


def speed(program: Runtime, questions: tuple[list[int], ...], tokens: int) -> float:
    """Return tokens per second over greedy replies, prompts included."""
    begun, count = time.perf_counter(), 0
    for prompt in questions:
        reply = program.reply(prompt, tokens)
        count += len(reply.ids) + reply.ended
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        opened = [
            (title, size, close, stack.enter_context(program))
            for title, size, close, program in exports(options.model, Path(name))
        ]
        own = Original(load_generator(options.model, "cpu", "int8"))
        opened.append(("gpt2chat, int8", 0.0, "", own))
        questions = bundled_material(own.generator.window).questions
        speeds: dict[str, list[float]] = {title: [] for title, *_ in opened}
        for _ in range(options.rounds + 1):  # the first one warms up
            for title, _, _, program in opened:
                speeds[title].append(speed(program, questions, options.tokens))
    rows = [["export", "runs in", "MB", "largest, mean difference, same replies", "tokens/s"]]
    for title, size, close, program in opened:
        measured = speeds[title][1:]
        spread = f"{statistics.median(measured):.0f} ({min(measured):.0f} to {max(measured):.0f})"
        rows.append([title, program.name, f"{size:.1f}" if size else "-", close, spread])
    print(f"{options.model}, {options.threads} threads, {options.rounds} rounds")
    print(text_table(rows))


if __name__ == "__main__":
    main()
