"""Write showcase.md: the same questions answered by several models, unretouched.

    python docs/showcase.py --model starter --model runs/sft --model runs/orpo

Every reply is the first one, with one seed for all, and is printed as it came. The three runs of
`make demo` are in demo/runs. For GPT-2 124M, name `gpt2` and its runs, and another page with --out.
"""

import argparse
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import gpt2chat
from gpt2chat.core.chat.model import ChatModel
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.reply import Reply

PAGE = Path(__file__).with_name("showcase.md")
REFERENCE = (
    "What’s the best way to learn Python?",
    "How can I improve my English skills?",
    "How can we maintain our well-being?",
)
"""The questions that the reference shows answers to."""
MORE = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "What can I cook with potatoes?",
    "Give me three tips for sleeping better.",
    "Write a short poem about the sea.",
    "Who wrote Romeo and Juliet?",
    "What is 17 plus 25?",
    "How do I apologise to a friend?",
    "Tell me the story of Little Red Riding Hood in two sentences.",
    "Who are you?",
)
ENDS = {
    "stop": "ended itself",
    "length": "cut at the limit",
    "window": "cut at the end of the window",
    "loop": "stopped because it repeated itself",
}


def page(models: Sequence[ChatModel], seed: int, tokens: int, command: str) -> str:
    """Return the page with each model's reply to each question."""
    sampling = Sampling()
    names = [f"`{model.name}` ({model.parameters / 1e6:.0f} million weights)" for model in models]
    parts = [
        "# Showcase",
        "The same questions, answered by the models of one path from the base model to ORPO. "
        "Nothing is chosen or changed: each reply is the first one, with the same seed, and "
        "wrong, cut and empty ones stay.",
        f"Models: {', '.join(names)}. Sampling: temperature {sampling.temperature}, top-k "
        f"{sampling.top_k}, top-p {sampling.top_p}, repetition penalty "
        f"{sampling.repetition_penalty}, seed {seed}, at most {tokens} tokens; each question "
        "begins a new chat.",
        f"Written on {date.today()} by `{command}`, on {platform.machine()} with {os.cpu_count()} "
        f"cores, {models[0].device}, gpt2chat {gpt2chat.__version__}.",
        "## The reference's questions",
        "[Its answers](https://github.com/reshalfahsi/gpt2chat#qualitative-evaluation) are from "
        "GPT-2 (124M), with and without ORPO.",
    ]
    for question in (*REFERENCE, *MORE):
        if question == MORE[0]:
            parts.append("## Ten more")
        parts.append(f"### {question}")
        for model in models:
            try:
                reply = model.chat(seed=seed, max_new_tokens=tokens).ask(question)
                end = ENDS[reply.finish_reason]
                parts += [f"**{model.name}**, {reply.tokens} tokens, {end}:", fenced(reply)]
            except gpt2chat.ReplyError:
                parts.append(f"**{model.name}** ended its reply before the first word, twice.")
    return "\n\n".join(parts) + "\n"


def fenced(reply: Reply) -> str:
    """Return a reply as a code block, in which nothing of it is taken for Markdown."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", reply.text))])
    return f"{fence}text\n{reply.text}\n{fence}"


def main() -> None:
    """Load the models and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", required=True, help="may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    models = [gpt2chat.load(name, device=given.device) for name in given.model]
    command = shlex.join(["python", *sys.argv])
    given.out.write_text(page(models, given.seed, given.tokens, command), encoding="utf-8")


if __name__ == "__main__":
    main()
