"""Count requests and tokens for Prometheus."""

import time
from collections.abc import AsyncGenerator, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2chat.serve.answers import Delta
from gpt2chat.serve.models import Models

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper ends of the histograms' ranges."""
SMOOTHING = 0.1
"""Weight of the latest reply in the mean duration."""


class Metrics:
    """The figures of one server."""

    def __init__(self, models: Models):
        # prometheus_client's own registry refuses the figures of a second server in one process.
        self.registry = CollectorRegistry()
        self.seconds = 1.0
        """Mean duration of the latest replies, which a client that is refused should wait."""
        self._models = models
        self.requests = Counter(
            "gpt2chat_requests", "Requests by path and status.", ["path", "status"],
            registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "gpt2chat_tokens", "Tokens by kind: prompt, cached, reply.", ["model", "kind"],
            registry=self.registry,
        )  # fmt: skip
        self._dropped = Counter(
            "gpt2chat_dropped_messages", "Messages that left the window.", ["model"],
            registry=self.registry,
        )  # fmt: skip
        self._first = Histogram(
            "gpt2chat_first_token_seconds", "Time to the first token.", ["model"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._whole = Histogram(
            "gpt2chat_reply_seconds", "Time to the last token.", ["model"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)  # for the numbers of `collect`

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield how many replies are in progress and waiting now."""
        running = GaugeMetricFamily("gpt2chat_running", "Replies in progress.", labels=["model"])
        waiting = GaugeMetricFamily("gpt2chat_waiting", "Replies not begun.", labels=["model"])
        for name, engine in self._models.loaded.items():
            running.add_metric([name], engine.scheduler.running)
            waiting.add_metric([name], engine.scheduler.waiting)
        yield running
        yield waiting

    def text(self) -> bytes:
        """Return all figures in Prometheus' format."""
        return generate_latest(self.registry)

    async def measured(
        self, deltas: AsyncGenerator[Delta], model: str, dropped: int
    ) -> AsyncGenerator[Delta]:
        """Yield the pieces of replies, and count them."""
        # Time in the queue counts, too: the client waits through it.
        begun = time.perf_counter()
        self._dropped.labels(model).inc(dropped)
        firsts = set[int]()
        async for delta in deltas:
            seconds = time.perf_counter() - begun
            if delta.at not in firsts:
                firsts.add(delta.at)
                self._first.labels(model).observe(seconds)
            if delta.reply is not None:
                self._whole.labels(model).observe(seconds)
                self.seconds += SMOOTHING * (seconds - self.seconds)
                counts = {
                    "prompt": delta.reply.prompt_tokens,
                    "cached": delta.cached_tokens,
                    "reply": delta.reply.tokens,
                }
                for kind, count in counts.items():
                    self._tokens.labels(model, kind).inc(count)
            yield delta


class Counted:
    """Middleware that counts requests by path and status.

    Args:
        paths: The paths to tell apart. Any others are counted together, because a client may ask
            for any number of them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted_send)
