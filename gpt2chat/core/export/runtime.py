"""Define what a proof asks of the programs that run a model, and gpt2chat as one of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.evaluation.statistics import FloatArray
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.text.conversations import Conversation
from gpt2chat.core.text.template import render, to_text
from gpt2chat.core.text.tokens import STOP_IDS, encode_conversation


class Continuation(NamedTuple):
    """What a model says after a prompt if it always takes the likeliest token."""

    ids: list[int]
    """Its tokens, without the one that ends it."""
    ended: bool
    """Whether the model ended it, and not the limit."""


def continuation(ids: Sequence[int]) -> Continuation:
    """Return drawn tokens, the last of which may be a stop token, as a continuation."""
    ended = bool(ids) and ids[-1] in STOP_IDS
    return Continuation(list(ids[:-1] if ended else ids), ended)


class Runtime(Protocol):
    """A program that runs a model."""

    @property
    def name(self) -> str:
        """The program with its version."""
        ...

    def prompt(self, conversation: Conversation) -> str:
        """Return a conversation without a reply as the program renders it."""
        ...

    def encode(self, conversation: Conversation) -> list[int]:
        """Return the ids of that prompt."""
        ...

    def logprobs(self, ids: Sequence[int], start: int) -> FloatArray:
        """Return the log-probability of each token from position `start` on, in nats."""
        ...

    def reply(self, prompt: Sequence[int], limit: int) -> Continuation:
        """Return the likeliest continuation, of at most `limit` tokens."""
        ...


class ByGenerator:
    """Weights in gpt2chat's own engine."""

    def __init__(self, generator: Generator):
        self.generator = generator

    def logprobs(self, ids: Sequence[int], start: int) -> FloatArray:
        return self.generator.logprobs(ids)[start - 1 :].double().numpy()

    def reply(self, prompt: Sequence[int], limit: int) -> Continuation:
        # Without a penalty, since llama.cpp and Ollama apply it to other scores (docs/export.md).
        sampling = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=limit)
        reply = self.generator.generate(prompt, sampling)
        return Continuation(list(reply.ids), reply.stopped)


class Original(ByGenerator):
    """A model as gpt2chat runs it."""

    name = "gpt2chat"

    def prompt(self, conversation: Conversation) -> str:
        return to_text(render(conversation))

    def encode(self, conversation: Conversation) -> list[int]:
        return encode_conversation(conversation).ids


class ByTokenizer:
    """Prompts as transformers renders them from an export's own tokenizer and template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer: Any = tokenizer

    def prompt(self, conversation: Conversation) -> str:
        return self.tokenizer.apply_chat_template(
            conversation.as_dicts(), add_generation_prompt=True, tokenize=False
        )

    def encode(self, conversation: Conversation) -> list[int]:
        rendered = self.tokenizer.apply_chat_template(
            conversation.as_dicts(), add_generation_prompt=True, return_dict=True
        )
        return rendered["input_ids"]
