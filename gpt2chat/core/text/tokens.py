"""Spans to token ids, with the tokens that are trained marked; what fits the window."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from gpt2chat.core.files import STARTER
from gpt2chat.core.text.conversations import Conversation, Message
from gpt2chat.core.text.template import (
    CHAT_TEMPLATE,
    END_OF_TURN,
    SPECIAL_TOKENS,
    Span,
    render,
    turn,
)

if TYPE_CHECKING:
    from tiktoken import Encoding
    from tokenizers import Tokenizer

TOKENIZER = STARTER / "tokenizer.json"
"""GPT-2's own."""
SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)  # fmt: skip
"""GPT-2's rule for cutting text into words, in the form that tiktoken runs fastest."""
LONG_RUN = 100_000
"""White space of so many characters before a word overflows the stack of tiktoken's matcher (at
about 500,000), so such a text takes the slow way."""
_LONG_RUN = re.compile(rf"\s{{{LONG_RUN}}}")

GPT2_VOCAB = 50257
SPECIAL_IDS = {token: GPT2_VOCAB + index for index, token in enumerate(SPECIAL_TOKENS)}
VOCAB = GPT2_VOCAB + len(SPECIAL_TOKENS)
"""50,264, a multiple of 8."""

ENDOFTEXT_ID = 50256
EOT_ID = SPECIAL_IDS[END_OF_TURN]
STOP_IDS = (EOT_ID, ENDOFTEXT_ID)
WINDOW = 1024
"""GPT-2's positions."""
CONTROL_BYTES = {token: name.encode() for name, token in SPECIAL_IDS.items()}
CONTROL_BYTES[ENDOFTEXT_ID] = b"<|endoftext|>"
LONGEST = 128
"""Bytes of GPT-2's longest token."""
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
def load_tokenizer() -> "Tokenizer":
    """Return GPT-2's byte-level BPE with the seven special tokens added, to save with a model."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.encode_special_tokens = True
    return tokenizer


@cache
def gpt2_vocabulary() -> dict[str, int]:
    """Return the id of each of GPT-2's tokens, by the name that tokenizer files have for it."""
    return json.loads(TOKENIZER.read_bytes())["model"]["vocab"]


@cache
def token_bytes() -> list[bytes]:
    """Return the bytes that each of GPT-2's tokens stands for, by id; `<|endoftext|>` is none."""
    vocab = gpt2_vocabulary()
    byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
    names = sorted(vocab, key=vocab.__getitem__)[: GPT2_VOCAB - 1]
    return [bytes(byte_of[character] for character in name) for name in names]


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte in the vocabulary of byte-level BPE."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]


@cache
def encoder() -> "Encoding":
    """Return the same BPE in tiktoken, four times as fast on one core as `load_tokenizer`'s.

    It knows no control token: in text, the name of one is plain text, and only `encode` places
    control tokens. So nothing that a user types can forge a turn.
    """
    import tiktoken

    ranks = {piece: index for index, piece in enumerate(token_bytes())}
    return tiktoken.Encoding(
        "gpt2chat", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=dict[str, int]()
    )


def encode_text(text: str) -> list[int]:
    """Return the ids of plain text."""
    if len(text) > LONG_RUN and _LONG_RUN.search(text):
        return load_tokenizer().encode(text, add_special_tokens=False).ids
    return encoder().encode_ordinary(text)


_recent = lru_cache(maxsize=4096)(encode_text)
"""Recent short texts are kept: roles, line breaks and system prompts come back in every sample."""
_SHORT = 100


def encode(spans: Iterable[Span]) -> Encoded:
    """Return the ids of rendered spans, each span encoded on its own."""
    ids: list[int] = []
    prompt_length = 0
    for text, control, trained in spans:
        if control:
            ids.append(SPECIAL_IDS[text])
        else:
            ids += _recent(text) if len(text) < _SHORT else encode_text(text)
        if not trained:
            prompt_length = len(ids)
    return Encoded(ids, prompt_length)


def encode_conversation(conversation: Conversation) -> Encoded:
    """Return the ids of a conversation; those of a prompt are the beginning of its sample's."""
    return encode(render(conversation))


def encode_conversations(conversations: Iterable[Conversation]) -> list[Encoded]:
    """Return the ids of each conversation."""
    return [encode_conversation(conversation) for conversation in conversations]


def decode(ids: Iterable[int]) -> str:
    """Return the text of ids, control tokens by name; U+FFFD stands for half a character."""
    pieces = token_bytes()
    names = CONTROL_BYTES
    return b"".join(
        pieces[token] if token < ENDOFTEXT_ID else names[token] for token in ids
    ).decode(errors="replace")


def fit_window(conversation: Conversation, window: int = WINDOW) -> Conversation | None:
    """Drop the oldest exchanges until the rendered conversation has at most `window` tokens.

    An exchange is a user message and what was answered to it. The system prompt, documents, the
    latest user message and the reply always stay; None where these alone are too long.
    """
    bare = conversation.with_history(())
    if _surely_longer((message.content for message in bare.messages), window):
        return None
    room = window - len(encode_conversation(bare))
    if room < 0:
        return None
    if conversation.history and not conversation.document:
        room -= 2  # the context block's own tokens
    kept: list[Message] = []
    for exchange in reversed(exchanges(conversation.history)):
        if _surely_longer((message.content for message in exchange), room):
            break
        room -= sum(len(encode(turn(message.role, message.content))) for message in exchange)
        if room < 0:
            break
        kept[:0] = exchange
    return conversation if len(kept) == len(conversation.history) else bare.with_history(kept)


def _surely_longer(texts: Iterable[str], tokens: int) -> bool:
    """Say without encoding whether texts have more tokens, each of which is `LONGEST` at most."""
    return sum(map(len, texts)) > max(tokens, 0) * LONGEST


def exchanges(history: Sequence[Message]) -> list[list[Message]]:
    """Return the turns in groups: a user message and what was answered to it."""
    groups: list[list[Message]] = []
    for message in history:
        if not groups or message.role == "user":
            groups.append([])
        groups[-1].append(message)
    return groups


@cache
def tokenizer_fingerprint() -> str:
    """Return a hash that changes when any text would get other ids."""
    parts = (TOKENIZER.read_bytes(), SPLIT.encode(), *map(str.encode, SPECIAL_TOKENS))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@cache
def template_fingerprint() -> str:
    """Return a hash that changes when any conversation would be rendered otherwise."""
    message = Message("user", "2")
    example = Conversation(
        (Message("context", "0"), Message("user", "1"), Message("assistant", "1"), message)
    ).with_reply("3")
    parts = [repr(render(example)), repr(render(Conversation((message,)))), CHAT_TEMPLATE]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
