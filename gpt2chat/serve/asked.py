"""Turn the body of a request into what the engine needs: prompts, sampling, what to report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from gpt2chat.core.chat.window import UNWRITTEN, fitted
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.serve import Truncation
from gpt2chat.core.config.settings import LARGEST, settings_from, settings_of
from gpt2chat.core.errors import ConfigError, DataError, RowError
from gpt2chat.core.text.conversations import Conversation, Message, parse_turn
from gpt2chat.core.text.tokens import (
    LONGEST_TOKEN,
    VOCAB,
    encode_conversation,
    encode_text,
    exchanges,
    fit_window,
)
from gpt2chat.serve.errors import ApiError
from gpt2chat.serve.fields import Fields

MOST_CHOICES = 16
"""Most replies to one prompt, and most prompts of one request times their replies."""
MOST_PROMPTS = 256
MOST_TOP = 20
"""Most likeliest tokens per token, as in OpenAI's API."""
DRAWN = frozenset(settings_of(Sampling)) - {"max_new_tokens", "stop", "seed"}
"""Parameters of a request that are settings of the sampling by the same name."""
HARMLESS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""Parameters that tell a provider who asks, and change nothing of the reply."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request for replies asks for."""

    sampling: Sampling
    prompts: list[list[int]]
    """Token ids of each prompt."""
    choices: int = 1
    """Replies to each prompt."""
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with the numbers of tokens."""
    top_logprobs: int | None = None
    """Number of likeliest tokens to report with each token; None for no log-probabilities."""
    dropped: int = 0
    """Number of messages that do not fit the window."""
    echo: bool = False
    """Whether the prompt is repeated before its reply."""
    no_reply: bool = False
    """Whether only the prompt's log-probabilities are asked for."""
    is_chat: bool = False
    """Whether a reply is one turn of a chat: it begins with its first word, and it ends if it
    repeats itself over and over."""


def parse_chat(fields: Fields, window: int, defaults: Sampling, truncation: Truncation) -> Asked:
    """Return what a request for a chat completion asks for.

    Args:
        fields: All parameters but `model`.
        window: The model's number of positions.

    Raises:
        ApiError: A parameter is wrong or not supported, or the messages do not fit the window.
    """
    messages = parse_messages(fields)
    sampling = parse_sampling(fields, window, defaults, ("max_completion_tokens", "max_tokens"))
    match fields.text("truncation"):
        case None:
            pass
        case "auto" | "disabled" as given:
            truncation = given
        case other:
            raise fields.error("truncation", f"must be auto or disabled, not {other[:20]!r}")
    top = fields.whole("top_logprobs", 0, MOST_TOP)
    if fields.flag("logprobs"):
        # As in OpenAI's API, `logprobs` alone asks for each token without alternatives.
        top = top or 0
    elif top is not None:
        raise fields.error("top_logprobs", "needs `logprobs`: set it to true")
    choices, stream, include_usage = parse_delivery(fields)
    refuse_what_cannot_be_done(fields)
    conversation = to_conversation(messages)
    if conversation.reply is not None:
        raise ApiError("The last message must be the user's.", param="messages")
    prompt = fit(conversation, window, sampling.max_new_tokens, truncation)
    return Asked(
        sampling=sampling,
        prompts=[encode_conversation(prompt).ids],
        choices=choices,
        stream=stream,
        include_usage=include_usage,
        top_logprobs=top,
        dropped=len(conversation.turns) - len(prompt.turns),
        is_chat=True,
    )


def parse_completion(fields: Fields, window: int, defaults: Sampling) -> Asked:
    """Return what a request for a plain completion asks for; see `parse_chat`."""
    value = fields.take("prompt", object, "")
    # A list of whole numbers is one prompt: its token ids. Any other list has several prompts.
    if isinstance(value, list) and value and not isinstance(value[0], int):
        values = cast(list[Any], value)
    else:
        values = [value]
    if not 0 < len(values) <= MOST_PROMPTS:
        raise fields.error("prompt", f"must have 1 to {MOST_PROMPTS} texts, not {len(values)}")
    echo = fields.flag("echo")
    no_reply = False
    limit = fields.whole("max_tokens", 0)
    if limit == 0:
        if not echo:
            raise fields.error("max_tokens", "must be at least 1 without `echo`")
        # With `echo`, 0 asks for the prompt's own log-probabilities, as in OpenAI's API.
        no_reply, limit = True, None
    # 16 is OpenAI's default here, and 960 the most that `Sampling` takes.
    defaults = settings_from_request({"max_new_tokens": min(limit or 16, 960)}, defaults)
    sampling = parse_sampling(fields, window, defaults, ())
    top = fields.whole("logprobs", 0, MOST_TOP)
    choices, stream, include_usage = parse_delivery(fields)
    best_of = fields.whole("best_of", 1, MOST_CHOICES)
    if best_of not in (None, choices):
        raise fields.error("best_of", "is not supported: it must equal `n`, or be left out")
    if fields.text("suffix"):
        raise fields.error("suffix", "is not supported here. Leave it out")
    refuse_what_cannot_be_done(fields)
    # A reply needs at least one position after its prompt.
    room = 0 if no_reply else 1
    prompts = [parse_prompt(each, window - room) for each in values]
    return Asked(
        sampling=sampling,
        prompts=prompts,
        choices=choices,
        stream=stream,
        include_usage=include_usage,
        top_logprobs=top,
        echo=echo,
        no_reply=no_reply,
    )


def parse_score(fields: Fields, window: int, defaults: Sampling) -> tuple[list[int], int, int]:
    """Return the tokens of a conversation, where its reply begins, and how many choices to report.

    The window holds what it held when the reply was written, unless that leaves no room for it.
    """
    messages = parse_messages(fields)
    sampling = parse_sampling(fields, window, defaults, ("max_tokens",))
    top = fields.whole("top_logprobs", 0, MOST_TOP) or 0
    fields.refuse_rest()
    conversation = to_conversation(messages)
    reply = conversation.reply
    if reply is None:
        raise ApiError("The last message must be the assistant's.", param="messages")
    check_length([reply.content], window)
    prompt = fit(conversation.prompt, window, sampling.max_new_tokens, "auto")
    whole = fit_window(prompt.with_reply(reply.content), window)
    if whole is None:
        raise too_long("The message and its reply do not fit the window together.", "messages")
    encoded = encode_conversation(whole)
    return encoded.ids, encoded.prompt_length, top


def parse_prompt(value: Any, most: int) -> list[int]:
    """Return the ids of a prompt that is a text or a list of ids.

    Raises:
        ApiError: It is neither, it is empty, or it has more than `most` tokens.
    """
    if isinstance(value, str):
        check_length([value], most)
        try:
            ids = encode_text(value)
        except UnicodeEncodeError:
            raise ApiError("`prompt` has half of a surrogate pair.", param="prompt") from None
    elif isinstance(value, list):
        ids = cast(list[Any], value)
        # Not `isinstance`: `true` would be token 1.
        wrong = (id for id in ids if type(id) is not int or not 0 <= id < VOCAB)
        if (first := next(wrong, None)) is not None:
            text = f"`prompt` must have token ids from 0 to {VOCAB - 1}, not {str(first)[:20]}."
            raise ApiError(text, param="prompt")
    else:
        raise ApiError("`prompt` must be a text, or a list of token ids.", param="prompt")
    if not ids:
        raise ApiError("`prompt` is empty. Give a text.", param="prompt")
    if len(ids) > most:
        raise too_long(f"The prompt has {len(ids):,} tokens; {most:,} fit.", "prompt")
    return ids


def parse_messages(fields: Fields) -> list[Message]:
    """Return the messages of a request, in any order.

    Raises:
        ApiError: They are not a list of messages with texts.
    """
    value: Any = fields.take("messages", list, "a list of messages")
    if value is None:
        raise ApiError("`messages` is missing.", param="messages")
    messages: list[Message] = []
    for at, entry in enumerate(value):
        param = f"messages[{at}]"
        try:
            turn = parse_turn(entry)
            messages.append(Message(turn.role, turn.text))
        except RowError as error:
            raise ApiError(f"`{param}` cannot be used: {error.reason}.", param=param) from None
        for name, other in turn.rest.items():
            if other not in (None, [], {}, ""):
                raise ApiError(
                    f"`{param}.{name}` is not supported here. Leave it out.", param=param
                )
    return messages


def to_conversation(messages: Sequence[Message]) -> Conversation:
    """Return messages as a conversation.

    Raises:
        ApiError: Their order is wrong.
    """
    try:
        return Conversation(tuple(messages))
    except RowError as error:
        raise ApiError(f"`messages` cannot be used: {error.reason}.", param="messages") from None


def fit(
    conversation: Conversation, window: int, max_new_tokens: int, truncation: Truncation
) -> Conversation:
    """Return a prompt that fits the window, without its oldest turns if it has to be.

    Raises:
        ApiError: The latest message and the system prompt do not fit, or `truncation` is
            "disabled" and something would have to go.
    """
    # These parts never leave the window. If they are too long, all else is in vain.
    latest = [part.content for part in conversation.messages if part.role in ("system", "context")]
    check_length([*latest, conversation.user.content], window)
    if truncation == "auto":
        try:
            return fitted(conversation, window, max_new_tokens)
        except DataError as error:
            raise too_long(str(error), "messages") from None
    check_length([part.content for part in conversation.messages], window)
    tokens = len(encode_conversation(conversation))
    if tokens + max_new_tokens > window:
        raise too_long(
            f"The messages have {tokens:,} tokens and the reply may have {max_new_tokens:,}; the "
            f"window has {window:,}. Leave out old messages, or set `truncation` to auto.",
            "messages",
        )
    return conversation


def check_length(texts: Sequence[str], window: int) -> None:
    """Refuse texts that cannot fit whatever their tokens are, without encoding them."""
    characters = sum(map(len, texts))
    if characters > window * LONGEST_TOKEN:
        raise too_long(
            f"The text has {characters:,} characters, which no window of {window:,} tokens holds. "
            "Shorten it.",
            "messages",
        )


def too_long(message: str, param: str) -> ApiError:
    """Return the error of a request that does not fit the window."""
    return ApiError(message, param=param, code="context_length_exceeded")


def parse_sampling(
    fields: Fields, window: int, defaults: Sampling, limits: Sequence[str]
) -> Sampling:
    """Return the sampling of a request.

    Args:
        limits: Names of the parameter for the longest reply; the first one given counts.
    """
    values: dict[str, Any] = {}
    for name in DRAWN:
        if (value := fields.take(name, object, "")) is not None:
            values[name] = value
    # A reply ends at the window anyway, so a higher limit asks for nothing else.
    given = [limit for name in limits if (limit := fields.whole(name, 1)) is not None]
    if given:
        values["max_new_tokens"] = min(given[0], window, 960)
    if (seed := fields.whole("seed", -LARGEST, LARGEST - 1)) is not None:
        # OpenAI's seeds may be negative, and those of `Sampling` may not.
        values["seed"] = seed % LARGEST
    if (stop := fields.take("stop", object, "")) is not None:
        values["stop"] = stop
    return settings_from_request(values, defaults)


def settings_from_request(values: dict[str, Any], defaults: Sampling) -> Sampling:
    """Return the sampling with some values of a request.

    Raises:
        ApiError: A value is out of range.
    """
    known = {name: getattr(defaults, name) for name in settings_of(Sampling)}
    try:
        return settings_from(Sampling, {**known, **values})
    except ConfigError as error:
        raise ApiError(str(error), param=error.setting) from None


def parse_delivery(fields: Fields) -> tuple[int, bool, bool]:
    """Return the number of choices, whether to stream, and whether a stream reports usage."""
    choices = fields.whole("n", 1, MOST_CHOICES) or 1
    stream = fields.flag("stream")
    options = fields.inner("stream_options")
    include_usage = options.flag("include_usage")
    options.flag("include_obfuscation")  # it pads chunks against eavesdroppers on OpenAI's network
    options.refuse_rest()
    return choices, stream, include_usage


def refuse_what_cannot_be_done(fields: Fields) -> None:
    """Raise an error for parameters that ask for something that does not exist here.

    Values that ask for nothing beyond a text, such as no tools, are accepted.
    """
    for name in HARMLESS:
        fields.take(name, object, "")
    neutral: dict[str, tuple[Any, ...]] = {
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "logit_bias": ({},),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "store": (False,),
        "service_tier": ("auto", "default"),
        "reasoning_effort": ("none",),
    }
    for name, value in fields.rest().items():
        if value not in neutral.get(name, ()):
            raise fields.error(name, "is not supported here. Leave it out")


def describe_window(messages: list[Message], window: int, max_new_tokens: int) -> dict[str, Any]:
    """Return how full the window is before the next reply, and which messages leave it.

    Raises:
        ApiError: The messages are in the wrong order, or the latest does not fit.
    """
    # After a reply the next message is not written yet, and the window keeps room for it.
    unanswered = bool(messages) and messages[-1].role == "user"
    conversation = to_conversation([*messages, *(() if unanswered else (UNWRITTEN,))])
    prompt = fit(conversation, window, max_new_tokens, "auto")
    first = len(conversation.messages) - len(conversation.turns)
    dropped = len(conversation.turns) - len(prompt.turns)
    # A message leaves together with its reply, so the next to go are one exchange.
    next_out = exchanges(prompt.history)[:1]
    start = first + dropped
    return {
        "used": len(encode_conversation(prompt)),
        "size": window,
        "leaves_next": list(range(start, start + sum(map(len, next_out)))),
        "dropped": list(range(first, start)),
    }
