"""Generate text from prompt tokens: one engine for chat, evaluation and servers."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.engine import make_decoder
from gpt2chat.core.generation.graph import BUCKET, GraphLoop, draw_settings
from gpt2chat.core.generation.reply import Reply, ReplyBuilder, ReplyStream
from gpt2chat.core.generation.sampling import Choice, Sampler
from gpt2chat.core.model.weights import Model
from gpt2chat.core.text.tokens import STOP_IDS

PIECE = 128
"""Tokens that `warm` computes at a time; a reply that is asked for meanwhile waits for so many."""
LOOPS = 4
"""Most draw settings whose captured graphs a generator keeps."""
TOGETHER = 64
"""Most prompts that `generate_batch` runs side by side."""


class Generator:
    """Generates with one model.

    The keys and values of the last prompt and reply are kept, and a prompt that begins like them
    is computed from where it differs. Threads may share a generator. Replies that alternate token
    by token are right but slow, since each computes its prompt again: hold `turn` to prevent that.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        precision: ChatPrecision = "auto",
        *,
        compiled: bool = False,
    ):
        """Take over a model's weights, and move it to the device in place.

        Args:
            compiled: Let PyTorch compile a step, at the first one.

        Raises:
            HardwareError: The device lacks the precision, or `compiled` is combined with int8.
        """
        on_device: Any = model.to(device)  # pyright: ignore[reportArgumentType]
        self.device = device
        self.parameters = model.num_parameters()
        self.precision, self._decoder = make_decoder(on_device, precision, compiled=compiled)
        self._cached: list[int] = []
        self._owner: Sampler | None = None
        """The sampler of the reply that the loop on the device continues."""
        self._loops: dict[Sampling, GraphLoop] = {}
        """Loops of the device for single replies, by their draw settings."""
        self._batch_loops: dict[tuple[int, int, Sampling], GraphLoop] = {}
        """The loop of the latest batch, by its slots, window and draw settings."""
        self._lock = threading.Lock()
        self.turn = threading.RLock()
        """Held by whoever reads a whole reply: replies that alternate recompute their prompts."""

    @property
    def window(self) -> int:
        """Positions of the model: prompt and reply together."""
        return self._decoder.window

    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        top_logprobs: int | None = None,
        stop_loops: bool = False,
    ) -> ReplyStream:
        """Return the pieces of text of a reply; their end is a stop token or a limit.

        A piece is never empty, half a character or a control token. The limits are
        `sampling.max_new_tokens` and the model's last position.

        Args:
            top_logprobs: Note the log-probability of each token, and of so many likeliest ones.
            stop_loops: End a reply that says the same over and over.

        Raises:
            ValueError: The prompt is empty, or leaves no position for a reply.
            ReplyError: As the pieces are read: the model's scores are not finite.
        """
        self._check(prompt)
        return ReplyStream(
            self._tokens(list(prompt), Sampler(sampling, 1, top_logprobs)),
            stop=sampling.stop,
            stop_loops=stop_loops,
            prompt_tokens=len(prompt),
            limit=self._limit(prompt, sampling),
        )

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, top_logprobs: int | None = None
    ) -> Reply:
        """Return the whole reply that `stream` gives in pieces."""
        return self.stream(prompt, sampling, top_logprobs=top_logprobs).read()

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        top_logprobs: int | None = None,
    ) -> list[Reply]:
        """Return the replies to several prompts, computed side by side.

        With a seed each is what `generate` gives, but for rounding.

        Raises:
            ValueError: A prompt is empty, or leaves no position for a reply.
            ReplyError: The model's scores are not finite.
        """
        for prompt in prompts:
            self._check(prompt)
        replies: list[Reply] = []
        for start in range(0, len(prompts), TOGETHER):
            some = prompts[start : start + TOGETHER]
            replies += self._together(some, Sampler(sampling, len(some), top_logprobs))
        return replies

    def logprobs(self, ids: Sequence[int]) -> Tensor:
        """Return the log-probability of each token but the first, as this precision has it.

        Returns:
            Shape (tokens - 1,), float32, natural logarithms.

        Raises:
            ValueError: There are more tokens than positions, or none.
        """
        if not 0 < len(ids) <= self.window:
            raise ValueError(f"{len(ids)} tokens in a window of {self.window}")
        with self._lock:
            self._cached = []
            scores = self._decoder.along(ids)
        wanted = torch.tensor(ids[1:], device=scores.device)
        return scores[:-1].log_softmax(-1).gather(1, wanted[:, None])[:, 0]

    def warm(self, prompt: Sequence[int], cancelled: Callable[[], bool]) -> None:
        """Compute the beginning of a prompt that is expected, until it is there or cancelled."""
        ids = list(prompt)[: self.window - 1]
        # What is there already is left alone, the tokens after it too.
        start = shared(self._cached, [*ids, 0])
        for end in range(start + PIECE, len(ids) + PIECE, PIECE) if start < len(ids) else ():
            if cancelled():
                return
            self._after(ids[:end])

    def _limit(self, prompt: Sequence[int], sampling: Sampling) -> Literal["length", "window"]:
        """Return what ends a reply first if the model does not."""
        fits = sampling.max_new_tokens <= self.window - len(prompt)
        return "length" if fits else "window"

    def _check(self, prompt: Sequence[int]) -> None:
        if not 0 < len(prompt) < self.window:
            raise ValueError(f"a prompt of {len(prompt)} tokens in a window of {self.window}")

    def _tokens(self, prompt: list[int], sampler: Sampler) -> Iterator[Choice]:
        draw = self._draw_on_device if self._on_device(sampler) else self._draw
        ids = prompt
        for _ in range(min(sampler.sampling.max_new_tokens, self.window - len(prompt))):
            choice = draw(ids, len(prompt), sampler)
            yield choice
            if choice.token in STOP_IDS:
                return
            ids = [*ids, choice.token]

    def _draw(self, ids: list[int], _: int, sampler: Sampler) -> Choice:
        return sampler(self._after(ids)[None])[0]

    def _draw_on_device(self, ids: list[int], prompt: int, sampler: Sampler) -> Choice:
        sampling = sampler.sampling
        with self._lock:
            if self._owner is not sampler or self._cached != ids[:-1]:
                logits = self._run(ids)
                loop = self._loop(sampling)
                seed = None if sampling.seed is None else sampling.seed + len(ids) - prompt
                (token,) = loop.begin(logits[None], [len(ids)], seed, [ids[prompt:]])
                self._owner = sampler
            else:
                (token,) = self._loop(sampling).next()
                self._cached = ids
        return Choice(token)

    def _on_device(self, sampler: Sampler) -> bool:
        """Return whether a GPU can draw the tokens too: nothing else has to look at the scores."""
        plain = sampler.top_logprobs is None and not sampler.sampling.no_repeat_ngram
        return self.device.type == "cuda" and plain

    def _loop(self, sampling: Sampling) -> GraphLoop:
        """Return the device's loop for single replies, whose graphs later replies use again."""
        settings = draw_settings(sampling)
        if settings not in self._loops:
            while len(self._loops) >= LOOPS:
                del self._loops[next(iter(self._loops))]
            self._loops[settings] = GraphLoop(self._decoder, settings)
        return self._loops[settings]

    def _after(self, ids: list[int]) -> Tensor:
        with self._lock:
            self._owner = None
            return self._run(ids)

    def _run(self, ids: list[int]) -> Tensor:
        """Return the scores after some tokens, shape (vocab,); their keys and values are kept."""
        start = len(ids) - 1 if self._cached == ids[:-1] else shared(self._cached, ids)
        # Whatever interrupts the pass, what stands before `start` is whole.
        self._cached = ids[:start]
        logits = self._decoder.extend(ids[start:], start)
        self._cached = ids
        return logits

    def _together(self, prompts: Sequence[Sequence[int]], sampler: Sampler) -> Iterator[Reply]:
        sampling, lengths = sampler.sampling, list(map(len, prompts))
        limits = [min(sampling.max_new_tokens, self.window - length) for length in lengths]
        window = max(lengths) + sampling.max_new_tokens
        if self._on_device(sampler):
            # A batch of the same size uses the graphs of the one before. It takes the loop out of
            # the dictionary, so that a batch in another thread makes its own.
            window = min(-(-window // BUCKET) * BUCKET, self.window)
            key = (len(prompts), window, draw_settings(sampling))
            loop = self._batch_loops.pop(key, None) or GraphLoop(
                self._decoder.with_slots(len(prompts), window), sampling
            )
            decoder = loop.decoder
        else:
            key, loop = None, None
            decoder = self._decoder.with_slots(len(prompts), window)
        builders = [
            ReplyBuilder(
                sampling.stop, prompt_tokens=len(prompt), limit=self._limit(prompt, sampling)
            )
            for prompt in prompts
        ]
        active = list(range(len(prompts)))
        logits = torch.stack([decoder.extend(ids, 0, row) for row, ids in enumerate(prompts)])
        if loop:
            steps = _on_device(loop, logits, lengths, sampling, active)
        else:
            steps = _on_host(decoder, logits, lengths, sampler, active)
        for choices in steps:
            for row, choice in zip(active, choices, strict=True):
                builders[row].add(choice)
            active[:] = [
                row
                for row in active
                if not builders[row].ended and len(builders[row].ids) < limits[row]
            ]
        if loop and key:
            self._batch_loops = {key: loop}
        for builder in builders:
            builder.end_at_limit()
            yield builder.reply


def _on_host(
    decoder: Decoder, logits: Tensor, lengths: list[int], sampler: Sampler, active: list[int]
) -> Iterator[list[Choice]]:
    """Yield the next token of each active reply, until there are none; the caller removes them."""
    yield sampler(logits, active)
    while active:
        last = [sampler.histories[row][-1] for row in active]
        positions = [lengths[row] + len(sampler.histories[row]) - 1 for row in active]
        yield sampler(decoder.step(last, positions, active), active)


def _on_device(
    loop: GraphLoop, logits: Tensor, lengths: list[int], sampling: Sampling, active: list[int]
) -> Iterator[list[Choice]]:
    """Yield likewise what a GPU has drawn."""
    tokens = loop.begin(logits, lengths, sampling.seed)
    while active:
        yield [Choice(tokens[row]) for row in active]
        tokens = loop.next() if active else []


def shared(old: Sequence[int], new: Sequence[int]) -> int:
    """Return how many tokens two texts have in common at their beginning, the last of `new` never.

    Its scores count, so it is always computed.
    """
    pairs = enumerate(zip(old, new[:-1], strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(old), len(new) - 1))
