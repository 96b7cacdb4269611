"""Generate text from the tokens of a prompt: one engine for chat, evaluation and servers."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.engine import make_decoder
from gpt2chat.core.generation.graph import BUCKET, GraphLoop, draw_settings
from gpt2chat.core.generation.reply import Reply, ReplyBuilder, ReplyStream
from gpt2chat.core.generation.sampling import Choice, Sampler
from gpt2chat.core.generation.scheduler import PIECE, Request, Scheduler, shared
from gpt2chat.core.model.weights import Model
from gpt2chat.core.text.tokens import STOP_IDS

LOOPS = 4
"""Most draw settings whose captured graphs a generator keeps."""
SLOTS = 64
"""Most prompts that `generate_batch` computes together."""


class Generator:
    """Generates replies with one model.

    A prompt that begins like an earlier prompt and reply is computed only from where it differs.
    Threads may share a generator: replies that they read at the same time share the passes of the
    decoder. On a GPU such replies are correct but slow, because each computes its prompt again.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        precision: ChatPrecision = "auto",
        *,
        compiled: bool = False,
        slots: int = 16,
        kept: int = 1,
    ):
        """Take over a model's weights, and move it to the device in place.

        Args:
            compiled: Let PyTorch compile a step when the first one runs.
            slots: Most replies that are computed together. Each takes memory for one window.
            kept: Slots up to which memory is taken to keep texts whose reply has ended.

        Raises:
            HardwareError: The device lacks the precision, or `compiled` is combined with int8.
        """
        on_device: Any = model.to(device)  # pyright: ignore[reportArgumentType]
        self.device = device
        self.parameters = model.num_parameters()
        self.precision, self._decoder = make_decoder(on_device, precision, compiled=compiled)
        self.scheduler = Scheduler(self._decoder.with_slots(1, self._decoder.window), slots, kept)
        """What computes the replies whose tokens are drawn on the CPU."""
        self._cached: list[int] = []
        """The tokens in the cache of a GPU's loops. The scheduler keeps its own account."""
        self._owner: Sampler | None = None
        """The sampler of the reply that a loop of the device continues."""
        self._loops: dict[Sampling, GraphLoop] = {}
        """Loops for single replies on a GPU, by their draw settings."""
        self._batch_loops: dict[tuple[int, int, Sampling], GraphLoop] = {}
        """The loop of the latest batch on a GPU, by its slots, window and draw settings."""
        self._lock = threading.Lock()
        """Held during each pass of a loop."""

    @property
    def window(self) -> int:
        """Number of positions of the model, for prompt and reply together."""
        return self._decoder.window

    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        top_logprobs: int | None = None,
        stop_loops: bool = False,
    ) -> ReplyStream:
        """Return an iterator over the pieces of text of a reply.

        A piece is never empty, half a character or a control token. The reply ends with a stop
        token or text, after `sampling.max_new_tokens`, or at the model's last position.

        Args:
            top_logprobs: Record the log-probability of each token, and those of this many likeliest
                tokens.
            stop_loops: End a reply that repeats itself over and over.

        Raises:
            ValueError: The prompt is empty, or leaves no position for a reply.
            ReplyError: While the pieces are read: the model's scores are not finite.
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
        """Return the complete reply that `stream` returns in pieces."""
        return self.stream(prompt, sampling, top_logprobs=top_logprobs).read()

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        top_logprobs: int | None = None,
    ) -> list[Reply]:
        """Return the replies to several prompts, computed together.

        With a seed each is the reply that `generate` returns, except for rounding.

        Raises:
            ValueError: A prompt is empty, or leaves no position for a reply.
            ReplyError: The model's scores are not finite.
        """
        for prompt in prompts:
            self._check(prompt)
        replies: list[Reply] = []
        # A slot takes up to 36 MiB in bf16 with GPT-2 124M, so 64 take 2.25 GiB.
        for start in range(0, len(prompts), SLOTS):
            batch = prompts[start : start + SLOTS]
            replies += self._run_batch(batch, Sampler(sampling, len(batch), top_logprobs))
        return replies

    def logprobs(self, ids: Sequence[int]) -> Tensor:
        """Return the log-probability of each token but the first, in this precision.

        Returns:
            Shape (tokens - 1,), float32, natural logarithms.

        Raises:
            ValueError: There are no tokens, or more than the model has positions.
        """
        if not 0 < len(ids) <= self.window:
            raise ValueError(f"{len(ids)} tokens in a window of {self.window}")
        request = Request(ids, Sampling(), 0, top_logprobs=0, score=True)
        self._compute(request)
        return torch.tensor([choice.logprob for choice in request.scored], dtype=torch.float32)

    def choices(self, ids: Sequence[int], start: int, top_logprobs: int) -> list[Choice]:
        """Return the tokens of a text from a position on, as if the model had drawn them.

        Args:
            start: Position of the first token to return, at least 1.
            top_logprobs: Number of likeliest tokens to return with each.

        Raises:
            ValueError: There are no tokens, or more than the model has positions.
        """
        if not 0 < start < len(ids) <= self.window:
            raise ValueError(f"tokens {start} to {len(ids)} in a window of {self.window}")
        request = Request(ids, Sampling(), 0, top_logprobs=top_logprobs, score=True)
        self._compute(request)
        return request.scored[start - 1 :]

    def warm(self, prompt: Sequence[int], cancelled: Callable[[], bool]) -> None:
        """Compute the beginning of an expected prompt, until it is complete or cancelled."""
        ids = list(prompt)[: self.window - 1]
        if self.device.type == "cuda":
            # If the cache has the whole beginning, it stays as it is, with what follows.
            start = shared(self._cached, [*ids, 0])
            for end in range(start + PIECE, len(ids) + PIECE, PIECE) if start < len(ids) else ():
                if cancelled():
                    return
                with self._lock:
                    self._owner = None
                    self._extend(ids[:end])
        elif not self.scheduler.begins(ids):
            self._compute(Request(ids, Sampling(), 0, piece=PIECE), cancelled)

    def _compute(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Compute a request that has no reply."""
        self.scheduler.submit(request)
        try:
            while not (request.ended or cancelled()):
                self.scheduler.advance(request)
            if request.error is not None:
                raise request.error
        finally:
            # Also after Ctrl-C: other passes must not continue it.
            request.cancelled = True

    def _limit(self, prompt: Sequence[int], sampling: Sampling) -> Literal["length", "window"]:
        """Return which limit ends a reply if the model does not."""
        fits = sampling.max_new_tokens <= self.window - len(prompt)
        return "length" if fits else "window"

    def _check(self, prompt: Sequence[int]) -> None:
        # A reply needs a position, too.
        if not 0 < len(prompt) < self.window:
            raise ValueError(f"a prompt of {len(prompt)} tokens in a window of {self.window}")

    def _tokens(self, prompt: list[int], sampler: Sampler) -> Iterator[Choice]:
        """Yield the tokens of a reply up to a stop token or a limit."""
        sampling, ids = sampler.sampling, prompt
        limit = min(sampling.max_new_tokens, self.window - len(prompt))
        if not self._on_device(sampler):
            request = Request(prompt, sampling, limit, top_logprobs=sampler.top_logprobs)
            self.scheduler.submit(request)
            try:
                while (choice := self.scheduler.next(request)) is not None:
                    yield choice
            finally:
                # Also if the reader stops early: other passes must not continue it.
                request.cancelled = True
            return
        for count in range(limit):
            with self._lock:
                if self._owner is sampler and self._cached == ids[:-1]:
                    tokens = self._loop(sampling).next()
                    self._cached = ids
                else:
                    # The first token, or another reply used the cache in between. The seed
                    # differs at each restart: the same random numbers must not come twice.
                    logits = self._extend(ids)
                    seed = None if sampling.seed is None else sampling.seed + count
                    tokens = self._loop(sampling).begin(
                        logits[None], [len(ids)], seed, [ids[len(prompt) :]]
                    )
                    self._owner = sampler
            yield Choice(tokens[0])
            if tokens[0] in STOP_IDS:
                return
            ids = [*ids, tokens[0]]

    def _on_device(self, sampler: Sampler) -> bool:
        """Return whether a GPU draws the tokens, because nothing needs the scores on the CPU."""
        asked = sampler.sampling
        needs_scores = (
            sampler.top_logprobs is not None
            or asked.no_repeat_ngram
            or asked.frequency_penalty
            or asked.presence_penalty
        )
        return self.device.type == "cuda" and not needs_scores

    def _loop(self, sampling: Sampling) -> GraphLoop:
        """Return the loop for single replies on a GPU, whose graphs later replies reuse."""
        settings = draw_settings(sampling)
        if settings not in self._loops:
            while len(self._loops) >= LOOPS:
                del self._loops[next(iter(self._loops))]
            self._loops[settings] = GraphLoop(self._decoder, settings)
        return self._loops[settings]

    def _extend(self, ids: list[int]) -> Tensor:
        """Return the scores after a text, computing only what the cache does not have."""
        start = len(ids) - 1 if self._cached == ids[:-1] else shared(self._cached, ids)
        # If Ctrl-C interrupts the pass, the cache is still complete up to `start`.
        self._cached = ids[:start]
        logits = self._decoder.extend(ids[start:], start)
        self._cached = ids
        return logits

    def _run_batch(self, prompts: Sequence[Sequence[int]], sampler: Sampler) -> list[Reply]:
        """Return the replies to prompts that each have a slot of one decoder."""
        sampling, lengths = sampler.sampling, list(map(len, prompts))
        limits = [min(sampling.max_new_tokens, self.window - length) for length in lengths]
        slots, window = len(prompts), max(lengths) + sampling.max_new_tokens
        key, loop = None, None
        if self._on_device(sampler):
            # A batch of the same size uses the graphs of the one before. It takes the loop out of
            # the dictionary, so that a batch in another thread makes its own. A loop that does not
            # fit is freed first, because its cache may be gigabytes.
            window = min(-(-window // BUCKET) * BUCKET, self.window)
            key = (slots, window, draw_settings(sampling))
            loop = self._batch_loops.pop(key, None)
            if loop is None:
                self._batch_loops.clear()
                loop = GraphLoop(self._decoder.with_slots(slots, window), sampling)
        decoder = loop.decoder if loop else self._decoder.with_slots(slots, window)
        builders = [
            ReplyBuilder(
                sampling.stop, prompt_tokens=len(prompt), limit=self._limit(prompt, sampling)
            )
            for prompt in prompts
        ]
        active = list(range(slots))
        logits = torch.stack([decoder.extend(ids, 0, slot) for slot, ids in enumerate(prompts)])
        if loop:
            tokens = loop.begin(logits, lengths, sampling.seed)
            choices = [Choice(token) for token in tokens]
        else:
            choices = sampler(logits, active)
        while True:
            for slot, choice in zip(active, choices, strict=True):
                builders[slot].add(choice)
            active = [
                slot
                for slot in active
                if not builders[slot].ended and len(builders[slot].ids) < limits[slot]
            ]
            if not active:
                break
            if loop:  # it runs all slots, those of ended replies too
                tokens = loop.next()
                choices = [Choice(tokens[slot]) for slot in active]
            else:
                histories = [sampler.histories[slot] for slot in active]
                positions = [lengths[slot] + len(sampler.histories[slot]) - 1 for slot in active]
                logits = decoder.step([ids[-1] for ids in histories], positions, active)
                choices = sampler(logits, active)
        if loop and key:
            self._batch_loops = {key: loop}
        for builder in builders:
            builder.end_at_limit()
        return [builder.reply for builder in builders]
