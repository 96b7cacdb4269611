"""Decoding on a GPU: a step and its draw as one CUDA graph, so that no kernel waits for Python."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ReplyError
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.sampling import NOT_FINITE, candidates, first_to_ring

BUCKET = 256
"""Attention looks at a multiple of so many positions: each multiple has a graph of its own."""
WARM_UPS = 3
"""Runs before a graph is captured, as PyTorch's notes on CUDA graphs ask for."""


class GraphLoop:
    """Draws tokens for all slots of a decoder at once, on its device.

    Tokens, positions and random numbers live in fixed memory that a captured graph reads and
    writes, so a step costs one launch and the copy of its tokens. A step is begun before the tokens
    of the one before it are handed out, so that the device has work while Python makes text of
    them. Without CUDA the same steps run one by one. A seed gives the same tokens on the same kind
    of device.

    Source:
        https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, decoder: Decoder, sampling: Sampling):
        """Prepare for replies with this sampling, whatever its seed.

        Raises:
            ValueError: It forbids n-grams, which takes a look at the tokens.
        """
        if sampling.no_repeat_ngram:
            raise ValueError("n-grams are forbidden on the CPU only")
        self.decoder = decoder
        self.sampling = replace(sampling, seed=None)
        device, slots = decoder.device, decoder.keys.shape[1]
        self._slots = torch.arange(slots, device=device)
        self._token = torch.zeros(slots, dtype=torch.long, device=device)
        self._shown = torch.zeros(slots, dtype=torch.long, device=device)
        """The tokens as they are handed out; below 0 where the scores were not finite."""
        self._position = torch.zeros(slots, dtype=torch.long, device=device)
        self._seen = torch.zeros(slots, len(decoder.tokens), dtype=torch.bool, device=device)
        self._random = torch.Generator(device)
        cuda = device.type == "cuda"
        self._drawn = torch.zeros(slots, dtype=torch.long, pin_memory=cuda)
        """The tokens of the latest step, where the CPU reads them."""
        self._copied = torch.cuda.Event() if cuda else None
        self._ahead = False
        """Whether a step is begun whose tokens have not been handed out."""
        self._length = 0
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    @torch.inference_mode()
    def begin(
        self,
        logits: Tensor,
        positions: Sequence[int],
        seed: int | None,
        histories: Sequence[Sequence[int]] = (),
    ) -> list[int]:
        """Draw the first tokens of new replies, or the next ones of begun replies.

        Args:
            logits: Shape (slots, vocab).
            positions: Where in its slot each of these tokens will stand.
            histories: Tokens of the replies so far.

        Raises:
            ReplyError: The scores are not finite.
        """
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)
        self._seen.zero_()
        for slot, history in enumerate(histories):
            self._seen[slot, list(history)] = True
        self._position.copy_(torch.tensor(positions))
        self._length = max(positions)
        self._ahead = False
        self._draw(logits)
        self._copy()
        return self._tokens()

    @torch.inference_mode()
    def next(self) -> list[int]:
        """Run the tokens that were drawn last, and return the next ones of all slots.

        Raises:
            ReplyError: The scores after them are not finite.
        """
        if not self._ahead:
            self._begin_step()
        tokens = self._tokens()
        self._begin_step()
        self._ahead = True
        return tokens

    def _begin_step(self) -> None:
        self._length = min(self._length + 1, self.decoder.window)
        length = min(-(-self._length // BUCKET) * BUCKET, self.decoder.window)
        if self.decoder.device.type == "cuda":
            if length not in self._graphs:
                self._graphs[length] = self._capture(length)
            self._graphs[length].replay()
        else:
            self._step(length)
        self._copy()

    def _step(self, length: int) -> None:
        logits = self.decoder.step_tensors(self._token, self._position, self._slots, length)
        # Slots whose replies have ended go on at the last position; nobody reads them.
        self._position.add_(1).clamp_(max=self.decoder.window - 1)
        self._draw(logits)

    def _draw(self, logits: Tensor) -> None:
        chances, ids = candidates(logits, self._seen, self.sampling)
        clocks = torch.empty_like(chances).exponential_(generator=self._random)
        drawn = ids.gather(1, first_to_ring(chances, clocks))
        self._seen.scatter_(1, drawn, True)
        self._token.copy_(drawn[:, 0])
        # The next step is begun with a token that there is, whatever becomes of this one.
        self._shown.copy_(drawn[:, 0].masked_fill(~logits.amax(-1).isfinite(), -1))

    def _copy(self) -> None:
        self._drawn.copy_(self._shown, non_blocking=True)
        if self._copied:
            self._copied.record()

    def _tokens(self) -> list[int]:
        if self._copied:
            self._copied.synchronize()
        tokens: list[int] = self._drawn.tolist()
        if min(tokens) < 0:
            raise ReplyError(NOT_FINITE)
        return tokens

    def _capture(self, length: int) -> torch.cuda.CUDAGraph:
        """Return a graph of one step; all that a step changes is as it was before."""
        state = [kept.clone() for kept in (self._token, self._position, self._seen)]
        random = self._random.get_state()

        def restore() -> None:
            kept = (self._token, self._position, self._seen)
            for tensor, old in zip(kept, state, strict=True):
                tensor.copy_(old)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._step(length)
                restore()
        torch.cuda.current_stream().wait_stream(stream)
        self._random.set_state(random)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._random)
        with torch.cuda.graph(graph):
            self._step(length)
        return graph
