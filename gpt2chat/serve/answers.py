"""Let the engine answer while the event loop serves other clients."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple

from gpt2chat.serve.asked import Asked

if TYPE_CHECKING:
    from gpt2chat.core.generation.generate import Generator
    from gpt2chat.core.generation.reply import Reply
    from gpt2chat.core.generation.sampling import Choice


class Delta(NamedTuple):
    """What has been added to one of the replies of a request."""

    at: int
    """Number of the reply among those of the request."""
    text: str
    choices: "tuple[Choice, ...]" = ()
    """Its tokens with log-probabilities, if these were asked for."""
    reply: "Reply | None" = None
    """The whole reply, with the last piece."""


async def answer(generator: "Generator", asked: Asked) -> AsyncGenerator[Delta]:
    """Yield the replies to a request piece by piece. Closing it cancels them.

    Raises:
        ReplyError: The model's scores are not finite.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Delta | BaseException | None]()
    cancelled = False

    def put(item: Delta | BaseException | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, item)

    def run() -> None:
        try:
            for index in range(asked.choices * len(asked.prompts)):
                prompt = asked.prompts[index // asked.choices]
                sampling = asked.sampling.with_seed_offset(index % asked.choices)
                stream = generator.stream(
                    prompt, sampling, top_logprobs=asked.top_logprobs, stop_loops=True
                )
                done = 0
                with generator.turn:
                    for piece in stream:
                        choices = stream.reply.choices
                        put(Delta(index, piece, choices[done:]))
                        done = len(choices)
                        if cancelled:
                            return
                put(Delta(index, "", stream.reply.choices[done:], stream.reply))
            put(None)
        except BaseException as error:
            put(error)

    work = loop.run_in_executor(None, run)
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        await work
    finally:
        cancelled = True
