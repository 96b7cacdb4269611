"""Read samples and pairs from records of the shapes that public data sets have.

A record is read through `Fields`, so a field that no shape uses is reported. Fields that change the
meaning of a record (a label, a weight, an image, a tool call) are handled alike in every shape.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from gpt2chat.core.errors import ConfigError, RowError
from gpt2chat.core.inputs.fields import Fields, is_empty
from gpt2chat.core.inputs.hh import is_transcript, parse_transcript
from gpt2chat.core.text.bounded_json import parse_json
from gpt2chat.core.text.conversations import (
    TOOL_CALL,
    Conversation,
    Message,
    Preference,
    Turn,
    is_message_list,
    message_list,
    parse_turn,
)

Row = Mapping[str, Any]

MOST_MESSAGES = 2_000
"""The longest conversation that is read: each of its replies carries all messages before it."""
MESSAGES = ("messages", "conversations", "conversation")
SYSTEM = ("system", "system_prompt", "system_message")
QUESTION = ("prompt", "instruction", "question")
DOCUMENT = ("input", "context")
REPLY = ("output", "response")
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)
LABELS = ("label", "kto_tag")
"""TRL's, axolotl's and LLaMA-Factory's names for whether a reply is good (KTO)."""
TRAINED = ("weight", "train", "training")
"""OpenAI's and axolotl's names for whether a reply is trained or only part of the history."""
TRAINED_PARTS = ("train_detail", "training_detail")
"""axolotl's names for the parts of a reply that are trained; the rest is not."""
CUT = ("cut", "truncated")
"""Fields that are true if a reply was cut at the token limit. `Chat` writes the first."""
FINISH = ("finish_reason", "stop_reason")
MEDIA = {
    **dict.fromkeys(("image", "images", "image_path", "image_url"), "image"),
    **dict.fromkeys(("video", "videos"), "video"),
    **dict.fromkeys(("audio", "audios"), "audio"),
}
"""Fields whose content a text model cannot see, each with the reason for dropping its record."""
CALLS = ("tool_calls", "function_call")
MARKS = frozenset((*LABELS, *TRAINED, "loss", *TRAINED_PARTS, *CUT, *FINISH, *MEDIA, *CALLS))
"""All fields that can exclude a record or a message from training."""
PLACEHOLDERS = {f"<{kind}>": kind for kind in ("image", "video", "audio")}
"""Marks that LLaVA and LLaMA-Factory put at the beginning or the end of a text."""
TOOL_MARKS = (
    *("<tool_call>", "<tool_response>", "<functioncall>", "<function_call>"),
    *("[TOOL_CALLS]", "<|python_tag|>"),
)
"""Marks with which Hermes, Glaive, Mistral and Llama write a tool call as text."""
NO_DOCUMENT = frozenset(
    (
        *("noinput", "no input", "no input required", "no input needed", "no input necessary"),
        *("no input provided", "n/a", "na", "none", "null", "nan", "not applicable"),
    )
)
"""Texts of Alpaca's `input` that mean no input: lower case, without surrounding punctuation."""
BAD_REPLY = "reply labelled as bad"
NOT_TRAINED = "reply marked as not trained"
CUT_REPLY = "reply cut at the limit"


class Filtered(RowError):
    """A sound record that is left out on purpose: counted, but not listed in `dropped.jsonl`."""


class Shape(NamedTuple):
    """A kind of record that gives samples or a pair, and the function that converts it."""

    name: str
    """The value of `shape` that forces it."""
    title: str
    """The name in summaries."""
    keys: tuple[tuple[str, ...], ...]
    """Fields that every record of the shape has, each with its alternative spellings."""
    convert: Callable[[Fields], Iterator[Conversation | Preference | RowError]]
    """Converts a record. It yields or raises RowError for what cannot be used, and raises nothing
    else, whatever JSON the record holds."""
    side: Callable[[object], bool] | None = None
    """A check that both sides of a pair pass, for shapes that have the same field names."""


class Reading(NamedTuple):
    """What one record contains."""

    contents: Sequence[Conversation | Preference]
    problems: Sequence[RowError]
    """Reasons why the record, or some of its replies, cannot be used; each reason once."""
    unused: Sequence[str]
    """Names of the fields that were not used and might matter; empty if the record gives
    neither a sample nor a pair."""


def read_record(row: Row, shape: Shape) -> Reading:
    """Return the samples or the pair in a record, and the names of its unused fields."""
    fields = Fields(row)
    contents: list[Conversation | Preference] = []
    problems: dict[str, RowError] = {}
    try:
        if fields.has_any(MARKS):
            _refuse_media(fields)
            # A pair's label says which side won, a sample's whether the reply is any good.
            if shape in CHAT_SHAPES and False in _answers(fields, LABELS):
                raise Filtered(BAD_REPLY)
            if False in _answers(fields, TRAINED):
                raise Filtered(NOT_TRAINED)
            if _is_cut(fields):
                raise Filtered(CUT_REPLY)
        for content in shape.convert(fields):
            problem = content if isinstance(content, RowError) else _beyond_text(content)
            if problem:
                problems.setdefault(problem.reason, problem)
            else:
                contents.append(cast(Conversation | Preference, content))
    except RowError as error:
        problems.setdefault(error.reason, error)
    # The last sample of a conversation carries all messages before it, so its texts are all texts.
    unused = list(fields.unused(_texts(contents[-1]))) if contents else []
    return Reading(contents, list(problems.values()), unused)


def detect(row: Row, shapes: Sequence[Shape]) -> Shape | None:
    """Return the first shape that the record has, or None."""
    for shape in shapes:
        has_all = all(has_any(row, names) for names in shape.keys)
        side = shape.side
        if has_all and (side is None or (side(row["chosen"]) and side(row["rejected"]))):
            return shape
    return None


def shape_named(name: str, shapes: Sequence[Shape]) -> Shape:
    """Return the shape of this name.

    Raises:
        ConfigError: There is no shape of this name.
    """
    for shape in shapes:
        if shape.name == name:
            return shape
    known = ", ".join(shape.name for shape in shapes) or "none can be given here"
    raise ConfigError(
        f"{name!r} is not a known shape. Give one of these: {known}.", setting="shape"
    )


def has_keys(row: Row, keys: Sequence[str]) -> bool:
    """Return whether the record has these fields. In a table, a field left empty is None."""
    return all(row.get(key) is not None for key in keys)


def has_any(row: Row, names: Sequence[str]) -> bool:
    """Return whether the record has one of these fields."""
    return any(row.get(name) is not None for name in names)


def _refuse_media(fields: Fields) -> None:
    """Raise RowError if a record or a message has an image, a video or a sound."""
    for name, kind in MEDIA.items():
        value = fields.take(name)
        if value is not False and not is_empty(value):
            raise RowError(kind)


def _answers(fields: Fields, names: Sequence[str]) -> set[bool]:
    """Use the fields among these that mean yes or no, and return their answers.

    A field that means neither (a class, a weight of 0.5) is left unused, and so is reported.
    """
    answers: set[bool] = set()
    for name in names:
        value = fields.peek(name)
        if isinstance(value, str):
            value = value.strip().lower()
        if isinstance(value, str | int | float) and value in _YES_OR_NO:
            answers.add(_YES_OR_NO[value])
            fields.take(name)
    return answers


_YES_OR_NO: dict[str | float, bool] = {
    **dict.fromkeys((1, "1", "1.0", "true", "good", "desirable", "chosen"), True),
    **dict.fromkeys((0, "0", "0.0", "false", "bad", "undesirable", "rejected"), False),
    **dict.fromkeys((-1, "-1"), False),
}  # True and False are 1 and 0 to a dictionary.


def _is_cut(fields: Fields) -> bool:
    # All of them are taken, so that the second is not reported if the first decides.
    reasons = [fields.take(name) for name in FINISH]
    return True in _answers(fields, CUT) or any(
        reason in ("length", "max_tokens") for reason in reasons
    )


def _texts(content: Conversation | Preference) -> list[str]:
    """Return the texts of a sample or a pair, except its system prompt."""
    if isinstance(content, Preference):
        return [*_texts(content.prompt), content.chosen]
    return [message.content for message in content.messages if message.role != "system"]


def _beyond_text(content: Conversation | Preference) -> RowError | None:
    """Return why a sample or a pair contains more than text; None if it does not."""
    replies = [content.rejected] if isinstance(content, Preference) else []
    for text in (*_texts(content), *replies):
        if "<" in text or "[" in text:
            for mark, kind in PLACEHOLDERS.items():
                if text.startswith(mark) or text.endswith(mark):
                    return RowError(kind)
            if any(mark in text for mark in TOOL_MARKS):
                return RowError(TOOL_CALL)
    return None


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{name} is not text")
    return value


def _read_turns(value: Any, name: str, fields: Fields) -> Iterator[tuple[Turn, RowError | None]]:
    """Yield the messages in a list, each with the reason why it is not trained, if any.

    A message that is not trained stays in the history of the replies after it.

    Raises:
        RowError: The value is not a list of messages, or a message contains more than text. The
            messages after that one depend on it, so none of them can be used.
    """
    for entry in _entries(value, name):
        turn = parse_turn(entry)
        if not turn.rest:
            yield turn, None
            continue
        rest = Fields(turn.rest)
        refusal: RowError | None = None
        if rest.has_any(MARKS):
            if not all(is_empty(rest.take(name)) for name in CALLS):
                raise RowError(TOOL_CALL)
            _refuse_media(rest)
            # Each line uses its fields, so that they are not reported, whatever the others say.
            answers = _answers(rest, (*TRAINED, "loss"))  # "loss" is ms-swift's name
            is_cut = _is_cut(rest)
            trained_parts = [rest.take(name) for name in TRAINED_PARTS]
            if turn.role == "assistant":
                if False in answers:
                    refusal = Filtered(NOT_TRAINED)
                elif not all(map(is_empty, trained_parts)):
                    refusal = Filtered("reply of which only parts are trained")
                elif is_cut:
                    refusal = Filtered(CUT_REPLY)
        yield turn, refusal
        fields.inner.update(dict.fromkeys(f"messages.{name}" for name in rest.unused()))


def _entries(value: Any, name: str) -> Sequence[Any]:
    entries = message_list(value, name)
    if len(entries) > MOST_MESSAGES:
        raise RowError(f"more than {MOST_MESSAGES:,} messages")
    return entries


def _system(fields: Fields) -> tuple[Message, ...]:
    """Return the record's own system prompt as a message, if it has one."""
    for name in SYSTEM:
        # Some data sets have two of the spellings, one of them always empty.
        if not is_empty(fields.peek(name)):
            return (Message("system", _text(fields.take(name), name)),)
    return ()


def _with_system(system: tuple[Message, ...], messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return messages with the record's system prompt before them.

    Raises:
        RowError: They begin with a different system prompt; which one applies is unknown.
    """
    if messages and messages[0].role == "system" and system:
        if messages[0] != system[0]:
            raise RowError("two system prompts")
        return tuple(messages)
    return (*system, *messages)


def _messages(fields: Fields) -> Iterator[Conversation | RowError]:
    """Yield a sample for each reply to a user message, and a RowError for each other reply.

    An empty message is skipped: the messages before and after it stay sound.
    """
    name = next((name for name in MESSAGES if fields.peek(name) is not None), MESSAGES[0])
    value = fields.need(name)
    system = _system(fields)
    messages: tuple[Message, ...] = ()
    has_question = has_reply = False
    for turn, refusal in _read_turns(value, name, fields):
        is_reply = turn.role == "assistant"
        has_reply = has_reply or is_reply
        if not turn.text.strip():
            if turn.role in ("user", "assistant"):
                yield RowError(f"empty {turn.role} message")
                has_question = False
            continue
        # A tuple of its own for each sample: the earlier ones must not grow.
        messages = (*messages, Message(turn.role, turn.text))
        if is_reply and not has_question:
            # Such as a greeting. It stays in the history of the replies that follow.
            yield Filtered("reply without a user message before it")
        elif is_reply:
            sample = Conversation(_with_system(system, messages))
            yield refusal or sample
        has_question = turn.role == "user"
    if not has_reply:
        yield RowError("no assistant message to train on")


def _prompt_messages(value: Any, name: str, fields: Fields) -> tuple[Message, ...]:
    """Return the prompt in a list of messages or a transcript, without empty messages."""
    if is_transcript(value):
        return parse_transcript(value, prompt=True).messages
    messages: list[Message] = []
    trailing_empty: list[Turn] = []
    for turn, _ in _read_turns(value, name, fields):
        if turn.text.strip():
            messages.append(Message(turn.role, turn.text))
            trailing_empty = []
        else:
            trailing_empty.append(turn)
    # Without its last question, a prompt would be answered as if the one before it were asked.
    if any(turn.role == "user" for turn in trailing_empty):
        raise RowError("empty user message")
    if messages and messages[-1].role == "assistant":
        raise RowError("prompt ends with an assistant message")
    return tuple(messages)


def _prompt(fields: Fields, names: Sequence[str]) -> Conversation:
    """Return the prompt of a record: its messages, or its question with document and history.

    Args:
        names: Fields that may hold the prompt, of which the first one present is used.
    """
    system = _system(fields)
    name = next((name for name in names if fields.peek(name) is not None), "")
    value = fields.take(name)
    if name in ("prompt", *MESSAGES):
        value = _listed(value)
        value = [value] if isinstance(value, dict) else value
    is_conversation = isinstance(value, list) or is_transcript(value)
    if name in MESSAGES or (name == "prompt" and is_conversation):
        return Conversation(_with_system(system, _prompt_messages(value, name, fields)))
    question = "" if value is None else _text(value, name)
    document = ""
    for other in DOCUMENT:
        if not document.strip() and fields.peek(other) is not None:
            document = _text(fields.take(other), other)
    if document.strip(" \t\r\n<>[]().!-").lower() in NO_DOCUMENT:
        document = ""
    if not question.strip():
        # Some data sets leave the instruction empty and ask in the input.
        question, document = document, ""
    if not (name or question.strip()):
        raise RowError(f"no field {names[0]}")
    context = (Message("context", document),) if document.strip() else ()
    # LLaMA-Factory's `history` is a list of questions and answers; other data sets have messages.
    value = fields.take("history")
    entries = () if is_empty(value) else _entries(value, "history")
    history: list[Message] = []
    if entries and all(isinstance(entry, Mapping) for entry in entries):
        turns = _read_turns(entries, "history", fields)
        history = [Message(turn.role, turn.text) for turn, _ in turns if turn.text.strip()]
        entries = ()
    for entry in entries:
        match entry:
            case [str(asked), str(answer)]:
                history += [Message("user", asked)] if asked.strip() else []
                history += [Message("assistant", answer)] if answer.strip() else []
            case _:
                raise RowError("history is not a list of questions and answers")
    return Conversation((*system, *context, *history, Message("user", question)))


def _listed(value: Any) -> Any:
    """Return the message or messages in a JSON text; any other value as it is."""
    if not isinstance(value, str) or not ('"role"' in value or '"from"' in value):
        return value
    try:
        parsed = parse_json(value)
    except ValueError:
        return value
    return parsed if is_message_list(parsed) or is_message_list([parsed]) else value


def _reply(value: Any, name: str, fields: Fields) -> str:
    """Return the reply in a text, in one assistant message, or in a list of one."""
    value = _listed(value)
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = cast(Any, [value])
    if isinstance(value, list) and len(cast(list[Any], value)) == 1:
        ((turn, refusal),) = _read_turns(value, name, fields)
        if refusal:
            raise refusal
        if turn.role == "assistant":
            return turn.text
    raise RowError(f"{name} is neither text nor one assistant message")


def _prompt_completion(fields: Fields) -> Iterator[Conversation]:
    completion = fields.need("completion", *REPLY)
    prompt = _prompt(fields, QUESTION)
    yield prompt.with_reply(_reply(completion, "completion", fields))


def _alpaca(fields: Fields) -> Iterator[Conversation]:
    reply = _text(fields.need(*REPLY), "output")
    yield _prompt(fields, ("instruction", "question")).with_reply(reply)


# The first shape that fits is used: where a record has messages, its prompt repeats some of them.
# The functions have names, because a shape is pickled with its chunk and a lambda cannot be.
CHAT_SHAPES = (
    Shape("messages", "messages", (("messages", "conversation"),), _messages),
    Shape("sharegpt", "conversations (ShareGPT)", (("conversations",),), _messages),
    Shape(
        "prompt-completion",
        "prompt/completion",
        (("prompt",), ("completion", *REPLY)),
        _prompt_completion,
    ),
    Shape("alpaca", "instruction/output (Alpaca)", (("instruction", "question"), REPLY), _alpaca),
)


def _pair(fields: Fields) -> Iterator[Preference]:
    for names in SCORES:
        scores = [fields.peek(name) for name in names]
        if all(isinstance(score, int | float) for score in scores):
            fields.take(names[0])
            fields.take(names[1])
            # The annotators preferred neither reply, so nothing can be learnt from the pair.
            if scores[0] == scores[1]:
                raise Filtered("score tie")
    chosen, rejected = (_listed(fields.need(name)) for name in ("chosen", "rejected"))
    both = (chosen, rejected)
    # A list of one message is only a reply, of more a whole conversation.
    if all(map(is_transcript, both)) or all(
        isinstance(side, list) and len(cast(list[Any], side)) > 1 for side in both
    ):
        yield _pair_of_conversations(chosen, rejected, fields)
        return
    prompt = _prompt(fields, ("prompt", *MESSAGES, *QUESTION))
    replies = [_reply(chosen, "chosen", fields), _reply(rejected, "rejected", fields)]
    for reply in replies:
        Message("assistant", reply or "empty")  # refuses half a surrogate pair
    yield Preference(prompt, *replies)


def _pair_of_conversations(chosen: Any, rejected: Any, fields: Fields) -> Preference:
    """Return the pair whose prompt is the common beginning of two whole conversations."""
    system = _system(fields)
    conversations: list[Conversation] = []
    for value, name in ((chosen, "chosen"), (rejected, "rejected")):
        if is_transcript(value):
            messages: Sequence[Message] = parse_transcript(value).messages
        else:
            *earlier, (last, refusal) = _read_turns(value, name, fields)
            if refusal:
                raise refusal
            turns = [turn for turn, _ in earlier if turn.text.strip()]
            messages = [Message(turn.role, turn.text) for turn in (*turns, last)]
        conversations.append(Conversation(_with_system(system, messages)))
    good, bad = conversations
    if good.reply is None or bad.reply is None:
        raise RowError("a side does not end with an assistant message")
    if good.messages[:-1] != bad.messages[:-1]:
        raise RowError("the sides differ before the last reply")
    if fields.peek("messages") == chosen:
        fields.take(
            "messages"
        )  # The Zephyr authors' copy of UltraFeedback repeats the chosen side.
    prompt, value = good.prompt, _listed(fields.peek("prompt"))
    # Some data sets repeat the prompt. As a plain text it adds nothing, or is reported.
    if isinstance(value, list) or is_transcript(value):
        messages = _prompt_messages(value, "prompt", fields)
        repeated = Conversation(_with_system(system, messages))
        fields.take("prompt")
        # One of the two may have a system prompt or a context that the other lacks.
        longer = max(prompt, repeated, key=lambda conversation: len(conversation.messages))
        both = {*prompt.messages, *repeated.messages}
        if repeated.turns != prompt.turns or not both <= {*longer.messages}:
            raise RowError("the prompt is not what the sides begin with")
        prompt = longer
    return Preference(prompt, good.reply.content, bad.reply.content)


def _is_list(value: object) -> bool:
    return isinstance(_listed(value), list)


PREFERENCE_SHAPES = (
    Shape(
        "preference",
        "prompt/chosen/rejected",
        (("prompt", *MESSAGES, *QUESTION, "input"), ("chosen",), ("rejected",)),
        _pair,
    ),
    Shape(
        "chosen-rejected",
        "chosen/rejected",
        (("chosen",), ("rejected",)),
        _pair,
        _is_list,
    ),
    Shape(
        "hh",
        "transcripts (Anthropic HH)",
        (("chosen",), ("rejected",)),
        _pair,
        is_transcript,
    ),
)

FEEDBACK_SHAPES: tuple[Shape, ...] = (
    shape_named("preference", PREFERENCE_SHAPES),
    shape_named("prompt-completion", CHAT_SHAPES),
)
"""The two kinds of record in the feedback that `Chat` writes."""
