"""Write replies as OpenAI's API does, whole or in pieces."""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from gpt2chat.core.errors import Gpt2ChatError
from gpt2chat.core.text.tokens import CONTROL_BYTES, STOP_IDS, decode, token_bytes
from gpt2chat.serve.answers import Delta
from gpt2chat.serve.asked import Asked
from gpt2chat.serve.errors import ApiError

if TYPE_CHECKING:
    from gpt2chat.core.generation.reply import Reply
    from gpt2chat.core.generation.sampling import Choice


class Writer:
    """Writes the answer to one request: the fields that all its objects share, and its replies."""

    def __init__(self, asked: Asked, model: str, *, chat: bool):
        self._asked = asked
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._replies: dict[int, Reply] = {}
        self._cached_tokens: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        """Characters of each text whose tokens have been written already."""

    async def whole(self, deltas: AsyncGenerator[Delta]) -> dict[str, Any]:
        """Return the object of an answer in one piece."""
        tokens: dict[int, list[Choice]] = {}
        scored: dict[int, Sequence[Choice]] = {}
        async for delta in deltas:
            tokens.setdefault(delta.at, []).extend(delta.choices)
            # Only the last piece of a reply has them, and it overwrites what is empty.
            scored[delta.at] = delta.scored
            self._note_end(delta)
        choices: list[dict[str, Any]] = []
        for at, reply in sorted(self._replies.items()):
            choice: dict[str, Any] = {"index": at, "finish_reason": finish_reason(reply)}
            if self._chat:
                choice["message"] = {
                    "role": "assistant",
                    "content": reply.text.strip(),
                    "refusal": None,
                }
            else:
                choice["text"] = self._echo(at) + reply.text
            # Repeats that were cut off at the end of a chat's reply are not in its own tokens.
            own = reply.choices if self._chat else tokens[at]
            choice["logprobs"] = self._logprobs(at, own, scored[at])
            choices.append(choice)
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def events(self, deltas: AsyncGenerator[Delta]) -> AsyncGenerator[bytes]:
        """Yield an answer as server-sent events."""
        head = dict(self._head)
        if self._chat:
            head["object"] = "chat.completion.chunk"
        # OpenAI's pieces all have the field then: null until the one that reports the numbers.
        usage = {"usage": None} if self._asked.include_usage else {}
        begun = set[int]()
        try:
            async for delta in deltas:
                self._note_end(delta)
                is_first = delta.at not in begun
                begun.add(delta.at)
                choice: dict[str, Any] = {"index": delta.at}
                if not self._chat:
                    choice["text"] = (self._echo(delta.at) if is_first else "") + delta.text
                elif is_first:
                    # As in OpenAI's API, only the first piece has the role.
                    choice["delta"] = {"role": "assistant", "content": delta.text}
                else:
                    choice["delta"] = {"content": delta.text} if delta.text else {}
                choice["logprobs"] = None
                if delta.choices or delta.scored:
                    choice["logprobs"] = self._logprobs(delta.at, delta.choices, delta.scored)
                choice["finish_reason"] = finish_reason(delta.reply) if delta.reply else None
                yield event({**head, "choices": [choice], **usage})
        except Gpt2ChatError as error:
            # The status has been sent already, so the error is an event, as in OpenAI's API.
            yield event(ApiError(str(error), 500).as_dict)
            return
        if usage:
            yield event({**head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _note_end(self, delta: Delta) -> None:
        """Remember a reply that has ended."""
        if delta.reply is not None:
            self._replies[delta.at] = delta.reply
            self._cached_tokens[delta.at] = delta.cached_tokens

    def _echo(self, at: int) -> str:
        """Return the text of a reply's prompt, if it is to be repeated."""
        return decode(self._asked.prompts[at // self._asked.choices]) if self._asked.echo else ""

    def _usage(self) -> dict[str, Any]:
        """Return the numbers of tokens. A prompt counts once, however many replies it has."""
        prompt = sum(map(len, self._asked.prompts))
        completion = sum(reply.tokens for reply in self._replies.values())
        firsts = range(0, len(self._asked.prompts) * self._asked.choices, self._asked.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": sum(self._cached_tokens.get(at, 0) for at in firsts),
                "dropped_messages": self._asked.dropped,
            },
        }

    def _logprobs(
        self, at: int, choices: "Sequence[Choice]", scored: "Sequence[Choice]"
    ) -> dict[str, Any] | None:
        """Return log-probabilities in the form of this route."""
        if self._asked.top_logprobs is None:
            return None
        if self._chat:
            return {
                "content": [
                    token_choice(choice) for choice in choices if choice.token not in STOP_IDS
                ],
                "refusal": None,
            }
        tokens = [choice.token for choice in (*scored, *choices)]
        logprobs = [choice.logprob for choice in (*scored, *choices)]
        tops: list[dict[str, float] | None] = [
            {token_text(token): logprob for token, logprob in choice.top}
            for choice in (*scored, *choices)
        ]
        if self._asked.echo and at not in self._offsets:
            # The first token has nothing before it that would give it a probability.
            tokens.insert(0, self._asked.prompts[at // self._asked.choices][0])
            logprobs.insert(0, None)
            tops.insert(0, None)
        texts = list(map(token_text, tokens))
        start = self._offsets.get(at, 0)
        ends = list(accumulate(map(len, texts), initial=start))
        self._offsets[at] = ends[-1]
        return {
            "tokens": texts,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": ends[:-1],
        }


def token_choice(choice: "Choice") -> dict[str, Any]:
    """Return a token of a chat completion with its alternatives."""
    return {
        **token_logprob(choice.token, choice.logprob or 0.0),
        "top_logprobs": [token_logprob(*pair) for pair in choice.top],
    }


def token_text(token: int) -> str:
    """Return the text of a token; its bytes, as in OpenAI's API, if it is part of a character."""
    data = CONTROL_BYTES.get(token) or token_bytes()[token]
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def token_logprob(token: int, logprob: float) -> dict[str, Any]:
    """Return a token of a chat completion with its log-probability."""
    data = CONTROL_BYTES.get(token) or token_bytes()[token]
    return {"token": token_text(token), "logprob": logprob, "bytes": list(data)}


def finish_reason(reply: "Reply") -> str:
    """Return OpenAI's word for why a reply ended; "stop" only if the model or a stop text did."""
    return "stop" if reply.stopped else "length"


def event(value: dict[str, Any]) -> bytes:
    """Return an object as one server-sent event."""
    # A letter that JSON would escape with six bytes has two or three in UTF-8.
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
