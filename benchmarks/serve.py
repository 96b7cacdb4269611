"""Compare servers under load: gpt2chat, llama.cpp's server and `transformers serve`.

    pip install xllamacpp gguf "transformers[serving]"     # for the other two
    GOMP_SPINCOUNT=1000 python benchmarks/serve.py     # as the command line sets it, for `engine`
    python benchmarks/serve.py --clients 1 16 --turns 2 --servers gpt2chat llama.cpp

All servers have GPT-2 124M's shape with drawn weights (or `--model`), the same threads, and the
same conversations: each client talks for some turns, over one connection, with its whole history
each time, as clients do. Replies are drawn at temperature 1 and have the same length in all: drawn
weights do not end a reply. llama.cpp reads Q8_0, transformers bfloat16.

The servers take turns at each number of clients. `engine` is gpt2chat's engine without HTTP, which
answers the conversation of one client.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.load import load_model, set_ids
from gpt2chat.core.model.weights import weights_of
from gpt2chat.core.text.tokens import STOP_IDS, VOCAB

QUESTIONS = (
    "What is the highest mountain of Europe, and who climbed it first?",
    "Write a short poem about the sea in winter.",
    "How do I cook rice so that it does not stick?",
    "Explain to a child why the sky is blue.",
    "Which three books should everybody have read, and why?",
    "My bicycle makes a noise when I brake. What could it be?",
)
LLAMA = """
import sys, time, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.port = sys.argv[1], int(sys.argv[2])
settings.n_parallel, settings.n_ctx = int(sys.argv[3]), int(sys.argv[3]) * 1024
settings.n_gpu_layers, settings.verbosity = 0, -1
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(sys.argv[4])
server = xllamacpp.Server(settings)
time.sleep(1e9)
"""


class Asked(argparse.Namespace):
    """The command line."""

    model: str
    servers: list[str]
    clients: list[int]
    turns: int
    new: int
    threads: int


class Times(NamedTuple):
    """When the tokens of one reply came, in seconds after the request."""

    tokens: list[float]
    failed: bool


def prepare_folder(name: str, folder: Path) -> None:
    """Save the model that all servers read, with stop tokens that are never drawn."""
    torch.manual_seed(0)
    model = load_model(name) if name else set_ids(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB)))
    transformer: Any = model.transformer
    rows: torch.Tensor = transformer.wte.weight.data
    rows[list(STOP_IDS)] = rows.mean(0)
    save_model(model, folder)


def command(server: str, folder: Path, port: int, most: int, threads: int) -> list[str]:
    """Return the command that starts a server."""
    python = sys.executable
    if server == "gpt2chat":
        run = ["-m", "gpt2chat", "serve", "--model", str(folder), "--port", str(port)]
        return [python, *run, "--slots", str(most)]
    if server == "llama.cpp":
        file = folder.parent / "model.gguf"
        if not file.exists():
            from gpt2chat.core.export.gguf_file import write_gguf

            weights = weights_of(load_model(str(folder)))
            write_gguf(weights, file, "q8_0", "benchmark", None)
        return [python, "-c", LLAMA, str(file), str(port), str(most), str(threads)]
    main = "from transformers.cli.transformers import main; main()"
    run = ["serve", str(folder), "--port", str(port), "--device", "cpu", "--dtype", "bfloat16"]
    return [python, "-c", main, *run, "--continuous-batching"]


@contextmanager
def started(server: str, folder: Path, most: int, threads: int) -> Any:
    """Run a server and yield its address, once it has answered a request."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = (folder.parent / f"{server}.log").open("w")
    process = subprocess.Popen(
        command(server, folder, port, most, threads), env=environment, stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                answer = httpx.post(
                    f"{url}/v1/chat/completions", json=body(folder, [QUESTIONS[0]], 2), timeout=600
                )
                answer.raise_for_status()
                break
            except httpx.HTTPError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    text = Path(log.name).read_text()[-2000:]
                    raise RuntimeError(f"{server} did not start: {error}\n{text}") from error
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def body(folder: Path, texts: Sequence[str], new: int) -> dict[str, Any]:
    """Return a request; the texts are those of user and assistant in turn."""
    roles = ("user", "assistant")
    return {
        "model": str(folder),
        "messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)],
        "max_tokens": new,
        "temperature": 1.0,
        "top_p": 1.0,
        "stream": new > 2,
    }


async def talk(url: str, folder: Path, client: int, turns: int, new: int) -> list[Times]:
    """Hold one conversation and return the times of its replies."""
    replies: list[Times] = []
    texts: list[str] = []
    async with httpx.AsyncClient(base_url=url, timeout=1200) as connection:
        for turn in range(turns):
            # Clients differ from the first word, or their prompts would share more than a template.
            texts.append(f"{client}. {QUESTIONS[(client + turn) % len(QUESTIONS)]}")
            begun = time.perf_counter()
            tokens, text, failed = list[float](), "", False
            async with connection.stream(
                "POST", "/v1/chat/completions", json=body(folder, texts, new)
            ) as response:
                failed = response.status_code != 200
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    choices = json.loads(line[6:]).get("choices") or [{}]
                    piece = choices[0].get("delta", {}).get("content")
                    if piece:
                        text += piece
                        tokens.append(time.perf_counter() - begun)
            replies.append(Times(tokens, failed or not tokens))
            texts.append(text.strip() or "-")
    return replies


async def measure(url: str, folder: Path, clients: int, asked: Asked) -> dict[str, float]:
    """Return tokens per second, and the times to the first token and between tokens."""
    begun = time.perf_counter()
    talks = [talk(url, folder, client, asked.turns, asked.new) for client in range(clients)]
    replies = [reply for each in await asyncio.gather(*talks) for reply in each]
    seconds = time.perf_counter() - begun
    good = [reply.tokens for reply in replies if not reply.failed]
    firsts = [tokens[0] for tokens in good]
    gaps = [b - a for tokens in good for a, b in zip(tokens, tokens[1:], strict=False)]
    return {
        # A piece of text may have two tokens, but all replies have the length that was asked for.
        "tokens/s": len(good) * asked.new / seconds,
        "first p50, ms": 1000 * statistics.median(firsts),
        "first p99, ms": 1000 * percentile(firsts, 0.99),
        "between p50, ms": 1000 * statistics.median(gaps),
        "between p99, ms": 1000 * percentile(gaps, 0.99),
        "failed": len(replies) - len(good),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values does not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def measure_engine(folder: Path, asked: Asked) -> float:
    """Return the tokens per second of the conversation of one client, without HTTP."""
    import gpt2chat

    torch.set_num_threads(asked.threads)
    model = gpt2chat.load(folder)
    sampling: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": asked.new}
    model.chat(**sampling).ask("Hi")
    chat = model.chat(**sampling)
    begun = time.perf_counter()
    for turn in range(asked.turns):
        chat.ask(f"0. {QUESTIONS[turn % len(QUESTIONS)]}")
    return asked.turns * asked.new / (time.perf_counter() - begun)


def main() -> None:
    """Measure all servers and print a table, with ratios to gpt2chat."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="", help="a model; drawn weights by default")
    servers = ["gpt2chat", "llama.cpp", "transformers"]
    parser.add_argument("--servers", nargs="+", default=servers, choices=servers)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--new", type=int, default=64, help="tokens of each reply")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args(namespace=Asked())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        prepare_folder(asked.model, folder)
        for clients in asked.clients:
            ours: dict[str, float] = {}
            for server in asked.servers:
                try:
                    with started(server, folder, max(asked.clients), asked.threads) as url:
                        found = asyncio.run(measure(url, folder, clients, asked))
                except (RuntimeError, OSError) as error:
                    print(f"{clients} clients, {server}: {error}", flush=True)
                    continue
                ours = ours or found
                figures = [f"{key} {value:,.1f}" for key, value in found.items()]
                ratio = ours["tokens/s"] / found["tokens/s"] if found["tokens/s"] else float("nan")
                first = found["first p99, ms"] / ours["first p99, ms"]
                print(
                    f"{clients} clients, {server}: {', '.join(figures)}; {server} / gpt2chat: "
                    f"tokens/s {1 / ratio:.2f}, first p99 {first:.2f}",
                    flush=True,
                )
            if clients == 1 and "gpt2chat" in asked.servers and ours:
                alone = measure_engine(folder, asked)
                share = ours["tokens/s"] / alone
                print(f"1 client, engine: tokens/s {alone:.1f}; through HTTP {share:.1%}")


if __name__ == "__main__":
    main()
