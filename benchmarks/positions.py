"""Compare ways to give GPT-2 more positions than it has learned, on long OASST1 threads.

    python benchmarks/positions.py
    python benchmarks/positions.py --seeds 1 --ways interpolated stretched64 unextended

The bundled starter model's 1,024 position embeddings become 2,048:

- interpolated: all rows are stretched over the new positions, as `--max-length 2048` does it.
- stretched64: the first 64 rows stay, the others are stretched.
- tiled, mirrored, random: all rows stay, followed by copies, copies in reverse, or random rows.
- unextended: 1,024 positions. It is trained on the same samples with their oldest turns dropped,
  and on more short ones, for the same number of tokens; long samples whose last exchange alone is
  too long are left out. It is measured in windows of 1,024 that move by 512, always with the first
  token in front.

For each seed the trees of OASST1's English validation split are halved, and separately those with a
sample of more than 1,024 tokens. Training uses one half, the bundled OASST1 training paths and
UltraFeedback's chosen replies; long samples of OASST1 come before all others. The loss on the other
half, in nats per token, is measured right after extending and after a short SFT:

- threads: the longest sample of each tree that has one of more than 1,024 tokens. Only replies
  count, including the end of turn; all other columns count prompts too, but no control tokens.
- joined: the longest paths of trees as the turns of one conversation of 2,048 tokens, so that
  every range of positions has similar texts, and equally many. Distant turns there belong to
  another conversation, so only threads can show whether a longer window is useful.
"""

import argparse
import gzip
import json
import platform
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gpt2chat.core.config.training import SftConfig
from gpt2chat.core.evaluation.statistics import FloatArray, Ratio, difference, value_of
from gpt2chat.core.inputs.oasst1 import Thread, Trees, parse_message
from gpt2chat.core.inputs.sources import SAMPLE
from gpt2chat.core.model.checkpoint import chat_tokenizer
from gpt2chat.core.model.device import pick_autocast
from gpt2chat.core.model.load import grow_positions, load_model
from gpt2chat.core.model.packing import lay_out, pack
from gpt2chat.core.text.conversations import Conversation, Message, parse_messages
from gpt2chat.core.text.tokens import GPT2_VOCAB, WINDOW, Encoded, encode_conversation, fit_window
from gpt2chat.core.training.arguments import arguments
from gpt2chat.core.training.callbacks import FasterTokens, embedding_rows
from gpt2chat.core.training.objectives import SftObjective
from gpt2chat.core.training.tokenized import Tokenized
from gpt2chat.core.training.trainer import PackedTrainer

LONGER = 2 * WINDOW
CAPACITY = 4_096
DEVICE = torch.device("cpu")
INTERPOLATED, UNEXTENDED = "interpolated", "unextended"
OTHERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "stretched64": lambda rows: torch.cat([rows[:64], stretch(rows[64:], LONGER - 64)]),
    "tiled": lambda rows: torch.cat([rows, rows]),
    "mirrored": lambda rows: torch.cat([rows, rows.flip(0)]),
    "random": lambda rows: torch.cat([rows, 0.02 * torch.randn(rows.shape)]),
}
"""From (1024, width) learned rows to (2048, width)."""
WAYS = (INTERPOLATED, *OTHERS, UNEXTENDED)
Threads = Sequence[tuple[str, Conversation]]
"""Samples, each behind the tree that it is of."""
Results = dict[str, list[FloatArray]]
"""Of each way, the losses of each text."""


def stretch(rows: Tensor, size: int) -> Tensor:
    """Return `size` rows by linear interpolation between the given ones, with the same ends."""
    return F.interpolate(rows.T[None], size, mode="linear", align_corners=True)[0].T


class Text(NamedTuple):
    """A text to measure: all tokens of a sample but the first."""

    group: str
    """Texts of one group are not independent of each other."""
    sample: Encoded
    joined: bool


class Column(NamedTuple):
    """The tokens and texts over which a figure is the mean."""

    title: str
    joined: bool
    start: int = 0
    end: int = LONGER

    def ratio(self, texts: Sequence[Text], losses: Sequence[FloatArray]) -> Ratio:
        found = [(text, loss) for text, loss in zip(texts, losses, strict=True)
                 if text.joined == self.joined and len(text.sample) > self.start]  # fmt: skip
        masks = [self._mask(text.sample) for text, _ in found]
        return Ratio(
            np.array([loss[mask].sum() for (_, loss), mask in zip(found, masks, strict=True)]),
            np.array([float(mask.sum()) for mask in masks]),
            tuple(text.group for text, _ in found),
        )

    def _mask(self, sample: Encoded) -> NDArray[np.bool_]:
        positions = np.arange(1, len(sample))
        if self is REPLIES:
            return positions >= sample.prompt_length
        words = np.array(sample.ids[1:]) < GPT2_VOCAB
        return words & (positions >= self.start) & (positions < self.end)


REPLIES = Column("threads, replies", False)
COLUMNS = (
    REPLIES,
    Column("threads, 0-1023", False, end=WINDOW),
    Column("threads, from 1024", False, start=WINDOW),
    Column("joined, 0-1023", True, end=WINDOW),
    Column("joined, 1024-1535", True, start=WINDOW, end=WINDOW * 3 // 2),
    Column("joined, 1536-2047", True, start=WINDOW * 3 // 2),
    Column("joined, from 1024", True, start=WINDOW),
)


def bundled(name: str) -> list[dict[str, Any]]:
    with gzip.open(SAMPLE / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def validation_threads() -> Iterator[tuple[str, Conversation]]:
    """Yield the tree and the path of each English reply of OASST1's validation split."""
    rows = enumerate(bundled("oasst1.validation.jsonl.gz"), 1)
    messages = (parse_message(row, "", line) for line, row in rows)
    for _, thread in Trees(messages, "en").samples(lambda _: False):
        if isinstance(thread, Thread):
            yield thread.group, thread.conversation()


def fitted(conversation: Conversation, window: int) -> Encoded:
    """Return a sample with its oldest turns dropped, or an empty one if the last is too long."""
    short = fit_window(conversation, window)
    return encode_conversation(short) if short else Encoded([], 0)


def is_long(conversation: Conversation) -> bool:
    return len(fitted(conversation, LONGER)) > WINDOW


def halves(threads: Threads, seed: int) -> tuple[Threads, Threads]:
    """Return the threads of each half of the trees, each with half of the long ones.

    The first half is the smaller one if their number is odd.
    """
    long = {tree for tree, sample in threads if is_long(sample)}
    first: set[str] = set()
    for trees in (long, {tree for tree, _ in threads} - long):
        first |= set(random.Random(seed).sample(sorted(trees), len(trees) // 2))
    return [t for t in threads if t[0] in first], [t for t in threads if t[0] not in first]


def samples_of(path: Conversation) -> Iterator[Conversation]:
    """Yield a sample for each reply of a conversation, with everything before it as its prompt."""
    for end in range(1, len(path.messages)):
        if path.messages[end].role == "assistant" and path.messages[end - 1].role == "user":
            yield Conversation(path.messages[: end + 1])


def to_train_on(threads: Threads, seed: int) -> list[Conversation]:
    """Return the long samples of OASST1, and short ones of both sources in a random order."""
    drawn = random.Random(seed)
    paths = [parse_messages(row["messages"]) for row in bundled("oasst1.train.chat.jsonl.gz")]
    first = [sample for _, sample in threads] + [s for path in paths for s in samples_of(path)]
    more = [parse_messages(row["chosen"]) for row in bundled("ultrafeedback.jsonl.gz")]
    first, more = list(dict.fromkeys(first)), list(dict.fromkeys(more))
    drawn.shuffle(more)
    short = [sample for sample in first + more if not is_long(sample)]
    drawn.shuffle(short)
    return [sample for sample in first if is_long(sample)] + short


def first_of(samples: Sequence[Conversation], window: int, tokens: int) -> list[Encoded]:
    """Return the first samples, fitted into the window, up to a number of tokens."""
    taken: list[Encoded] = []
    for conversation in samples:
        sample = fitted(conversation, window)
        if 0 < len(sample) <= tokens:
            taken.append(sample)
            tokens -= len(sample)
    return taken


def held_texts(threads: Threads, most: int, seed: int) -> list[Text]:
    """Return the long threads, and a limited number of joined texts."""
    by_length = sorted(threads, key=lambda thread: len(encode_conversation(thread[1])))
    paths = dict(by_length)
    longest: dict[str, Encoded] = {}
    for tree, sample in threads:
        encoded = fitted(sample, LONGER)
        if len(encoded) > len(longest.get(tree, range(WINDOW))):
            longest[tree] = encoded
    joined: list[Encoded] = []
    turns: tuple[Message, ...] = ()
    for tree in random.Random(seed).sample(sorted(paths), len(paths)):
        turns += paths[tree].messages
        ids = encode_conversation(Conversation(turns)).ids[:LONGER]
        if len(ids) == LONGER and len(joined) < most:
            joined.append(Encoded(ids, LONGER))
            turns = ()
    texts = [Text(tree, sample, joined=False) for tree, sample in longest.items()]
    return texts + [Text(str(n), sample, joined=True) for n, sample in enumerate(joined)]


def extended(way: str, seed: int) -> Any:
    """Return the starter model, extended to 2,048 positions unless the way is `unextended`."""
    model: Any = load_model("starter", seed, packed=True)
    learned: Tensor = model.transformer.wpe.weight.detach()
    if way != UNEXTENDED:
        grow_positions(model, LONGER)
    if way in OTHERS:
        torch.manual_seed(seed)
        model.transformer.wpe.weight.data.copy_(OTHERS[way](learned))
    return model


def trainer_of(
    model: Any, samples: Sequence[Encoded], steps: int, seed: int, out: Path
) -> PackedTrainer:
    """Return a trainer that makes one pass over the samples, as `gpt2chat sft` does."""
    settings = SftConfig(out=out, epochs=1, seed=seed)
    rows = pack([len(sample) for sample in samples], CAPACITY, None, seed)[:steps]
    trained = described([samples[item] for row in rows for item in row])
    print(
        f"- {model.config.n_positions} positions trained on {len(rows)} rows, {trained}", flush=True
    )
    return PackedTrainer(
        model=model,
        args=arguments(settings, validated=False, device=DEVICE, max_steps=len(rows)),
        objective=SftObjective(),
        tokens=Tokenized.of(samples, [str(n) for n in range(len(samples))], 1),
        sequences=rows,
        processing_class=chat_tokenizer(model.config.n_positions),
        callbacks=[FasterTokens(settings.token_lr, embedding_rows)],
        autocast=pick_autocast("auto", DEVICE),
    )


def described(samples: Sequence[Encoded]) -> str:
    beyond = [len(sample) - WINDOW for sample in samples if len(sample) > WINDOW]
    return (
        f"{len(samples):,} samples of {sum(map(len, samples)):,} tokens, "
        f"{sum(beyond):,} of them from position 1,024 on, in {len(beyond)} samples"
    )


def windows(ids: list[int], size: int) -> Iterator[Encoded]:
    """Yield parts of at most `size` ids, in which each id but the first is scored once.

    The later parts begin with the first token of the text, and move by half a window.
    """
    yield Encoded(ids[:size], 1)
    for start in range(size, len(ids), size // 2):
        begin = start - size // 2 + 1
        yield Encoded([ids[0], *ids[begin : start + size // 2]], start - begin + 1)


@torch.inference_mode()
def measure(trainer: PackedTrainer, texts: Sequence[Text]) -> list[FloatArray]:
    """Return -log p of each text's tokens but the first, in nats."""
    model: Any = trainer.model
    model.eval()
    losses: list[FloatArray] = []
    for text in texts:
        rows = [
            lay_out(np.array(part.ids), np.array([len(part)]), np.array([part.prompt_length]))
            for part in windows(text.sample.ids, model.config.n_positions)
        ]
        logps = torch.cat([trainer.logps(model, vars(row)) for row in rows])
        losses.append(-logps.double().numpy())
    return losses


def show(title: str, texts: Sequence[Text], results: Results, seed: int) -> None:
    """Print the losses of each way, and their differences from those of interpolation."""
    head = f"{' | '.join(column.title for column in COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|"
    ratios = {way: [column.ratio(texts, results[way]) for column in COLUMNS] for way in results}
    print(f"\n| {title} | {head}")
    for way, found in ratios.items():
        print(f"| {way} | {' | '.join(f'{value_of(ratio):.3f}' for ratio in found)} |", flush=True)
    if INTERPOLATED in ratios:
        print(f"\n| {title}, minus {INTERPOLATED} | {head}")
        base = ratios.pop(INTERPOLATED)
        for way, found in ratios.items():
            left = [difference(*pair, seed) for pair in zip(found, base, strict=True)]
            cells = [f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})" for d in left]
            print(f"| {way} | {' | '.join(cells)} |", flush=True)


def study(seed: int, ways: Sequence[str], steps: int, joined: int) -> None:
    """Measure the ways on one split."""
    training, held_out = halves(list(validation_threads()), seed)
    samples = to_train_on(training, seed)
    texts = held_texts(held_out, joined, seed)
    print(f"\n## seed {seed}\n")
    print(f"- threads: {described([text.sample for text in texts if not text.joined])}")
    print(f"- joined: {sum(text.joined for text in texts)} texts of {LONGER:,} tokens")
    before, after = Results(), Results()
    for way in ways:
        model = extended(way, seed)
        fitting = first_of(samples, model.config.n_positions, steps * CAPACITY)
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(model, fitting, steps, seed, Path(folder))
            before[way] = measure(trainer, texts)
            trainer.train()
        after[way] = measure(trainer, texts)
    show("extended", texts, before, seed)
    show("after SFT", texts, after, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    parser.add_argument("--steps", type=int, default=20, help="of 4,096 tokens")
    parser.add_argument("--joined", type=int, default=6, help="conversations, 2 at least")
    asked = parser.parse_args()
    numbers = "bf16 autocast" if pick_autocast("auto", DEVICE) else "float32"
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, {threads} threads, torch {torch.__version__}, {numbers}")
    for seed in asked.seeds:
        study(seed, asked.ways, asked.steps, asked.joined)


if __name__ == "__main__":
    main()
