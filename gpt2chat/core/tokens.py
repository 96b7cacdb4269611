"""Spans to token ids, with the tokens that are trained marked; what fits the window."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from gpt2chat.core.conversations import Conversation, Message
from gpt2chat.core.template import CHAT_TEMPLATE, END_OF_TURN, SPECIAL_TOKENS, Span, render

STARTER = Path(__file__).parent.parent / "starter"
"""The bundled base model, with GPT-2's own tokenizer."""

GPT2_VOCAB = 50257
SPECIAL_IDS = {token: GPT2_VOCAB + index for index, token in enumerate(SPECIAL_TOKENS)}
VOCAB = GPT2_VOCAB + len(SPECIAL_TOKENS)
"""50,264, a multiple of 8."""

ENDOFTEXT_ID = 50256
EOT_ID = SPECIAL_IDS[END_OF_TURN]
STOP_IDS = (EOT_ID, ENDOFTEXT_ID)
WINDOW = 1024
"""GPT-2's positions."""
IGNORED = -100
"""Label of a token that is not trained, as in PyTorch's cross-entropy."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A rendered conversation as ids. All of `ids` after `prompt_length` is trained."""

    ids: list[int]
    prompt_length: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> list[int]:
        """The ids where they are trained, -100 elsewhere. Not shifted."""
        return [IGNORED] * self.prompt_length + self.ids[self.prompt_length :]


@cache
def load_tokenizer() -> Tokenizer:
    """Return GPT-2's byte-level BPE with the seven special tokens added.

    In text, the name of a special token is encoded as plain text, never as the token: only
    `encode` places control tokens. So nothing that a user types can forge a turn.
    """
    tokenizer = Tokenizer.from_file(str(STARTER / "tokenizer.json"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.encode_special_tokens = True
    return tokenizer


@lru_cache(maxsize=4096)
def encode_text(text: str) -> tuple[int, ...]:
    """Return the ids of plain text. Recent texts are kept: roles and prompts come back often."""
    return tuple(load_tokenizer().encode(text, add_special_tokens=False).ids)


def encode(spans: Iterable[Span], ids_of: Callable[[str], Sequence[int]] = encode_text) -> Encoded:
    """Return the ids of rendered spans, each span encoded on its own."""
    ids: list[int] = []
    prompt_length = 0
    for span in spans:
        if span.control:
            ids.append(SPECIAL_IDS[span.text])
        else:
            ids.extend(ids_of(span.text))
        if not span.trained:
            prompt_length = len(ids)
    return Encoded(ids, prompt_length)


def encode_conversation(conversation: Conversation) -> Encoded:
    """Return the ids of a conversation; those of a prompt are the beginning of its sample's."""
    return encode(render(conversation))


def encode_conversations(conversations: Iterable[Conversation]) -> list[Encoded]:
    """Return what `encode_conversation` returns for each, on all cores."""
    rendered = [render(conversation) for conversation in conversations]
    texts = list({span.text: None for span in chain(*rendered) if not span.control})
    encodings = load_tokenizer().encode_batch_fast(texts, add_special_tokens=False)
    known = {text: encoding.ids for text, encoding in zip(texts, encodings, strict=True)}
    return [encode(spans, known.__getitem__) for spans in rendered]


def decode(ids: Sequence[int]) -> str:
    """Return the text of ids, control tokens by name."""
    return load_tokenizer().decode(list(ids), skip_special_tokens=False)


def fit_window(conversation: Conversation, window: int = WINDOW) -> Conversation | None:
    """Drop the oldest exchanges until the rendered conversation has at most `window` tokens.

    An exchange is a user message and what was answered to it. The system prompt, documents, the
    latest user message and the reply always stay; None where these alone are too long.
    """
    history = list(conversation.history)
    while len(encode_conversation(conversation)) > window:
        if not history:
            return None
        history = _without_oldest_exchange(history)
        conversation = conversation.with_history(history)
    return conversation


def _without_oldest_exchange(history: list[Message]) -> list[Message]:
    later = (index for index in range(1, len(history)) if history[index].role == "user")
    return history[next(later, len(history)) :]


@cache
def tokenizer_fingerprint() -> str:
    """Return a hash that changes when any text would get other ids."""
    return hashlib.sha256(load_tokenizer().to_str().encode()).hexdigest()[:16]


@cache
def template_fingerprint() -> str:
    """Return a hash that changes when any conversation would be rendered otherwise."""
    message = Message("user", "2")
    example = Conversation(
        (Message("context", "0"), Message("user", "1"), Message("assistant", "1"), message)
    ).with_reply("3")
    parts = [repr(render(example)), repr(render(Conversation((message,)))), CHAT_TEMPLATE]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
