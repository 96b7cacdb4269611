"""Write replies as OpenAI's API does, whole or in pieces."""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from gpt2chat.core.errors import Gpt2ChatError
from gpt2chat.core.text.tokens import ENDOFTEXT_ID, decode, token_bytes
from gpt2chat.serve.answers import Delta
from gpt2chat.serve.asked import Asked
from gpt2chat.serve.errors import ApiError

if TYPE_CHECKING:
    from gpt2chat.core.generation.reply import Reply
    from gpt2chat.core.generation.sampling import Choice


class Writer:
    """Writes the answer to one request: the fields that all its objects share."""

    def __init__(self, asked: Asked, model: str, *, chat: bool):
        self._asked = asked
        self._chat = chat
        kind = "chat.completion" if chat else "text_completion"
        name = "chatcmpl" if chat else "cmpl"
        self._head = {
            "id": f"{name}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    async def whole(self, deltas: AsyncGenerator[Delta]) -> dict[str, Any]:
        """Return the object of an answer in one piece."""
        replies: dict[int, Reply] = {}
        async for delta in deltas:
            if delta.reply is not None:
                replies[delta.at] = delta.reply
        ordered = [replies[index] for index in sorted(replies)]
        choices: list[dict[str, Any]] = []
        for index, reply in enumerate(ordered):
            choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason(reply)}
            if self._chat:
                choice["message"] = {"role": "assistant", "content": reply.text, "refusal": None}
            else:
                choice["text"] = reply.text
            choice["logprobs"] = self._logprobs(reply.choices)
            choices.append(choice)
        return {**self._head, "choices": choices, "usage": self._usage(ordered)}

    async def events(self, deltas: AsyncGenerator[Delta]) -> AsyncGenerator[bytes]:
        """Yield an answer as server-sent events."""
        head = dict(self._head)
        if self._chat:
            head["object"] = "chat.completion.chunk"
        usage = {"usage": None} if self._asked.include_usage else {}
        replies: list[Reply] = []
        begun = set[int]()
        try:
            async for delta in deltas:
                choice: dict[str, Any] = {"index": delta.at, "finish_reason": None}
                if self._chat:
                    choice["delta"] = {"content": delta.text} if delta.text else {}
                    if delta.at not in begun:
                        begun.add(delta.at)
                        choice["delta"] = {"role": "assistant", "content": delta.text}
                else:
                    choice["text"] = delta.text
                choice["logprobs"] = self._logprobs(delta.choices) if delta.choices else None
                if delta.reply is not None:
                    replies.append(delta.reply)
                    choice["finish_reason"] = finish_reason(delta.reply)
                yield event({**head, "choices": [choice], **usage})
        except Gpt2ChatError as error:
            # The status has been sent already, so the error is an event, as in OpenAI's API.
            yield event(ApiError(str(error), 500).as_dict)
            return
        if usage:
            yield event({**head, "choices": [], "usage": self._usage(replies)})
        yield b"data: [DONE]\n\n"

    def _usage(self, replies: "Sequence[Reply]") -> dict[str, Any]:
        """Return the numbers of tokens."""
        prompt = sum(map(len, self._asked.prompts))
        completion = sum(reply.tokens for reply in replies)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "dropped_messages": self._asked.dropped},
        }

    def _logprobs(self, choices: "Sequence[Choice]") -> dict[str, Any] | None:
        """Return log-probabilities in the form of this route."""
        if self._asked.top_logprobs is None:
            return None
        if self._chat:
            return {
                "content": [token_choice(choice) for choice in choices],
                "refusal": None,
            }
        texts = [decode([choice.token]) for choice in choices]
        offsets = [sum(map(len, texts[:at])) for at in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [choice.logprob for choice in choices],
            "top_logprobs": [
                {decode([token]): logprob for token, logprob in choice.top} for choice in choices
            ],
            "text_offset": offsets,
        }


def token_choice(choice: "Choice") -> dict[str, Any]:
    """Return a token of a chat completion with its alternatives."""
    return {
        **token_logprob(choice.token, choice.logprob or 0.0),
        "top_logprobs": [token_logprob(*pair) for pair in choice.top],
    }


def token_logprob(token: int, logprob: float) -> dict[str, Any]:
    """Return a token of a chat completion with its log-probability."""
    is_text = token < ENDOFTEXT_ID
    data = token_bytes()[token] if is_text else decode([token]).encode()
    return {"token": decode([token]), "logprob": logprob, "bytes": list(data)}


def finish_reason(reply: "Reply") -> str:
    """Return OpenAI's word for why a reply ended; "stop" only if the model or a stop text did."""
    return "stop" if reply.stopped else "length"


def event(value: dict[str, Any]) -> bytes:
    """Return an object as one server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
