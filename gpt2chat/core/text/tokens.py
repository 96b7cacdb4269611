"""Encode spans as token ids, decode ids, and fit conversations into the window."""

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
"""The file of GPT-2's tokenizer."""
WORD_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)  # fmt: skip
"""GPT-2's rule for cutting text into words, in the form that tiktoken runs fastest."""
LONG_RUN = 100_000
"""Characters of white space from which a text is encoded by the slower tokenizer. About 500,000
overflow the stack of tiktoken's matcher."""
_LONG_RUN = re.compile(rf"\s{{{LONG_RUN}}}")

GPT2_VOCAB = 50257
SPECIAL_IDS = {token: GPT2_VOCAB + index for index, token in enumerate(SPECIAL_TOKENS)}
VOCAB = GPT2_VOCAB + len(SPECIAL_TOKENS)
"""50,264, a multiple of 8."""

ENDOFTEXT_ID = 50256
EOT_ID = SPECIAL_IDS[END_OF_TURN]
STOP_IDS = (EOT_ID, ENDOFTEXT_ID)
WINDOW = 1024
"""Number of positions in GPT-2."""
CONTROL_BYTES = {token: name.encode() for name, token in SPECIAL_IDS.items()}
CONTROL_BYTES[ENDOFTEXT_ID] = b"<|endoftext|>"
LONGEST_TOKEN = 128
"""Bytes of GPT-2's longest token."""
IGNORED = -100
"""Label of a token that is not trained, as in PyTorch's cross-entropy."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A rendered conversation as ids, of which those after `prompt_length` are trained."""

    ids: list[int]
    prompt_length: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> list[int]:
        """The ids that are trained, and -100 in place of the others. They are not shifted."""
        return [IGNORED] * self.prompt_length + self.ids[self.prompt_length :]


@cache
def load_tokenizer() -> "Tokenizer":
    """Return GPT-2's tokenizer with the seven special tokens added, to save with a model."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    # The names of special tokens in a text are plain text, so that nobody can forge a turn.
    tokenizer.encode_special_tokens = True
    return tokenizer


@cache
def gpt2_vocabulary() -> dict[str, int]:
    """Return the ids of GPT-2's tokens by their names in tokenizer files."""
    return json.loads(TOKENIZER.read_bytes())["model"]["vocab"]


@cache
def token_bytes() -> list[bytes]:
    """Return the bytes of each of GPT-2's tokens by id, without `<|endoftext|>`, the last."""
    vocab = gpt2_vocabulary()
    # Byte-level BPE writes a byte as the Latin-1 character of its number if that can be printed,
    # and as one of the characters from U+0100 otherwise.
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    byte_of = {chr(byte if byte in printable else next(spare)): byte for byte in range(256)}
    names = sorted(vocab, key=vocab.__getitem__)[: GPT2_VOCAB - 1]
    return [bytes(byte_of[character] for character in name) for name in names]


@cache
def encoder() -> "Encoding":
    """Return the same tokenizer in tiktoken, which is four times as fast on one core.

    It does not know the special tokens: their names are plain text to it, and only `encode` adds
    their ids. So nothing that a user types can forge a turn.
    """
    import tiktoken

    ranks = {piece: index for index, piece in enumerate(token_bytes())}
    return tiktoken.Encoding(
        "gpt2chat", pat_str=WORD_PATTERN, mergeable_ranks=ranks, special_tokens=dict[str, int]()
    )


def encode_text(text: str) -> list[int]:
    """Return the ids of plain text."""
    # The length is compared first: the search is only for texts that could have such a run.
    if len(text) > LONG_RUN and _LONG_RUN.search(text):
        return load_tokenizer().encode(text, add_special_tokens=False).ids
    return encoder().encode_ordinary(text)


_cached = lru_cache(maxsize=4096)(encode_text)
"""`encode_text` for short texts: roles, line breaks and system prompts recur in every sample."""
_SHORT = 100
"""Characters below which a text is worth caching."""


def encode(spans: Iterable[Span]) -> Encoded:
    """Return the ids of rendered spans, each span encoded on its own."""
    ids: list[int] = []
    prompt_length = 0
    # Each span on its own, so that the ids of a prompt are the beginning of its sample's.
    for text, control, trained in spans:
        if control:
            ids.append(SPECIAL_IDS[text])
        else:
            ids += _cached(text) if len(text) < _SHORT else encode_text(text)
        if not trained:
            prompt_length = len(ids)
    return Encoded(ids, prompt_length)


def encode_conversation(conversation: Conversation) -> Encoded:
    """Return the ids of a conversation. Those of a prompt are the beginning of its sample's ids."""
    return encode(render(conversation))


def encode_conversations(conversations: Iterable[Conversation]) -> list[Encoded]:
    """Return the ids of each conversation."""
    return [encode_conversation(conversation) for conversation in conversations]


def decode(ids: Iterable[int]) -> str:
    """Return the text of ids, with special tokens by name and U+FFFD for part of a character."""
    pieces = token_bytes()
    names = CONTROL_BYTES
    return b"".join(
        pieces[token] if token < ENDOFTEXT_ID else names[token] for token in ids
    ).decode(errors="replace")


def fit_window(conversation: Conversation, window: int = WINDOW) -> Conversation | None:
    """Drop the oldest exchanges until the rendered conversation has at most `window` tokens.

    An exchange is a user message and the answers to it. The system prompt, the context, the latest
    user message and the reply always stay. Return None if these alone are too long.
    """
    bare = conversation.with_history(())
    if _surely_longer((message.content for message in bare.messages), window):
        return None
    # Each message is encoded once, and the sum compared: encoding the whole conversation for each
    # exchange that might be dropped would take quadratic time.
    room = window - len(encode_conversation(bare))
    if room < 0:
        return None
    if conversation.history and not conversation.document:
        room -= 2  # The first history adds the context block's own two tokens.
    history: list[Message] = []
    for exchange in reversed(exchanges(conversation.history)):
        if _surely_longer((message.content for message in exchange), room):
            break
        room -= sum(len(encode(turn(message.role, message.content))) for message in exchange)
        if room < 0:
            break
        history[:0] = exchange
    if len(history) == len(conversation.history):
        return conversation
    return bare.with_history(history)


def _surely_longer(texts: Iterable[str], tokens: int) -> bool:
    """Return whether texts must have more tokens than this, without encoding them."""
    return sum(map(len, texts)) > max(tokens, 0) * LONGEST_TOKEN


def exchanges(history: Sequence[Message]) -> list[list[Message]]:
    """Return the turns in groups: a user message and the answers to it."""
    groups: list[list[Message]] = []
    for message in history:
        if not groups or message.role == "user":
            groups.append([])
        groups[-1].append(message)
    return groups


@cache
def tokenizer_fingerprint() -> str:
    """Return a hash that changes if any text would get other ids."""
    parts = (TOKENIZER.read_bytes(), WORD_PATTERN.encode(), *map(str.encode, SPECIAL_TOKENS))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@cache
def template_fingerprint() -> str:
    """Return a hash that changes if any conversation would be rendered differently."""
    message = Message("user", "2")
    example = Conversation(
        (Message("context", "0"), Message("user", "1"), Message("assistant", "1"), message)
    ).with_reply("3")
    parts = [repr(render(example)), repr(render(Conversation((message,)))), CHAT_TEMPLATE]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
