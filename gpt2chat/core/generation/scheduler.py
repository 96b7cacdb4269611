"""Let many replies share the passes of one decoder: continuous batching, with a prefix cache.

A reply joins between two passes, and each pass adds one token to every reply in progress. A prompt
is computed in pieces while other replies run, so that these do not stall.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence

import psutil
import torch
from torch import Tensor

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.sampling import Choice, Sampler, draw_together
from gpt2chat.core.text.tokens import STOP_IDS

PIECE = 128
"""Tokens of prompts that a pass computes while other replies run: they wait for this many."""
AHEAD = 8
"""Tokens that are computed for a reader before it asks for them, if others ask for theirs."""
WORTH_COPYING = 16
"""Tokens of another slot from which copying their keys and values pays."""
MEMORY_SHARE = 0.5
"""Share of the free memory that more slots may take."""


class Request:
    """One prompt and the reply to it, as the scheduler computes them.

    Args:
        prompt: Token ids, at least one and fewer than the window has positions.
        tokens: Most tokens of the reply; 0 computes only the prompt, so that it is in the cache.
        top_logprobs: As in `Sampler`.
        score: Whether to record the log-probabilities of the prompt's tokens too.
        client: Whose request it is. Clients take turns, however many requests each has.
        ahead: Tokens computed before they are taken; None for no limit.
        piece: Most tokens of the prompt in a pass; None for `PIECE` while other replies run, and no
            limit otherwise.
        listener: Called in the thread that ran a pass, after a pass that got this request further.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        tokens: int,
        *,
        top_logprobs: int | None = None,
        score: bool = False,
        client: str = "",
        ahead: int | None = AHEAD,
        piece: int | None = None,
        listener: "Callable[[Request], None] | None" = None,
    ):
        self.ids = list(prompt)
        """Token ids of the prompt and, as they are drawn, of the reply without its stop token."""
        self.prompt_tokens = len(prompt)
        self.client = client
        self.drawn: deque[Choice] = deque()
        """Tokens of the reply that nobody has taken yet."""
        self.scored: list[Choice] = []
        """The prompt's tokens after the first, with their log-probabilities, if it is scored."""
        self.cached_tokens = 0
        """Number of the prompt's tokens whose keys and values were in the cache already."""
        self.ended = False
        """Whether no further tokens will come."""
        self.error: Exception | None = None
        """Why the reply ended early, if it failed."""
        self.cancelled = False
        """Set this in any thread to end the request before the next pass."""
        self.sampler = Sampler(sampling, 1, top_logprobs)
        self.left = tokens
        """Most tokens that are still to come."""
        self.score = score
        self.ahead = ahead
        self.piece = piece
        self.listener = listener
        self.slot: Slot | None = None
        self.in_reply = False
        """Whether all of its tokens but the latest are in the cache."""

    @property
    def wants_tokens(self) -> bool:
        """Whether the next pass should include it."""
        full = self.ahead is not None and len(self.drawn) >= self.ahead
        return not (self.ended or self.cancelled or full)


class Slot:
    """The place of one text in the decoder's cache. It keeps the text when its reply has ended."""

    def __init__(self, index: int):
        self.index = index
        self.ids: list[int] = []
        """The tokens whose keys and values are in the cache."""
        self.request: Request | None = None
        self.last_use = 0


class Scheduler:
    """Computes the replies to requests with one decoder.

    Nothing runs by itself: whoever waits for a token runs a pass for all, in `next`, or a server's
    thread runs `step` over and over. Threads may share a scheduler.

    Args:
        slots: Most replies in progress.
        kept: Slots up to which more memory is taken to keep the texts of replies that have ended,
            for prompts that begin alike. Beyond, the one unused for longest makes room.
    """

    def __init__(self, decoder: Decoder, slots: int = 16, kept: int = 1):
        self._decoder = decoder
        self._slots = [Slot(index) for index in range(decoder.slots)]
        self._most = slots
        self._kept = kept
        # Appending to a deque needs no lock, so `submit` never waits for a pass.
        self._incoming: deque[Request] = deque()
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        """Requests that have a slot, in the order in which they got it."""
        self._uses = itertools.count(1)
        self._lock = threading.Lock()
        """Held during a pass."""

    @property
    def decoder(self) -> Decoder:
        """The decoder that computes the passes; another one after more slots were needed."""
        return self._decoder

    @property
    def running(self) -> int:
        """Number of requests in progress."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of requests that have not begun."""
        return len(self._waiting) + len(self._incoming)

    def submit(self, request: Request) -> None:
        """Add a request. This returns at once, whatever runs."""
        self._incoming.append(request)

    def next(self, request: Request) -> Choice | None:
        """Return the next token of a submitted request, None at its end.

        Raises:
            ReplyError: The model's scores are not finite.
        """
        while True:
            if request.drawn:
                return request.drawn.popleft()
            if request.error is not None:
                raise request.error
            if request.ended:
                return None
            self.advance(request)

    def advance(self, request: Request) -> None:
        """Run a pass for all, unless a request has ended, or has tokens to take."""
        with self._lock:
            # While this thread waited for the lock, another one may have got it further.
            if not (request.drawn or request.ended):
                self._step()

    def begins(self, ids: Sequence[int]) -> bool:
        """Return whether the cache has a text that begins with these tokens."""
        return any(slot.ids[: len(ids)] == ids for slot in self._slots)

    def step(self) -> bool:
        """Get all requests further by one pass; return whether there was anything to do."""
        with self._lock:
            return self._step()

    def _step(self) -> bool:
        while self._incoming:
            self._waiting.append(self._incoming.popleft())
        self._waiting = [each for each in self._waiting if not each.cancelled]
        for request in [each for each in self._running if each.cancelled]:
            self._release(request)
        passed: list[Request] = []
        try:
            # Chosen before the prompts run: a reply whose prompt ends in this pass gets its first
            # token from the prompt's scores, and has none to run yet.
            decoding = [
                request for request in self._running if request.in_reply and request.wants_tokens
            ]
            rows = self._run_prompts(passed)
            scores = [row[None] for _, row in rows]
            if decoding:
                passed += decoding
                slots = [request.slot for request in decoding if request.slot]
                positions = [len(slot.ids) for slot in slots]
                tokens = [request.ids[-1] for request in decoding]
                if len(slots) == 1:
                    # Unlike `step`, it reads the slot where it is.
                    scores.append(self._decoder.extend(tokens, positions[0], slots[0].index)[None])
                else:
                    places = [slot.index for slot in slots]
                    scores.append(self._decoder.step(tokens, positions, places))
                for slot, token in zip(slots, tokens, strict=True):
                    slot.ids.append(token)
            if scores:
                # The scores of replies alone are drawn from where they are: 13 MB for 64 of them.
                together = scores[0] if len(scores) == 1 else torch.cat(scores)
                self._draw([*(request for request, _ in rows), *decoding], together)
        except Exception as error:
            # A pass that fails ends the replies in it, and no other.
            for request in passed:
                request.error, request.ended = error, True
        for request in passed:
            if request.ended:
                self._release(request)
            if request.listener:
                request.listener(request)
        return bool(passed)

    def _run_prompts(self, passed: list[Request]) -> list[tuple[Request, Tensor]]:
        """Compute the next piece of prompts, and return those that are complete with their scores.

        Prompts are computed one after the other: a later one that begins alike then finds the
        beginning in the cache.
        """
        rows: list[tuple[Request, Tensor]] = []
        alone = len(self._running) + len(self._waiting) == 1
        room = PIECE
        while room > 0:
            # One that is in `passed` is there with its last piece, or with all that it may have.
            request = next(
                (
                    each
                    for each in self._running
                    if not each.in_reply and each.wants_tokens and each not in passed
                ),
                None,
            )
            if request is None and self._waiting:
                # The client with the fewest replies in progress is next; then the oldest request.
                busy = [each.client for each in self._running]
                request = min(self._waiting, key=lambda each: busy.count(each.client))
                slot = self._find_slot(request)
                if slot is None:
                    break
                self._waiting.remove(request)
                slot.request, slot.last_use, request.slot = request, next(self._uses), slot
                request.cached_tokens = request.cached_tokens or len(slot.ids)
                self._running.append(request)
            if request is None:
                break
            slot = request.slot
            assert slot is not None
            start = len(slot.ids)
            missing = len(request.ids) - start
            if missing > room and room < PIECE:
                break  # a prompt is split only if it must be: rounding depends on it
            most = request.piece or (missing if alone else room)
            ids = request.ids[start : start + most]
            room -= len(ids)
            passed.append(request)
            if request.score and start < request.prompt_tokens:
                scores = self._decoder.along(ids, start, slot.index)
                self._record(request, scores, start)
                last = scores[-1]
            else:
                last = self._decoder.extend(ids, start, slot.index)
            slot.ids += ids
            if len(ids) == missing:
                request.in_reply = True
                if request.left:
                    rows.append((request, last))
                else:
                    request.ended = True
        return rows

    def _draw(self, requests: list[Request], scores: Tensor) -> None:
        """Draw the next token of each request from scores of shape (requests, vocab)."""
        choices = draw_together(scores, [request.sampler for request in requests])
        for request, choice in zip(requests, choices, strict=True):
            request.drawn.append(choice)
            request.left -= 1
            request.ended = choice.token in STOP_IDS or not request.left
            if not request.ended:
                request.ids.append(choice.token)

    def _record(self, request: Request, scores: Tensor, start: int) -> None:
        """Record the log-probabilities of the prompt's tokens after `start`."""
        after = request.ids[start + 1 : start + 1 + len(scores)]
        logps = scores[: len(after)].log_softmax(-1)
        count = request.sampler.top_logprobs or 0
        top = logps.topk(count)
        own = logps.gather(1, torch.tensor(after, device=logps.device)[:, None])[:, 0]
        request.scored += [
            Choice(token, logp, tuple(zip(ids, values, strict=True)))
            for token, logp, ids, values in zip(
                after, own.tolist(), top.indices.tolist(), top.values.tolist(), strict=True
            )
        ]

    def _find_slot(self, request: Request) -> Slot | None:
        """Return a slot whose text is the beginning of a request's, as far as there is one."""
        alike = {slot: shared(slot.ids, request.ids) for slot in self._slots}
        source = max(self._slots, key=alike.__getitem__)
        # Scores of a prompt's tokens need a pass over all of it.
        length = 0 if request.score else alike[source]
        others = max((n for slot, n in alike.items() if slot is not source), default=0)
        if source.request is None and length and length == len(source.ids):
            return source
        free = [slot for slot in self._slots if slot.request is None]
        target = next((slot for slot in free if not slot.ids), None)
        # Memory is taken only when it is needed, and doubled so that the cache is seldom moved. If
        # all slots are busy, a reply may have a new one; if not, only so that a text can be kept.
        count, most = len(self._slots), self._kept if free else self._most
        if target is None and count < most and self._grow(min(2 * count, most)):
            target = self._slots[count]
        # No other begins so much like it: the chat that it is from goes on differently, and what
        # followed is of less use than any other chat.
        if target is None and source.request is None and length > others:
            target = source
        if target is None and free:
            target = min(free, key=lambda slot: slot.last_use)
        if target is None:
            # A reader that does not read on gives up its place, and begins again when it does.
            stalled = next((each for each in self._running if not each.wants_tokens), None)
            if stalled is None or stalled.slot is None:
                return None
            target = stalled.slot
            self._release(stalled)
            self._waiting.append(stalled)
        if target is source:
            del target.ids[length:]
        elif length >= WORTH_COPYING:
            for cache in self._decoder.caches:
                cache[:, target.index, :, :length] = cache[:, source.index, :, :length]
            target.ids = source.ids[:length]
        else:
            target.ids = []
        return target

    def _grow(self, slots: int) -> bool:
        """Move to a decoder with more slots, and return whether there is memory for it."""
        old = self._decoder
        size = sum(cache.nbytes for cache in old.caches) // old.slots * slots
        try:
            # The system may grant more memory than it has, and kill the process that uses it.
            if old.device.type == "cpu" and size > (
                MEMORY_SHARE * psutil.virtual_memory().available
            ):
                raise MemoryError
            new = old.with_slots(slots, old.window)
        except (MemoryError, OSError, torch.OutOfMemoryError):
            # Not tried again: it would delay each further request.
            self._most = self._kept = len(self._slots)
            return False
        for larger, cache in zip(new.caches, old.caches, strict=True):
            larger[:, : len(self._slots)] = cache
        self._decoder = new
        self._slots += [Slot(index) for index in range(len(self._slots), slots)]
        return True

    def _release(self, request: Request) -> None:
        """Take the slot of a request, which keeps its text."""
        self._running.remove(request)
        request.in_reply = False
        if request.slot:
            request.slot.request = request.slot = None


def shared(old: Sequence[int], new: Sequence[int]) -> int:
    """Return the length of the common beginning of two texts, without the last token of `new`.

    That token is always computed, because the scores after it are needed.
    """
    low, high = 0, min(len(old), len(new) - 1)
    # By halves, since Python compares slices much faster than tokens one by one.
    while low < high:
        middle = (low + high + 1) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
