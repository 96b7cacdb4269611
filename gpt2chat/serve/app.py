"""Answer OpenAI's routes, and those of the page: the window and votes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gpt2chat.core.chat.feedback import Feedback
from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.core.errors import Gpt2ChatError, RowError
from gpt2chat.core.text.conversations import Preference
from gpt2chat.serve.answers import Answer
from gpt2chat.serve.asked import (
    Asked,
    describe_window,
    parse_chat,
    parse_completion,
    parse_messages,
    parse_sampling,
    parse_score,
    to_conversation,
)
from gpt2chat.serve.errors import ApiError
from gpt2chat.serve.fields import Fields, read_object
from gpt2chat.serve.guard import Guard, is_loopback
from gpt2chat.serve.metrics import Counted, Metrics
from gpt2chat.serve.models import Models
from gpt2chat.serve.page import page_response
from gpt2chat.serve.replies import Writer, token_choice


def create_app(settings: ServeConfig, models: Models, key: str | None = None) -> Starlette:
    """Return the server as an ASGI application, for uvicorn or another server.

    Args:
        key: The API key that requests must carry; None for none.
    """
    metrics = Metrics(models)
    service = Service(settings, models, metrics)
    routes = [
        Route("/", page_response),
        # A response is an ASGI application, too. Without `methods`, Starlette would let those
        # answer any method.
        Route("/health", JSONResponse({"status": "ok"}), methods=["GET"]),
        Route("/metrics", service.metrics),
        Route("/v1/models", service.models),
        # The name of a model may be a path, or an organisation and a name.
        Route("/v1/models/{name:path}", service.models),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.complete, methods=["POST"]),
        Route("/v1/window", service.window, methods=["POST"]),
        Route("/v1/score", service.score, methods=["POST"]),
        Route("/v1/feedback", service.vote, methods=["POST"]),
    ]
    hosts = list(settings.allow_host)
    # Only this machine reaches a loopback address, and it asks under one of these names. Any other
    # address needs a key, so there the name need not be known.
    if is_loopback(settings.host):
        hosts += ["localhost", "127.0.0.1", "::1", settings.host]
    paths = frozenset(route.path for route in routes)
    counted = Middleware(Counted, metrics=metrics, paths=paths)
    # Counted comes first, so that requests which the guard refuses are counted, too.
    middleware = [counted, Middleware(Guard, hosts=hosts, origins=settings.cors_origin, key=key)]
    if settings.cors_origin:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["x-dropped-messages", "retry-after"],
        )
        # Outermost, so that the guard's errors carry its headers: a page could not read them
        # otherwise.
        middleware.insert(0, cors)
    # Starlette looks for the most specific class. For `Exception` it runs the handler outside the
    # middleware and raises the exception again, so that uvicorn logs a bug with its traceback.
    kinds = (ApiError, Gpt2ChatError, HTTPException, ClientDisconnect, Exception)
    handlers: dict[Any, Any] = dict.fromkeys(kinds, show_error)
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class Service:
    """The routes of a server."""

    def __init__(self, settings: ServeConfig, models: Models, metrics: Metrics):
        self._metrics = metrics
        self._settings = settings
        self._models = models
        self._feedback = Feedback(settings.feedback)
        self._writing = asyncio.Lock()

    async def models(self, request: Request) -> Response:
        """Send the model that the path names, or the list of models."""
        if "name" in request.path_params:
            name = self._models.pick(request.path_params["name"])
            return JSONResponse(self._models.as_dict(name))
        data = [self._models.as_dict(name) for name in self._models.names]
        return JSONResponse({"object": "list", "data": data})

    async def chat(self, request: Request) -> Response:
        """Answer messages."""
        fields = await read_object(request)
        model = self._models.pick(fields.text("model"))
        defaults, truncation = self._settings.sampling, self._settings.truncation
        # Encoding long messages takes a while, in which other clients are served.
        asked = await run_in_threadpool(
            parse_chat, fields, self._models.window(model), defaults, truncation
        )
        return await self._reply(request, model, asked, chat=True)

    async def complete(self, request: Request) -> Response:
        """Continue texts."""
        fields = await read_object(request)
        model = self._models.pick(fields.text("model"))
        asked = await run_in_threadpool(
            parse_completion, fields, self._models.window(model), self._settings.sampling
        )
        return await self._reply(request, model, asked, chat=False)

    async def _reply(self, request: Request, model: str, asked: Asked, *, chat: bool) -> Response:
        engine = await run_in_threadpool(self._models.load, model)
        waiting = sum(each.scheduler.waiting for each in self._models.loaded.values())
        # Where nobody waits, a request is let in however many replies it asks for: to wait for a
        # shorter queue would not help it.
        if waiting and waiting + len(asked.prompts) * asked.choices > self._settings.queue:
            seconds = max(round(self._metrics.seconds), 1)
            raise ApiError(
                f"{waiting} replies wait already. Try again in {seconds} seconds.",
                429,
                code="rate_limit_exceeded",
                headers={"retry-after": str(seconds)},
            )
        writer = Writer(asked, model, chat=chat)
        answer = Answer(engine, asked, request.client.host if request.client else "")
        deltas = self._metrics.measured(answer.deltas(), model, asked.dropped)
        headers = {"x-dropped-messages": str(asked.dropped)}
        if asked.stream:
            # nginx would otherwise hold pieces back until its buffer is full.
            headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
            return StreamingResponse(
                cancelled_at_the_end(writer.events(deltas), answer),
                headers=headers,
                media_type="text/event-stream",
            )
        try:
            whole = await while_connected(request, writer.whole(deltas))
        finally:
            # If the client is gone, or one of several replies failed, nobody reads the others.
            answer.cancel()
        return JSONResponse(whole, headers=headers)

    async def metrics(self, _: Request) -> Response:
        """Send the figures for Prometheus."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def window(self, request: Request) -> Response:
        """Report how full the window is, and which messages leave it next."""
        fields = await read_object(request)
        size = self._models.window(self._models.pick(fields.text("model")))
        sampling = parse_sampling(fields, size, self._settings.sampling, ("max_tokens",))
        messages = parse_messages(fields)
        fields.refuse_rest()
        return JSONResponse(
            await run_in_threadpool(describe_window, messages, size, sampling.max_new_tokens)
        )

    async def score(self, request: Request) -> Response:
        """Report how likely each token of a reply is, its end included."""
        fields = await read_object(request)
        model = self._models.pick(fields.text("model"))
        size, defaults = self._models.window(model), self._settings.sampling
        ids, start, top = await run_in_threadpool(parse_score, fields, size, defaults)
        engine = await run_in_threadpool(self._models.load, model)
        choices = await run_in_threadpool(engine.generator.choices, ids, start, top)
        content = [token_choice(choice) for choice in choices]
        return JSONResponse({"object": "score", "model": model, "content": content})

    async def vote(self, request: Request) -> Response:
        """Append a vote to the feedback file."""
        fields = await read_object(request)
        async with self._writing:  # rows of two votes must not mix
            rows = await run_in_threadpool(self._write_vote, fields)
        return JSONResponse({"rows": rows}, 201)

    def _write_vote(self, fields: Fields) -> int:
        prompt = to_conversation(parse_messages(fields))
        if prompt.reply is not None:
            raise ApiError("The last message must be the user's.", param="messages")
        cut = fields.flag("cut")
        try:
            if (reply := fields.text("reply")) is not None:
                vote = fields.text("vote")
                texts = {name: fields.text(name) for name in ("model", "reason")}
                fields.refuse_rest()
                if vote not in ("good", "bad"):
                    raise fields.error("vote", "must be good or bad")
                rated = prompt.with_reply(reply).messages[-1].content
                details = {name: text for name, text in texts.items() if text}
                good = vote == "good"
                return self._feedback.rate(prompt, rated, good=good, cut=cut, details=details)
            chosen, rejected = fields.text("chosen"), fields.text("rejected")
            if chosen is None or rejected is None:
                raise fields.error(
                    "reply", "is missing: give it with `vote`, or `chosen` and `rejected`"
                )
            names = fields.inner("models")
            texts = {f"{side}_model": names.text(side) for side in ("chosen", "rejected")}
            names.refuse_rest()
            fields.refuse_rest()
            pair = Preference(prompt, chosen, rejected)
        except RowError as error:
            raise ApiError(f"The vote cannot be used: {error.reason}.") from None
        details = {name: text for name, text in texts.items() if text}
        return self._feedback.prefer(pair, cut=cut, details=details)


async def cancelled_at_the_end(
    events: AsyncGenerator[bytes], answer: Answer
) -> AsyncGenerator[bytes]:
    """Yield the events, and cancel what is left when the client goes away."""
    try:
        async for each in events:
            yield each
    finally:
        answer.cancel()


async def while_connected(request: Request, work: Awaitable[Any]) -> Any:
    """Return what some work returns, and cancel it when the client goes away.

    Raises:
        ClientDisconnect: The client went away.
    """

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    # Starlette ends a stream whose client goes away, but does not watch over other responses.
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(wait_for_disconnect())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        # Both have ended before the response, and asyncio reports no exception as never retrieved.
        await asyncio.gather(working, watching, return_exceptions=True)


async def show_error(_: Request, error: Exception) -> Response:
    """Send an error as OpenAI's API does, whatever raised it."""
    match error:
        case ApiError():
            return error.response
        case Gpt2ChatError():
            # The request was right: the model's files are damaged, say, or the disk is full.
            return ApiError(str(error), 500).response
        case HTTPException():
            # Starlette's own: the path or the method does not exist.
            return ApiError(error.detail + ".", error.status_code, headers=error.headers).response
        case ClientDisconnect():
            # Nobody reads this answer. 499 is nginx's number for it, and tells the metrics.
            return Response(status_code=499)
        case _:
            # A bug. Its traceback goes to the terminal.
            return ApiError("The server failed. Its terminal shows why.", 500).response
