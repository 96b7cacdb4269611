"""Read the shapes of records that others write: what of each makes a sample or a pair.

A record is read through `Fields`, so a field that no shape uses is reported. What would change the
meaning of a row (a label, a weight, an image, a tool call) is used in every shape alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

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
S = TypeVar("S", bound="ChatShape | PreferenceShape")

MOST_MESSAGES = 2_000
"""A longer conversation is refused: each of its replies would carry all before it."""
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
"""OpenAI's and axolotl's names for whether a reply is trained or only context."""
TRAINED_PARTS = ("train_detail", "training_detail")
"""axolotl's names for the parts of a reply that are trained."""
CUT = ("cut", "truncated")
"""`chat` marks a reply with the first where it ran into the limit, so it has no end."""
FINISH = ("finish_reason", "stop_reason")
MEDIA = {
    **dict.fromkeys(("image", "images", "image_path", "image_url"), "image"),
    **dict.fromkeys(("video", "videos"), "video"),
    **dict.fromkeys(("audio", "audios"), "audio"),
}
"""Reasons by the names of fields that hold what a text model cannot see."""
CALLS = ("tool_calls", "function_call")
MARKS = frozenset((*LABELS, *TRAINED, "loss", *TRAINED_PARTS, *CUT, *FINISH, *MEDIA, *CALLS))
"""All fields that may say that a record or a message is not to be trained."""
PLACEHOLDERS = {f"<{kind}>": kind for kind in ("image", "video", "audio")}
"""Where LLaVA and LLaMA-Factory put them in a text: at its beginning or its end."""
TOOL_MARKS = (
    *("<tool_call>", "<tool_response>", "<functioncall>", "<function_call>"),
    *("[TOOL_CALLS]", "<|python_tag|>"),
)
"""How Hermes, Glaive, Mistral and Llama write a tool call as text."""
NO_DOCUMENT = frozenset(
    (
        *("noinput", "no input", "no input required", "no input needed", "no input necessary"),
        *("no input provided", "n/a", "na", "none", "null", "nan", "not applicable"),
    )
)
"""What Alpaca's `input` says where there is none, in small letters and without signs around it."""
BAD_REPLY = "reply labelled as bad"
NOT_TRAINED = "reply marked as not trained"
CUT_REPLY = "reply cut at the limit"


class Filtered(RowError):
    """A sound record that is not wanted: counted under its reason, and not kept aside."""


class ChatShape(NamedTuple):
    """How records of one shape become samples."""

    name: str
    """What a user types to force it."""
    title: str
    """What a user is told."""
    keys: tuple[tuple[str, ...], ...]
    """Fields that every record of the shape has, each with its other spellings."""
    convert: Callable[[Fields], Iterator[Conversation | RowError]]
    """Yields or raises RowError for what cannot be used, and raises nothing else on any record
    that JSON can hold."""
    fits: Callable[[Row], bool] | None = None
    """Whether a record with these fields is of the shape, where that depends on more."""


class PreferenceShape(NamedTuple):
    """How records of one shape become a pair; the fields are those of `ChatShape`."""

    name: str
    title: str
    keys: tuple[tuple[str, ...], ...]
    convert: Callable[[Fields], Iterator[Preference | RowError]]
    fits: Callable[[Row], bool] | None = None


class Reading(NamedTuple):
    """What one record gives."""

    contents: Sequence[Conversation | Preference]
    problems: Sequence[RowError]
    """Why the record, or some of its replies, cannot be used; each reason once."""
    unused: Sequence[str]
    """Names of its fields that were not used and that might matter, where it gives anything."""


def read_record(row: Row, shape: ChatShape | PreferenceShape) -> Reading:
    """Return the samples or the pair in a record, and what is not used of it."""
    fields = Fields(row)
    contents: list[Conversation | Preference] = []
    problems: dict[str, RowError] = {}
    try:
        _require_wanted(fields, labelled=isinstance(shape, ChatShape))
        for content in shape.convert(fields):
            problem = content if isinstance(content, RowError) else _beyond_text(content)
            if problem:
                problems.setdefault(problem.reason, problem)
            else:
                contents.append(cast(Conversation | Preference, content))
    except RowError as error:
        problems.setdefault(error.reason, error)
    unused = list(fields.unused(_texts(contents[-1]))) if contents else []
    return Reading(contents, list(problems.values()), unused)


def detect(row: Row, shapes: Sequence[S]) -> S | None:
    """Return the first shape that the record has."""
    for shape in shapes:
        has_all = all(has_any(row, names) for names in shape.keys)
        if has_all and (shape.fits is None or shape.fits(row)):
            return shape
    return None


def shape_named(name: str, shapes: Sequence[S]) -> S:
    """Return the shape of this name.

    Raises:
        ConfigError: There is none.
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


def _require_wanted(fields: Fields, *, labelled: bool) -> None:
    """Raise RowError where a field of the record says that it is not to be trained."""
    if not fields.has_any(MARKS):
        return
    for name, kind in MEDIA.items():
        value = fields.take(name)
        if value is not False and not is_empty(value):
            raise RowError(kind)
    if labelled and False in _answers(fields, LABELS):
        raise Filtered(BAD_REPLY)
    if False in _answers(fields, TRAINED):
        raise Filtered(NOT_TRAINED)
    if _is_cut(fields):
        raise Filtered(CUT_REPLY)


def _answers(fields: Fields, names: Sequence[str]) -> set[bool]:
    """Use those of the fields that say yes or no, and return what they say.

    A field that says neither (a class, a weight of 0.5) stays, and so is reported.
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
    reasons = [fields.take(name) for name in FINISH]
    return True in _answers(fields, CUT) or any(
        reason in ("length", "max_tokens") for reason in reasons
    )


def _texts(content: Conversation | Preference) -> list[str]:
    """Return the texts of a sample or a pair, except its system prompt."""
    if isinstance(content, Preference):
        return [*_texts(content.prompt), content.chosen]
    return [message.content for message in content.messages if message.role != "system"]


def _beyond_text(content: Conversation | Preference | RowError) -> RowError | None:
    """Return why a sample or a pair is of more than text, where it is."""
    if isinstance(content, RowError):
        return content
    replies = [content.rejected] if isinstance(content, Preference) else []
    for text in (*_texts(content), *replies):
        if "<" not in text and "[" not in text:
            continue
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
    """Yield the messages in a list, with why a reply among them is context and not trained.

    Raises:
        RowError: It is not such a list, or a message is of more than text. What comes after that
            message depends on it.
    """
    for entry in _entries(value, name):
        turn = parse_turn(entry)
        if not turn.rest:
            yield turn, None
            continue
        rest = Fields(turn.rest)
        yield turn, _refusal(turn, rest)
        fields.report_inner("messages", rest)


def _entries(value: Any, name: str) -> Sequence[Any]:
    entries = message_list(value, name)
    if len(entries) > MOST_MESSAGES:
        raise RowError(f"more than {MOST_MESSAGES:,} messages")
    return entries


def _refusal(turn: Turn, rest: Fields) -> RowError | None:
    """Use what the other fields of a message say of it.

    Raises:
        RowError: It is of more than text.
    """
    if not rest.has_any(MARKS):
        return None
    for name in CALLS:
        if not is_empty(rest.take(name)):
            raise RowError(TOOL_CALL)
    for name, kind in MEDIA.items():
        value = rest.take(name)
        if value is not False and not is_empty(value):
            raise RowError(kind)
    answers, cut = _answers(rest, (*TRAINED, "loss")), _is_cut(rest)  # ms-swift has "loss"
    partly = [rest.take(name) for name in TRAINED_PARTS]
    if turn.role != "assistant":
        return None
    if False in answers:
        return Filtered(NOT_TRAINED)
    if not all(map(is_empty, partly)):
        return Filtered("reply of which only parts are trained")
    return Filtered(CUT_REPLY) if cut else None


def _system(fields: Fields) -> tuple[Message, ...]:
    """Return the record's own system prompt as a message, if it has one."""
    for name in SYSTEM:
        # One that is empty leaves the next spelling its turn.
        if not is_empty(fields.peek(name)):
            return (Message("system", _text(fields.take(name), name)),)
    return ()


def _with_system(system: tuple[Message, ...], messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return messages with the record's system prompt before them.

    Raises:
        RowError: They begin with another one, so what the replies follow is not known.
    """
    if messages and messages[0].role == "system" and system:
        if messages[0] != system[0]:
            raise RowError("two system prompts")
        return tuple(messages)
    return (*system, *messages)


def _messages(fields: Fields) -> Iterator[Conversation | RowError]:
    """Yield a sample for each reply to a user message, and why others are none.

    An empty message is passed over: what was said before and after it stays sound.
    """
    name = next((name for name in MESSAGES if fields.peek(name) is not None), MESSAGES[0])
    value = fields.need(name)
    system = _system(fields)
    messages: tuple[Message, ...] = ()
    asked = answered = False
    for turn, refusal in _read_turns(value, name, fields):
        is_reply = turn.role == "assistant"
        answered = answered or is_reply
        if not turn.text.strip():
            if turn.role in ("user", "assistant"):
                yield RowError(f"empty {turn.role} message")
                asked = False
            continue
        messages = (*messages, Message(turn.role, turn.text))
        if is_reply and not asked:
            # A greeting, say: the history of the replies that follow.
            yield Filtered("reply without a user message before it")
        elif is_reply:
            sample = Conversation(_with_system(system, messages))
            yield refusal or sample
        asked = turn.role == "user"
    if not answered:
        yield RowError("no assistant message to train on")


def _prompt_messages(value: Any, name: str, fields: Fields) -> tuple[Message, ...]:
    """Return the prompt in a list of messages or a transcript, empty messages passed over."""
    if is_transcript(value):
        return parse_transcript(value, prompt=True).messages
    messages: list[Message] = []
    empty: list[Turn] = []
    for turn, _ in _read_turns(value, name, fields):
        if turn.text.strip():
            messages.append(Message(turn.role, turn.text))
            empty = []
        else:
            empty.append(turn)
    if any(turn.role == "user" for turn in empty):
        raise RowError("empty user message")
    if messages and messages[-1].role == "assistant":
        raise RowError("prompt ends with an assistant message")
    return tuple(messages)


def _prompt(fields: Fields, names: Sequence[str]) -> Conversation:
    """Return the prompt of a record: a list of messages, or a question with what belongs to it.

    Args:
        names: Fields that may hold it, the first that is there counts.
    """
    system = _system(fields)
    name = next((name for name in names if fields.peek(name) is not None), "")
    value = fields.take(name)
    if name in ("prompt", *MESSAGES):
        value = _listed(value)
        value = [value] if isinstance(value, dict) else value
    is_talk = isinstance(value, list) or is_transcript(value)
    if name in MESSAGES or (name == "prompt" and is_talk):
        return Conversation(_with_system(system, _prompt_messages(value, name, fields)))
    question = "" if value is None else _text(value, name)
    document = ""
    for other in DOCUMENT:
        if not document.strip() and fields.peek(other) is not None:
            document = _text(fields.take(other), other)
    if document.strip(" \t\r\n<>[]().!-").lower() in NO_DOCUMENT:
        document = ""
    if not question.strip():
        # Some leave the instruction empty and ask in the input.
        question, document = document, ""
    if not (name or question.strip()):
        raise RowError(f"no field {names[0]}")
    context = (Message("context", document),) if document.strip() else ()
    history = _history(fields)
    return Conversation((*system, *context, *history, Message("user", question)))


def _history(fields: Fields) -> tuple[Message, ...]:
    """Return LLaMA-Factory's `history`: questions and answers, or messages."""
    value = fields.take("history")
    if is_empty(value):
        return ()
    entries = _entries(value, "history")
    if all(isinstance(entry, Mapping) for entry in entries):
        turns = _read_turns(entries, "history", fields)
        return tuple(Message(turn.role, turn.text) for turn, _ in turns if turn.text.strip())
    messages: list[Message] = []
    for entry in entries:
        match entry:
            case [str(question), str(answer)]:
                messages += [Message("user", question)] if question.strip() else []
                messages += [Message("assistant", answer)] if answer.strip() else []
            case _:
                raise RowError("history is not a list of questions and answers")
    return tuple(messages)


def _listed(value: Any) -> Any:
    """Return the list of messages, or the message, that JSON text stands for; else the value."""
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


CHAT_SHAPES = (
    ChatShape("messages", "messages", (("messages", "conversation"),), _messages),
    ChatShape("sharegpt", "conversations (ShareGPT)", (("conversations",),), _messages),
    ChatShape(
        "prompt-completion",
        "prompt/completion",
        (("prompt",), ("completion", *REPLY)),
        _prompt_completion,
    ),
    ChatShape(
        "alpaca", "instruction/output (Alpaca)", (("instruction", "question"), REPLY), _alpaca
    ),
)


def _pair(fields: Fields) -> Iterator[Preference]:
    _refuse_tie(fields)
    chosen, rejected = (_listed(fields.need(name)) for name in ("chosen", "rejected"))
    if (_is_whole(chosen) and _is_whole(rejected)) or _are_transcripts(chosen, rejected):
        yield _whole_pair(chosen, rejected, fields)
        return
    prompt = _prompt(fields, ("prompt", *MESSAGES, *QUESTION))
    sides = [_reply(chosen, "chosen", fields), _reply(rejected, "rejected", fields)]
    for side in sides:
        Message("assistant", side or "empty")  # refuses half a surrogate pair
    yield Preference(prompt, *sides)


def _is_whole(side: Any) -> bool:
    return isinstance(side, list) and len(cast(list[Any], side)) > 1


def _are_transcripts(chosen: Any, rejected: Any) -> bool:
    return is_transcript(chosen) and is_transcript(rejected)


def _whole_pair(chosen: Any, rejected: Any, fields: Fields) -> Preference:
    """Return the pair whose prompt is the common beginning of both sides."""
    system = _system(fields)
    good, bad = (
        Conversation(_with_system(system, _whole_side(side, name, fields)))
        for side, name in ((chosen, "chosen"), (rejected, "rejected"))
    )
    if good.reply is None or bad.reply is None:
        raise RowError("a side does not end with an assistant message")
    if good.messages[:-1] != bad.messages[:-1]:
        raise RowError("the sides differ before the last reply")
    if fields.peek("messages") == chosen:
        fields.take("messages")  # as the Zephyr authors' copy of UltraFeedback has it
    prompt, value = good.prompt, _listed(fields.peek("prompt"))
    # Some data sets repeat the prompt; as a plain text it adds nothing, or is reported.
    if isinstance(value, list) or is_transcript(value):
        messages = _prompt_messages(value, "prompt", fields)
        given = Conversation(_with_system(system, messages))
        fields.take("prompt")
        longer = max(prompt, given, key=lambda conversation: len(conversation.messages))
        if given.turns != prompt.turns or not {*prompt.messages, *given.messages} <= {
            *longer.messages
        }:
            raise RowError("the prompt is not what the sides begin with")
        prompt = longer
    return Preference(prompt, good.reply.content, bad.reply.content)


def _whole_side(value: Any, name: str, fields: Fields) -> Sequence[Message]:
    if is_transcript(value):
        return parse_transcript(value).messages
    *earlier, (last, refusal) = _read_turns(value, name, fields)
    if refusal:
        raise refusal
    turns = [turn for turn, _ in earlier if turn.text.strip()]
    return [Message(turn.role, turn.text) for turn in (*turns, last)]


def _refuse_tie(fields: Fields) -> None:
    for names in SCORES:
        chosen, rejected = (fields.peek(name) for name in names)
        if isinstance(chosen, int | float) and isinstance(rejected, int | float):
            fields.take(names[0])
            fields.take(names[1])
            if chosen == rejected:
                raise Filtered("score tie")


def _has_lists(row: Row) -> bool:
    return all(isinstance(_listed(row[name]), list) for name in ("chosen", "rejected"))


def _has_transcripts(row: Row) -> bool:
    return _are_transcripts(row["chosen"], row["rejected"])


PREFERENCE_SHAPES = (
    PreferenceShape(
        "preference",
        "prompt/chosen/rejected",
        (("prompt", *MESSAGES, *QUESTION, "input"), ("chosen",), ("rejected",)),
        _pair,
    ),
    PreferenceShape(
        "chosen-rejected",
        "chosen/rejected",
        (("chosen",), ("rejected",)),
        _pair,
        _has_lists,
    ),
    PreferenceShape(
        "hh",
        "transcripts (Anthropic HH)",
        (("chosen",), ("rejected",)),
        _pair,
        _has_transcripts,
    ),
)

FEEDBACK_SHAPES: tuple[ChatShape | PreferenceShape, ...] = (
    shape_named("preference", PREFERENCE_SHAPES),
    shape_named("prompt-completion", CHAT_SHAPES),
)
"""What `chat` writes of a user's opinions, one kind after the other in one file."""
