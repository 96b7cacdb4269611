"""Prove that an export talks like its original: prompts, ids, log-probabilities and replies."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from os.path import commonprefix
from typing import Any, NamedTuple

import numpy as np

from gpt2chat.core.config.export import ExportPrecision
from gpt2chat.core.errors import ExportError
from gpt2chat.core.evaluation.statistics import (
    Estimate,
    FloatArray,
    Ratio,
    difference,
    estimate,
)
from gpt2chat.core.export.runtime import Continuation, Runtime
from gpt2chat.core.files import STARTER
from gpt2chat.core.text.conversations import Conversation, Message, parse_messages
from gpt2chat.core.text.tokens import (
    EOT_ID,
    encode_conversation,
    encode_text,
    fit_window,
)

TOKENS = 2_000
"""Tokens whose log-probabilities are compared."""
REPLIES = 5
REPLY_TOKENS = 48
"""Length at which a reply is cut if the model does not end it before."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an export may be from its original."""

    largest: float
    """Largest difference of a token's log-probability, in nats."""
    mean: float
    """Mean difference of a token's log-probability without its sign, in nats."""
    perplexity: float
    """Difference of the perplexity, as a share of the original's."""


# Three to five times what was measured on the starter after SFT and ORPO (docs/export.md). float32
# is not exact in llama.cpp, which looks GPT-2's activation up in a table of 16-bit numbers.
TOLERANCES: Mapping[ExportPrecision, Tolerance] = {
    "fp32": Tolerance(0.3, 0.015, 0.005),
    "fp16": Tolerance(0.3, 0.015, 0.005),
    "bf16": Tolerance(1.5, 0.1, 0.02),
    "q8_0": Tolerance(1.5, 0.15, 0.02),
    "int8": Tolerance(8, 0.5, 0.1),
    "q4_0": Tolerance(8, 0.8, 0.25),
}


class Scored(NamedTuple):
    """A text of which some log-probabilities are compared."""

    ids: list[int]
    start: int
    """Position of the first token whose log-probability is compared."""
    group: str
    """Texts of one group are drawn together for an interval."""


@dataclass(frozen=True, slots=True)
class Material:
    """What original and export are compared on."""

    prompts: tuple[Conversation, ...]
    """Conversations whose rendered prompts and ids are compared."""
    scored: tuple[Scored, ...]
    questions: tuple[list[int], ...]
    """Prompts to answer."""


class Answers(NamedTuple):
    """What one program makes of the material."""

    prompts: list[str]
    ids: list[list[int]]
    logprobs: list[FloatArray]
    replies: list[Continuation]


@dataclass(frozen=True, slots=True)
class Proof:
    """What one program did with an export, next to its original."""

    runtime: str
    precision: ExportPrecision
    prompts: int
    """Rendered prompts; all are equal, or there would be no export."""
    tokens: int
    """Tokens whose log-probabilities were compared."""
    largest: float
    """Largest difference of a log-probability, in nats."""
    mean: float
    """Mean difference without its sign, in nats."""
    original: Estimate
    """The original's perplexity on these tokens."""
    perplexity: Estimate
    difference: Estimate
    """Perplexity of the export minus the original's, paired by text."""
    replies: int
    same_replies: int
    """Replies with the same tokens. Others part where the original nearly has a tie."""
    ends: tuple[int, int]
    """Replies that the model ended itself: the original's, and the export's."""
    tolerance: Tolerance


def bundled_material(window: int, tokens: int = TOKENS) -> Material:
    """Return texts of the bundled sample's validation split, for a model of any window.

    Args:
        tokens: How many to score. A tenth of them are at the end of a text that fills the window.
    """
    with gzip.open(
        STARTER / "sample" / "oasst1.validation.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        rows: dict[str, Any] = {row["message_id"]: row for row in map(json.loads, lines)}
    samples: list[Conversation] = []
    for row in rows.values():
        path: list[dict[str, str]] = []
        while row:
            path.insert(0, {"role": row["role"], "content": row["text"]})
            row = rows.get(row["parent_id"])
        # Some messages are without the ones before them.
        if path[0]["role"] == "prompter" and path[-1]["role"] == "assistant":
            fitted = fit_window(parse_messages(path), window)
            samples += [fitted] if fitted else []
    # The conversations need not reach the last positions, but all messages in a row do.
    words = encode_text(" ".join(row["text"] for row in rows.values()))[:window]
    scored = [Scored(words, max(1, len(words) - tokens // 10), "")]
    left = tokens - (len(words) - scored[0].start)
    for sample in samples:
        encoded = encode_conversation(sample)
        start, end = encoded.prompt_length, min(len(encoded), encoded.prompt_length + left)
        if start < end:
            # Replies of one tree are not independent of each other.
            scored.append(Scored(encoded.ids[:end], start, sample.messages[0].content))
            left -= end - start
    first = {sample.messages[0].content: sample.prompt for sample in samples if not sample.history}
    questions = [encode_conversation(prompt).ids for prompt in first.values()]
    # Accents, an emoji and repeated white space, which another template or tokenizer may change.
    document = Message(
        "context", "Caf\u00e9 M\u00fcller: open 9-17 \U0001f642\n\n- closed on  Sundays"
    )
    about_it = Message("user", "When does it open?")
    prompts = [
        *[*first.values()][:1],
        *[sample.prompt for sample in samples if sample.history][:1],
        Conversation((Message("system", "Be brief."), document, about_it)),
    ]
    room = window - REPLY_TOKENS
    return Material(
        tuple(prompts),
        tuple(scored),
        tuple(ids for ids in questions if len(ids) <= room)[:REPLIES],
    )


def answer(runtime: Runtime, material: Material) -> Answers:
    """Return what a program makes of the material."""
    return Answers(
        [runtime.prompt(conversation) for conversation in material.prompts],
        [runtime.encode(conversation) for conversation in material.prompts],
        [runtime.logprobs(text.ids, text.start) for text in material.scored],
        [runtime.reply(prompt, REPLY_TOKENS) for prompt in material.questions],
    )


def compare(
    original: Runtime,
    before: Answers,
    export: Runtime,
    precision: ExportPrecision,
    material: Material,
) -> Proof:
    """Compare an export with its original.

    Args:
        before: What the original answered.

    Raises:
        ExportError: They differ by more than the precision's tolerance.
    """
    tolerance, failures = TOLERANCES[precision], list[str]()
    after = answer(export, material)
    for ours, theirs in zip(before.prompts, after.prompts, strict=True):
        if ours != theirs:
            at = len(commonprefix([ours, theirs]))
            parts = (repr(text[max(at - 10, 0) : at + 30]) for text in (theirs, ours))
            failures.append("it renders {} in place of {}".format(*parts))
    if before.ids != after.ids:
        failures.append("it encodes prompts as other tokens")
    distances = np.abs(np.concatenate(after.logprobs) - np.concatenate(before.logprobs))
    groups = tuple(text.group for text in material.scored)
    counts = np.array([len(part) for part in before.logprobs], dtype=np.float64)
    ratios = [
        Ratio(np.array([-part.sum() for part in side.logprobs]), counts, groups, exponential=True)
        for side in (before, after)
    ]
    change = difference(ratios[1], ratios[0], seed=0)
    perplexity = estimate(ratios[0], seed=0)
    measured = Tolerance(
        float(distances.max()), float(distances.mean()), abs(change.value) / perplexity.value
    )
    # Written so that NaN fails too.
    if not measured.largest <= tolerance.largest:
        failures.append(f"a token's log-probability differs by {measured.largest:.3g} nats")
    if not measured.mean <= tolerance.mean:
        failures.append(f"log-probabilities differ by {measured.mean:.3g} nats in the mean")
    if not measured.perplexity <= tolerance.perplexity:
        failures.append(f"perplexity differs by {measured.perplexity:.2%}")
    for prompt, ours, theirs in zip(material.questions, before.replies, after.replies, strict=True):
        if ours.ids == theirs.ids:
            if ours.ended != theirs.ended:
                end = "ends" if theirs.ended else "does not end"
                failures.append(f"a reply {end} after {len(ours.ids)} tokens")
            continue
        # Where only one of them has ended, its end is what differs.
        pairs = enumerate(zip_longest(ours.ids, theirs.ids, fillvalue=EOT_ID))
        at, tokens = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
        # If no score is off by more than the tolerance, another token can only win where the
        # original's two likeliest are within twice of it.
        same = [*prompt, *ours.ids[:at]]
        chances = [original.logprobs([*same, token], len(same))[0] for token in tokens]
        if not chances[0] - chances[1] <= 2 * tolerance.largest:
            failures.append(
                "a reply has another token where the original is sure of its own by "
                f"{chances[0] - chances[1]:.3g} nats"
            )
    if failures:
        raise ExportError(
            f"The export does not talk like its original in {export.name}, {precision}: "
            f"{'; '.join(failures)}. Nothing was written."
        )
    return Proof(
        runtime=export.name,
        precision=precision,
        prompts=len(material.prompts),
        tokens=len(distances),
        largest=measured.largest,
        mean=measured.mean,
        original=perplexity,
        perplexity=estimate(ratios[1], seed=0),
        difference=change,
        replies=len(material.questions),
        same_replies=sum(a == b for a, b in zip(before.replies, after.replies, strict=True)),
        ends=(sum(a.ended for a in before.replies), sum(a.ended for a in after.replies)),
        tolerance=tolerance,
    )


def proof_rows(proofs: Sequence[Proof]) -> list[list[str]]:
    """Return the table of some proofs: a row for each comparison, a column for each program."""

    def column(proof: Proof) -> dict[str, str]:
        allowed, equal = proof.tolerance, f"{proof.prompts} of {proof.prompts} equal"
        return {
            "precision": proof.precision,
            "rendered prompts": equal,
            "token ids of the prompts": equal,
            f"log p of {proof.tokens:,} tokens, largest difference": f"{proof.largest:.1e}",
            "    allowed": f"{allowed.largest:g}",
            "    mean difference, nats": f"{proof.mean:.1e}",
            "    allowed, nats": f"{allowed.mean:g}",
            "perplexity of the original": f"{proof.original.value:,.2f}",
            "    of the export": f"{proof.perplexity.value:,.2f}",
            "    difference, 95 % interval": proof.difference.text("+.3f"),
            "    allowed, share": f"{allowed.perplexity:.1%}",
            "greedy replies equal": f"{proof.same_replies} of {proof.replies}",
            "    ended by the original": f"{proof.ends[0]} of {proof.replies}",
            "    ended by the export": f"{proof.ends[1]} of {proof.replies}",
        }

    columns = [column(proof) for proof in proofs]
    heads = ["", *(proof.runtime for proof in proofs)]
    labels = columns[0] if columns else {}
    return [heads, *([label, *(each[label] for each in columns)] for label in labels)]
