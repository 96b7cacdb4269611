"""Decode on a GPU: a step and its draw are one CUDA graph, so that no kernel waits for Python."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ReplyError
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.sampling import (
    COLDEST,
    NOT_FINITE,
    candidates,
    first_to_ring,
    never_mask,
)

BUCKET = 256
"""Attention reads a multiple of this many positions. Each multiple has a graph of its own."""
WARM_UPS = 3
"""Runs before a capture; PyTorch's notes on CUDA graphs require some."""


def draw_settings(sampling: Sampling) -> Sampling:
    """Return the part of a sampling that a graph depends on, with the rest set to fixed values.

    The seed is only the generator's state, and where a reply ends is decided outside of the graph.
    """
    return replace(sampling, seed=None, stop=(), max_new_tokens=960)  # the largest allowed


class GraphLoop:
    """Draws tokens for all slots of a decoder at once, on its device.

    Tokens, positions and random numbers are in fixed memory that a captured graph reads and writes,
    so a step costs one launch and the copy of its tokens. A step starts before the tokens of the
    previous one are returned, so that the device has work while Python turns them into text.
    Without CUDA the same steps run one by one. A seed gives the same tokens on the same kind of
    device.

    Source:
        https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, decoder: Decoder, sampling: Sampling):
        """Prepare for replies with these draw settings.

        Raises:
            ValueError: `sampling` forbids n-grams, which needs the tokens on the CPU.
        """
        if sampling.no_repeat_ngram:
            raise ValueError("n-grams can be forbidden on the CPU only")
        self.decoder = decoder
        self.sampling = draw_settings(sampling)
        device, slots = decoder.device, decoder.slots
        self._slots = torch.arange(slots, device=device)
        self._token = torch.zeros(slots, dtype=torch.long, device=device)
        self._result = torch.zeros(slots, dtype=torch.long, device=device)
        """The drawn tokens to return; -1 if the scores were not finite."""
        self._position = torch.zeros(slots, dtype=torch.long, device=device)
        vocab = len(decoder.tokens)
        self._seen = torch.zeros(slots, vocab, dtype=torch.bool, device=device)
        self._never = never_mask(device)
        width = 1 if self.sampling.temperature < COLDEST else self.sampling.top_k or vocab
        self._clocks = torch.ones(slots, min(width, vocab), device=device)
        """Random numbers of the next draw, one for each candidate."""
        self._random = torch.Generator(device)
        # Random numbers come from outside of the draw, because compiled code cannot use a
        # generator of its own. If the draw is compiled for more settings than PyTorch allows, it
        # runs uncompiled.
        self._draw_from = torch.compile(draw) if decoder.compiled else draw
        cuda = device.type == "cuda"
        # Pinned memory lets the copy run while Python continues.
        self._result_on_cpu = torch.zeros(slots, dtype=torch.long, pin_memory=cuda)
        self._copied = torch.cuda.Event() if cuda else None
        self._step_running = False
        """Whether a step has started whose tokens have not been returned."""
        self._length = 0
        """Number of positions in use, of the slot with the most."""
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        """Captured steps by the number of positions that their attention reads."""

    @torch.inference_mode()
    def begin(
        self,
        logits: Tensor,
        positions: Sequence[int],
        seed: int | None,
        histories: Sequence[Sequence[int]] = (),
    ) -> list[int]:
        """Draw the first tokens of new replies, or the next ones of replies in progress.

        The graph of the next step is captured here, so that its time counts as the prompt's.

        Args:
            logits: Shape (slots, vocab).
            positions: Position of each of these tokens in its slot.
            histories: Tokens of the replies so far.

        Raises:
            ReplyError: The scores are not finite.
        """
        self._position.copy_(torch.tensor(positions))
        self._length = max(positions)
        self._step_running = False
        if self.decoder.device.type == "cuda":
            self._graph(self._attended(self._length + 1))
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)
        self._seen.zero_()
        for slot, history in enumerate(histories):
            self._seen[slot, list(history)] = True
        self._draw(logits)
        self._copy()
        return self._tokens()

    @torch.inference_mode()
    def next(self) -> list[int]:
        """Run the tokens that were drawn last, and return the next token of each slot.

        Raises:
            ReplyError: The scores after them are not finite.
        """
        if not self._step_running:
            self._start_step()
        tokens = self._tokens()
        self._start_step()
        self._step_running = True
        return tokens

    def _start_step(self) -> None:
        """Run a step for all slots, on a GPU without waiting for it."""
        self._length = min(self._length + 1, self.decoder.window)
        length = self._attended(self._length)
        if self.decoder.device.type == "cuda":
            self._graph(length).replay()
        else:
            self._step(length)
        self._copy()

    def _attended(self, length: int) -> int:
        """Return how many positions attention reads if `length` of them are in use."""
        return min(-(-length // BUCKET) * BUCKET, self.decoder.window)

    def _step(self, length: int) -> None:
        logits = self.decoder.step_tensors(self._token, self._position, self._slots, length)
        # Slots whose replies have ended continue at the last position; nothing reads their tokens.
        self._position.add_(1).clamp_(max=self.decoder.window - 1)
        self._draw(logits)

    def _draw(self, logits: Tensor) -> None:
        """Draw a token for each slot from scores of shape (slots, vocab)."""
        self._clocks.exponential_(generator=self._random)
        self._draw_from(
            self.sampling, self._never, logits, self._clocks, self._seen, self._token, self._result
        )

    def _copy(self) -> None:
        """Start to copy the result to the CPU."""
        self._result_on_cpu.copy_(self._result, non_blocking=True)
        if self._copied:
            self._copied.record()

    def _tokens(self) -> list[int]:
        """Wait for the result that is being copied, and return it."""
        if self._copied:
            self._copied.synchronize()
        tokens: list[int] = self._result_on_cpu.tolist()
        if min(tokens) < 0:
            raise ReplyError(NOT_FINITE)
        return tokens

    def _graph(self, length: int) -> torch.cuda.CUDAGraph:
        """Return the graph of a step whose attention reads `length` positions.

        A missing graph is captured first. What a step changes is then as it was before.
        """
        if length in self._graphs:
            return self._graphs[length]
        state = [(each, each.clone()) for each in (self._token, self._position, self._seen)]
        random = self._random.get_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._step(length)
                for each, value in state:
                    each.copy_(value)
        torch.cuda.current_stream().wait_stream(stream)
        self._random.set_state(random)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._random)
        # In the default mode another thread that loads a model meanwhile would fail, since it may
        # not allocate memory during a capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step(length)
        self._graphs[length] = graph
        return graph


def draw(
    sampling: Sampling,
    never: Tensor,
    logits: Tensor,
    clocks: Tensor,
    seen: Tensor,
    token: Tensor,
    result: Tensor,
) -> None:
    """Draw a token for each slot, and write it into `seen`, `token` and `result`.

    Args:
        never: True at tokens that must not be drawn, shape (vocab,).
        logits: Shape (slots, vocab).
        clocks: Exponential random numbers, shape (slots, candidates).
        seen: True at the tokens of the replies so far, shape (slots, vocab).
        token: Shape (slots,). The next step starts before the CPU sees the result, so this is a
            valid token in any case.
        result: The same, but -1 where the scores are not finite.
    """
    chances, ids = candidates(logits, seen, sampling, never)
    # On a CPU there may be fewer candidates than there are with the sampling on a GPU.
    drawn = ids.gather(1, first_to_ring(chances, clocks[:, : chances.shape[1]]))
    seen.scatter_(1, drawn, True)
    token.copy_(drawn[:, 0])
    result.copy_(drawn[:, 0].masked_fill(~logits.amax(-1).isfinite(), -1))
