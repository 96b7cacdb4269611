"""Prompt tokens to a stream of text: sampling, stop rules, and the cache kept from turn to turn."""

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GPT2LMHeadModel

from gpt2chat.core.config import Sampling
from gpt2chat.core.tokens import EOT_ID, SPECIAL_IDS, STOP_IDS, token_bytes

NEVER = [token_id for token_id in SPECIAL_IDS.values() if token_id != EOT_ID]
"""Control tokens that have no place in a reply."""
COLDEST = 1e-6
"""Below this temperature only the likeliest token has a chance left, and float32 overflows."""


@dataclass(frozen=True)
class Reply:
    """What a model answered, whole or as far as it came."""

    text: str
    """As generated: white space at its ends is kept, a half character at its end is not."""
    ids: tuple[int, ...]
    """The tokens of the text, without the stop token."""
    stopped: bool
    """The model ended it with a stop token; otherwise a limit or the caller did."""
    first_seconds: float
    """From the start to the first token: the prompt's forward pass. 0 before that."""
    seconds: float
    """From the start to the last token."""

    @property
    def tokens_per_second(self) -> float:
        """Decode speed: the tokens after the first, by the time they took; 0 if there are none."""
        decoding = self.seconds - self.first_seconds
        return (len(self.ids) - 1) / decoding if len(self.ids) > 1 and decoding > 0 else 0.0


class ReplyStream(Iterator[str]):
    """The pieces of a reply as they come. `reply` may be read at any time, also after Ctrl-C."""

    def __init__(self, tokens: Iterator[int]):
        self._pieces = self._run(tokens)
        self._text: list[str] = []
        self._ids: list[int] = []
        self._stopped = False
        self._begun = time.perf_counter()
        self._first = self._last = self._begun

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def reply(self) -> Reply:
        """What has been generated so far."""
        return Reply(
            "".join(self._text),
            tuple(self._ids),
            self._stopped,
            self._first - self._begun,
            self._last - self._begun,
        )

    def _run(self, tokens: Iterator[int]) -> Iterator[str]:
        # A byte sequence that is no UTF-8 says nothing, and as U+FFFD in the history the model
        # would learn to repeat it.
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._begun = self._first = self._last = time.perf_counter()
        for token in tokens:
            self._last = time.perf_counter()
            if not self._ids:
                self._first = self._last
            if token in STOP_IDS:
                self._stopped = True
                return
            self._ids.append(token)
            piece = decoder.decode(token_bytes()[token])
            if piece:
                self._text.append(piece)
                yield piece


class Generator:
    """Generates with one model, one reply at a time.

    The keys and values of the last prompt and reply are kept, and a prompt that begins like them
    is computed from where it differs.
    """

    def __init__(self, model: GPT2LMHeadModel, device: torch.device):
        """Move the model to the device and switch its dropout off, both in place."""
        self.model: Any = model.to(device).eval()  # pyright: ignore[reportArgumentType]
        self.device = device
        self.window: int = model.config.n_positions
        self._cache = DynamicCache(config=model.config)
        self._cached: list[int] = []

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> ReplyStream:
        """Return the pieces of text of a reply; their end is a stop token or a limit.

        A piece is never empty, half a character or a control token. The limits are
        `sampling.max_new_tokens` and the model's last position.

        Raises:
            ValueError: The prompt is empty, or leaves no position for a reply.
        """
        if not 0 < len(prompt) < self.window:
            raise ValueError(f"a prompt of {len(prompt)} tokens in a window of {self.window}")
        return ReplyStream(self._tokens(list(prompt), sampling))

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Reply:
        """Return the whole reply that `stream` gives in pieces."""
        stream = self.stream(prompt, sampling)
        for _ in stream:
            pass
        return stream.reply

    def _tokens(self, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        # On the CPU whatever the device, so that a seed means the same everywhere.
        random = torch.Generator()
        if sampling.seed is None:
            random.seed()
        else:
            random.manual_seed(sampling.seed)
        limit = min(sampling.max_new_tokens, self.window - len(prompt))
        reply: list[int] = []
        self._crop(prompt)
        step = prompt[len(self._cached) :]
        for _ in range(limit):
            token = choose(self._logits(step), reply, sampling, random)
            yield token
            if token in STOP_IDS:
                return
            reply.append(token)
            step = [token]

    def _crop(self, prompt: list[int]) -> None:
        """Keep what the cache shares with the prompt, but for its last token, whose logits count.

        Layers are cut one by one to an absolute length: Ctrl-C may have struck within a forward
        pass, when some of them had its keys or values and others not.
        """
        pairs = zip(self._cached, prompt[:-1], strict=False)
        same = next((at for at, (old, new) in enumerate(pairs) if old != new), None)
        length = min(len(self._cached), len(prompt) - 1) if same is None else same
        self._cached = self._cached[:length]
        if not length:
            self._cache = DynamicCache(config=self.model.config)
            return
        layers: list[Any] = self._cache.layers
        for layer in layers:
            layer.keys = layer.keys[..., :length, :]
            layer.values = layer.values[..., :length, :]

    @torch.inference_mode()
    def _logits(self, ids: list[int]) -> Tensor:
        """Return the scores of the token after `ids`, shape (vocab,), and keep their keys."""
        batch = torch.tensor([ids], device=self.device)
        output = self.model(
            input_ids=batch, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        self._cached += ids
        return output.logits[0, -1].float()


def choose(logits: Tensor, reply: list[int], sampling: Sampling, random: torch.Generator) -> int:
    """Return the next token: penalty, then temperature, top-k and top-p, in transformers' order.

    Args:
        logits: Shape (vocab,), float32.
        reply: Tokens of the reply so far, which the repetition penalty weakens. The prompt's are
            left alone, or the model would avoid the user's words.
    """
    scores = penalize(logits, reply, sampling.repetition_penalty)
    scores[NEVER] = -torch.inf
    if sampling.temperature < COLDEST:
        return int(scores.argmax())
    scores = scores / sampling.temperature
    top, ids = scores.topk(min(sampling.top_k or len(scores), len(scores)))
    chances = top.softmax(-1).cpu()
    # A token stays while those before it are short of top_p: the likeliest always does.
    chances[chances.cumsum(-1) - chances >= sampling.top_p] = 0
    return int(ids[torch.multinomial(chances, 1, generator=random)])


def penalize(logits: Tensor, reply: list[int], penalty: float) -> Tensor:
    """Return the scores with those of the reply's tokens divided by `penalty` (times, below 0).

    The rule of CTRL (arXiv:1909.05858) and transformers, on scores shifted to mean 0. GPT-2's own
    lie tens below 0, where dividing by 1.1 takes ten nats and forbids every word used once; a shift
    changes no probability.
    """
    scores = logits - logits.mean()
    if reply and penalty != 1:
        seen = torch.tensor(sorted(set(reply)), device=scores.device)
        old = scores[seen]
        scores[seen] = torch.where(old < 0, old * penalty, old / penalty)
    return scores
