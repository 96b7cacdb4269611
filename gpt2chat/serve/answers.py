"""Let the engine answer while the event loop serves other clients."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gpt2chat.serve.asked import Asked

if TYPE_CHECKING:
    from gpt2chat.core.generation.generate import Generator
    from gpt2chat.core.generation.reply import Reply, ReplyBuilder
    from gpt2chat.core.generation.sampling import Choice
    from gpt2chat.core.generation.scheduler import Request


class Delta(NamedTuple):
    """What has been added to one of the replies of a request."""

    at: int
    """Number of the reply among those of the request."""
    text: str = ""
    choices: "tuple[Choice, ...]" = ()
    """Its tokens with log-probabilities, if these were asked for; the stop token too."""
    reply: "Reply | None" = None
    """The whole reply, with the last piece."""
    scored: "tuple[Choice, ...]" = ()
    """The prompt's tokens after the first with their log-probabilities, if they were asked for."""
    cached_tokens: int = 0
    """Number of the prompt's tokens that were not computed again; with the last piece."""


class Engine:
    """Runs the passes of one model in a thread, and hands what they add to the event loop."""

    def __init__(self, generator: "Generator"):
        self.generator = generator
        self.scheduler = generator.scheduler
        self.work = threading.Event()
        """Set when the passes have something to look at, such as a request that was cancelled."""
        self._news = deque[tuple[Answer, Delta | Exception]]()
        """What passes have added and the event loop has not been given."""
        # The thread never returns, and must not keep the process from ending.
        threading.Thread(target=self._run, name="gpt2chat", daemon=True).start()

    def submit(self, requests: "Sequence[Request]") -> None:
        """Let the passes include requests. Returns at once."""
        for request in requests:
            self.scheduler.submit(request)
        self.work.set()

    def tell(self, answer: "Answer", news: Delta | Exception) -> None:
        """Hand something to the event loop after the pass that is running."""
        self._news.append((answer, news))
        # The pass may have been run by another thread, which shares the model.
        self.work.set()

    def _run(self) -> None:
        while True:
            self.work.wait()
            # Before the work and not after it: what is submitted meanwhile must not be missed.
            self.work.clear()
            while self.scheduler.step() or self._news:
                # One call for each event loop, whatever the number of replies.
                news = [self._news.popleft() for _ in range(len(self._news))]
                for loop in {answer.loop for answer, _ in news}:
                    own = [item for item in news if item[0].loop is loop]
                    # A loop that has been closed has no readers left.
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(_deliver, own)


class Answer:
    """The replies to one request, as they are generated. The passes include them at once.

    Args:
        client: Whose request it is, for clients to take turns.
    """

    def __init__(self, engine: Engine, asked: Asked, client: str):
        from gpt2chat.core.generation.reply import ReplyBuilder
        from gpt2chat.core.generation.scheduler import Request

        self.loop = asyncio.get_running_loop()
        self.queue = asyncio.Queue[Delta | Exception]()
        self._engine = engine
        self._requests: list[Request] = []
        for at in range(len(asked.prompts) * asked.choices):
            prompt = asked.prompts[at // asked.choices]
            # With one seed for all, the choices would be the same.
            sampling = asked.sampling.with_seed_offset(at % asked.choices)
            room = engine.generator.window - len(prompt)
            builder = ReplyBuilder(
                sampling.stop,
                stop_loops=asked.is_chat,
                prompt_tokens=len(prompt),
                limit="length" if sampling.max_new_tokens <= room else "window",
            )
            request = Request(
                prompt,
                sampling,
                0 if asked.no_reply else min(sampling.max_new_tokens, room),
                top_logprobs=asked.top_logprobs,
                score=asked.echo and asked.top_logprobs is not None,
                client=client,
                # A client that reads slowly holds up no pass: its tokens wait in its own queue.
                ahead=None,
                listener=_Listener(engine, self, at, builder, strip=asked.is_chat),
            )
            self._requests.append(request)
        engine.submit(self._requests)

    async def deltas(self) -> AsyncGenerator[Delta]:
        """Yield what is added to the replies.

        Raises:
            ReplyError: The model's scores are not finite.
        """
        missing = len(self._requests)
        while missing:
            item = await self.queue.get()
            if isinstance(item, Exception):
                raise item
            missing -= item.reply is not None
            yield item

    def cancel(self) -> None:
        """End the replies before the next pass, if they have not ended."""
        for request in self._requests:
            request.cancelled = True
        self._engine.work.set()


class _Listener:
    """Turns the tokens of one reply into text after each pass, in the thread of the passes.

    It must be there, and not in the event loop, because a stop text ends the reply before the next
    pass.
    """

    def __init__(
        self, engine: Engine, answer: Answer, at: int, builder: "ReplyBuilder", *, strip: bool
    ):
        self._engine = engine
        self._answer = answer
        self._at = at
        self._builder = builder
        self._strip = strip
        """Whether white space at the beginning is left out; false once text has come."""
        self._done = False

    def __call__(self, request: "Request") -> None:
        if self._done or request.cancelled:
            return
        if request.error is not None:
            self._engine.tell(self._answer, request.error)
            self._done = True
            return
        builder, text = self._builder, ""
        choices: list[Choice] = []
        while request.drawn and not builder.ended:
            choice = request.drawn.popleft()
            text += builder.add(choice)
            if choice.logprob is not None:
                choices.append(choice)
        reply = None
        if builder.ended or request.ended:
            text += builder.end_at_limit()
            # The scheduler does not know of stop texts, and would go on after one.
            request.cancelled = self._done = True
            reply = builder.reply
        if self._strip:
            text = text.lstrip()
            self._strip = not text
        scored = tuple(request.scored) if reply else ()
        if text or choices or reply:
            delta = Delta(self._at, text, tuple(choices), reply, scored, request.cached_tokens)
            self._engine.tell(self._answer, delta)


def _deliver(news: "list[tuple[Answer, Delta | Exception]]") -> None:
    """Put what passes have added where the replies' readers wait for it."""
    for answer, item in news:
        answer.queue.put_nowait(item)
