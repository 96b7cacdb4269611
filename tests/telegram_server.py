"""A Bot API server on the loopback interface: what the bot calls of Telegram, over real HTTP."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "123456:AAtestTESTtestTESTtestTESTtest"
ME = {"id": 123456, "is_bot": True, "first_name": "Bot", "username": "the_bot"}
LONG = 300.0
"""Seconds after which a test gives up: only a broken bot takes that long."""


@dataclass
class Call:
    """A call that the bot made."""

    method: str
    fields: dict[str, Any]
    at: float
    """Time of its arrival, in seconds of a monotonic clock."""

    @property
    def text(self) -> str:
        return str(self.fields.get("text", ""))


@dataclass
class Sent:
    """A message of the bot."""

    id: int
    chat: int
    texts: list[str]
    """What it said, oldest first."""
    fields: dict[str, Any]
    """The fields of the call that sent it."""
    buttons: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def text(self) -> str:
        return self.texts[-1]


@dataclass
class Fault:
    """What happens in place of a method's next response."""

    method: str
    status: int = 500
    description: str = "Internal Server Error"
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    after: bool = False
    """Whether the call takes effect first."""
    do: Callable[[], object] | None = None
    """Is called when the call arrives, or after its effect."""
    hang: threading.Event | None = None
    """The response waits for this event."""
    drop: bool = False
    """Whether the connection closes in place of a response."""


class Telegram:
    """The server, and the other side of the conversation."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.sent: list[Sent] = []
        self.faults: list[Fault] = []
        self.blocked: set[int] = set()
        self.deleted: set[int] = set()
        self.moved: dict[int, int] = {}
        """The numbers that groups got as supergroups."""
        self.drafts = True
        """Whether the server knows sendMessageDraft."""
        self._at_call: tuple[int, Callable[[], object]] = (0, lambda: None)
        self._updates: dict[int, dict[str, Any]] = {}
        self._next = 1000
        self._condition = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._arrived = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(LONG)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._arrived.set)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG)

    def wait(self, true: Callable[[], bool]) -> None:
        """Wait until something is true; it is looked at after each call."""
        with self._condition:
            assert self._condition.wait_for(true, LONG), self.calls[-5:]

    def at_call(self, number: int, do: Callable[[], object]) -> None:
        """Do something when this many more calls have arrived, before the last one's effect."""
        self._at_call = (len(self.calls) + number, do)

    def push(self, *updates: dict[str, Any]) -> None:
        """Offer updates to the bot, in this order."""

        def offer() -> None:
            for update in updates:
                self._updates[update["update_id"]] = update
            self._arrived.set()

        self._loop.call_soon_threadsafe(offer)

    def message(
        self, text: str | None, *, chat: int = 1, user: int | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Return an update with a message; a negative chat is a group."""
        self._next += 1
        kind = {"type": "private"} if chat > 0 else {"type": "supergroup", "title": "Group"}
        message = {
            "message_id": self._next,
            "date": int(time.time()),
            "chat": {"id": chat, **kind},
            "from": {"id": user or abs(chat), "is_bot": False, "first_name": "User"},
            **({} if text is None else {"text": text}),
            **fields,
        }
        if text and text.startswith("/"):
            word = text.split()[0]
            entity = {"type": "bot_command", "offset": 0, "length": len(word)}
            message.setdefault("entities", [entity])
        return {"update_id": self._next, "message": message}

    def say(self, text: str | None, **fields: Any) -> dict[str, Any]:
        """Write to the bot, and return the update."""
        update = self.message(text, **fields)
        self.push(update)
        return update

    def press(self, sent: Sent, label: str, *, user: int | None = None) -> None:
        """Press a button below a message."""
        self._next += 1
        kind = "private" if sent.chat > 0 else "supergroup"
        self.push(
            {
                "update_id": self._next,
                "callback_query": {
                    "id": str(self._next),
                    "from": {"id": user or abs(sent.chat), "is_bot": False, "first_name": "User"},
                    "chat_instance": "1",
                    "data": dict(sent.buttons)[label],
                    "message": {
                        "message_id": sent.id,
                        "date": int(time.time()),
                        "chat": {"id": sent.chat, "type": kind, "title": "Group"},
                        "text": sent.text,
                    },
                },
            }
        )

    def ask(self, text: str | None, **fields: Any) -> Sent:
        """Write to the bot, and return its answer."""
        chat = fields.get("chat", 1)
        before = len(self.answers(chat))
        self.say(text, **fields)
        return self.answers_after(before, chat)[0]

    def answers_after(self, count: int, chat: int = 1) -> list[Sent]:
        """Wait until a chat has more answers than these, and return them."""
        self.wait(lambda: len(self.answers(chat)) > count)
        return self.answers(chat)[count:]

    def answers(self, chat: int = 1) -> list[Sent]:
        """Return the messages of a chat that say something."""
        return [sent for sent in self.sent if sent.chat == chat and sent.text != "…"]

    def made(self, method: str) -> list[Call]:
        """Return the calls of a method."""
        return [call for call in list(self.calls) if call.method == method]

    async def _handle(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        form = await request.post()
        fields = {name: _value(str(value)) for name, value in form.items()}
        call = Call(method, fields, time.monotonic())
        self.calls.append(call)
        number, do = self._at_call
        if len(self.calls) == number:
            do()
        try:
            if request.match_info["token"] != TOKEN:
                return _refusal(401, "Unauthorized")
            fault = next((f for f in self.faults if f.method == method), None)
            if fault is None:
                return await self._respond(call)
            self.faults.remove(fault)
            response = _refusal(fault.status, fault.description, fault.parameters)
            if fault.after:
                response = await self._respond(call)
            if fault.do is not None:
                fault.do()
            if fault.hang is not None:
                await asyncio.to_thread(fault.hang.wait, LONG)
            if fault.drop and request.transport is not None:
                request.transport.close()
            return response
        finally:
            with self._condition:
                self._condition.notify_all()

    async def _respond(self, call: Call) -> web.Response:
        fields, chat = call.fields, int(call.fields.get("chat_id", 0))
        if call.method == "getUpdates":
            return _result(await self._take(fields))
        if call.method == "getMe":
            return _result(ME)
        if chat in self.moved:
            new = {"migrate_to_chat_id": self.moved[chat]}
            return _refusal(400, "Bad Request: group chat was upgraded to a supergroup chat", new)
        if chat in self.blocked:
            return _refusal(403, "Forbidden: bot was blocked by the user")
        if chat in self.deleted:
            return _refusal(400, "Bad Request: chat not found")
        if call.method == "sendMessageDraft" and not self.drafts:
            return _refusal(404, "Not Found")
        if call.method in ("sendMessage", "editMessageText", "sendMessageDraft"):
            if not call.text.strip():
                return _refusal(400, "Bad Request: message text is empty")
            if len(call.text.encode("utf-16-le")) // 2 > 4096:
                return _refusal(400, "Bad Request: message is too long")
        if call.method == "sendMessage":
            self._next += 1
            self.sent.append(Sent(self._next, chat, [call.text], fields, _buttons(fields)))
            return _result(_message(self.sent[-1]))
        if call.method == "editMessageText":
            number = int(fields["message_id"])
            sent = next((s for s in self.sent if s.id == number and s.chat == chat), None)
            if sent is None:
                return _refusal(400, "Bad Request: message to edit not found")
            if (sent.text, sent.buttons) == (call.text, _buttons(fields)):
                return _refusal(400, "Bad Request: message is not modified: specified new …")
            sent.texts.append(call.text)
            sent.buttons = _buttons(fields)
            return _result(_message(sent))
        return _result(True)

    async def _take(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Confirm what comes before the offset, and wait for what comes after it."""
        offset = int(fields.get("offset", 0))
        for number in [number for number in self._updates if number < offset]:
            del self._updates[number]
        if not self._updates:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), float(fields.get("timeout", 0)))
            except TimeoutError:
                return []
        return list(self._updates.values())[:100]


def _value(text: str) -> Any:
    return json.loads(text) if text[:1] in "[{" and text[-1:] in "]}" else text


def _buttons(fields: dict[str, Any]) -> list[tuple[str, str]]:
    rows = fields.get("reply_markup", {}).get("inline_keyboard", [])
    return [(button["text"], button["callback_data"]) for row in rows for button in row]


def _message(sent: Sent) -> dict[str, Any]:
    kind = "private" if sent.chat > 0 else "supergroup"
    return {
        "message_id": sent.id,
        "date": int(time.time()),
        "chat": {"id": sent.chat, "type": kind, "title": "Group"},
        "text": sent.text,
    }


def _result(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _refusal(
    status: int, description: str, parameters: dict[str, Any] | None = None
) -> web.Response:
    body = {"ok": False, "error_code": status, "description": description}
    return web.json_response({**body, "parameters": parameters or {}}, status=status)
