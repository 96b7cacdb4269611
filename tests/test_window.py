"""The prompt of any chat: it fits, it is what training saw, and no more left it than had to."""

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from gpt2chat.core.chat.session import Prompt, Session
from gpt2chat.core.chat.window import (
    SHORTEST_REPLY,
    UNWRITTEN,
    USUAL_MESSAGE,
    fitted,
    lay_out,
    reserved,
)
from gpt2chat.core.errors import DataError
from gpt2chat.core.text.conversations import DEFAULT_SYSTEM, Conversation, Message
from gpt2chat.core.text.template import END_CONTEXT, START_CONTEXT, render, turn
from gpt2chat.core.text.tokens import (
    SPECIAL_IDS,
    WINDOW,
    encode,
    encode_conversation,
    encode_text,
    exchanges,
)
from tests.helpers import talk
from tests.test_template import CONTROL_NAMES

PIECES = st.sampled_from(
    [
        *CONTROL_NAMES,
        "",
        " ",
        "\n",
        "?",
        "ab",
        "word " * 40,
        "漢字" * 30,
        "👩‍👩‍👧",
        "e\u0301",
        "שלום",
    ]
)
TEXTS = st.lists(PIECES | st.text(st.characters(codec="utf-8"), max_size=20), max_size=6).map(
    "".join
)
LONG = st.integers(1, 400).map(lambda count: "word " * count)
CONTENTS = TEXTS | LONG
LIMITS = st.sampled_from([1, 6, 64, 256, 512, 960])


class Talk(RuleBasedStateMachine):
    """A chat to which anything happens. Every prompt it gives is held to what it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()
        self.waits = False

    def check(self, prompt: Prompt, limit: int) -> None:
        whole = Conversation(self.session.messages)
        groups = exchanges(whole.history)
        spare = max(USUAL_MESSAGE - len(encode_text(whole.user.content)), 0)
        most = WINDOW - reserved(WINDOW, limit) - spare
        choices = (
            whole.with_history([message for group in groups[gone:] for message in group])
            for gone in range(len(groups) + 1)
        )
        fits = (chat for chat in choices if len(encode_conversation(chat)) <= most)
        kept = next(fits, whole.with_history(()))
        assert prompt.ids == encode(render(kept)).ids
        assert len(prompt.ids) <= most or not kept.history
        assert len(prompt.ids) <= WINDOW - min(SHORTEST_REPLY, limit)
        sample = encode_conversation(kept.with_reply("word"))
        assert prompt.ids == sample.ids[: sample.prompt_length]
        head = encode(render(Conversation((Message("system", whole.system), UNWRITTEN)))[:7]).ids
        assert prompt.ids[: len(head)] == head
        tail = encode(
            (*turn("user", whole.user.content), *turn("assistant", "x")[:4]),
        ).ids
        assert prompt.ids[-len(tail) :] == tail
        self.waits = True

    @rule(text=CONTENTS, limit=LIMITS)
    def ask(self, text: str, limit: int) -> None:
        before, beginning = self.session.messages, self.expected(limit)
        try:
            prompt = self.session.ask(text, limit)
        except DataError:
            assert self.session.messages == before
            assert not text.strip() or self.is_too_long(text, limit)
        else:
            self.check(prompt, limit)
            usual = len(encode_text(text)) <= USUAL_MESSAGE
            if usual and before == self.session.messages[:-1] and beginning is not None:
                assert prompt.ids[: len(beginning)] == beginning

    def expected(self, limit: int) -> list[int] | None:
        try:
            return self.session.beginning(limit)
        except DataError:
            return None

    def is_too_long(self, text: str, limit: int) -> bool:
        alone = Conversation((*self.session.messages, Message("user", text))).with_history(())
        return len(encode_conversation(alone)) > WINDOW - min(SHORTEST_REPLY, limit)

    @rule(limit=LIMITS)
    def retry(self, limit: int) -> None:
        turns = self.session.turns
        try:
            prompt = self.session.retry(limit)
        except DataError:
            assert self.session.turns == turns
        else:
            self.check(prompt, limit)

    @precondition(lambda self: self.waits)
    @rule(text=CONTENTS)
    def answer(self, text: str) -> None:
        assert self.session.answer(text) == bool(text.strip())
        self.waits = False

    @rule(text=CONTENTS, change=st.sampled_from(["undo", "edit", "clear", "system", "document"]))
    def change(self, text: str, change: str) -> None:
        session, value = self.session, text if text.strip() else None
        before = session.messages
        try:
            {
                "undo": session.undo,
                "edit": lambda: session.edit(text),
                "clear": session.clear,
                "system": lambda: session.set_system(value),
                "document": lambda: session.set_document(value),
            }[change]()
        except DataError:
            assert session.messages == before
        self.waits = self.waits and change not in ("undo", "clear")

    @rule(limit=LIMITS)
    def look(self, limit: int) -> None:
        """What `/context` shows is what the next prompt will be."""
        waits = bool(self.session.turns) and self.session.turns[-1].role == "user"
        try:
            layout = self.session.layout(limit)
        except DataError:
            return
        shown = [span for part in layout.parts for span in part.spans]
        assert layout.tokens == len(encode(shown).ids)
        assert 0 <= self.session.used <= WINDOW
        if waits:
            assert encode(shown).ids == self.session.retry(limit).ids


# A chat that fails is shown as it was drawn: to make it smaller takes minutes.
Talk.TestCase.settings = settings(
    max_examples=80, stateful_step_count=25, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
TestTalk = Talk.TestCase


def test_the_parts_form_the_prompt_and_the_oldest_exchange_leaves_next():
    chat = Conversation((Message("context", "A page."), *talk("a", "b", "c", "d", "e").messages))
    layout = lay_out(chat, WINDOW, 256)
    assert [span for part in layout.parts for span in part.spans] == render(chat)
    texts = [next(s.text for s in reversed(p.spans) if not s.control) for p in layout.parts[2:4]]
    assert texts == ["a", "b"]
    assert [part.leaves for part in layout.parts] == [0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert (layout.left, layout.room, layout.reserve) == (0, None, 256)


@pytest.mark.parametrize("contents", [(), ("a", "b"), ("a", "b", "c", "d")])
def test_the_room_is_what_the_next_message_may_have(contents: tuple[str, ...]):
    turns = talk(*contents).messages if contents else ()
    layout = lay_out(Conversation((*turns, UNWRITTEN)), WINDOW, 256)
    assert layout.room is not None
    for over, stays in ((0, True), (1, False)):
        message = Message("user", "word" + " word" * (layout.room + over - 1))
        chat = Conversation((*turns, message))
        if turns:
            assert (len(fitted(chat, WINDOW, 256).turns) == len(chat.turns)) == stays
        elif stays:
            assert fitted(chat, WINDOW, 256) == chat
        else:
            with pytest.raises(DataError, match=f"{layout.room} fit"):
                fitted(chat, WINDOW, 256)


def test_messages_that_have_left_the_window_are_not_parts():
    contents = ["word " * 300, "yes"] * 5
    layout = lay_out(Conversation((*talk(*contents).messages, UNWRITTEN)), WINDOW, 256)
    assert (layout.left, sum(part.leaves for part in layout.parts)) == (6, 2)
    names = [part.spans[0].text for part in layout.parts]
    assert (names.count(START_CONTEXT), names.count(END_CONTEXT)) == (1, 1)


def test_a_message_that_is_still_to_be_written_has_no_text_and_its_own_mark():
    layout = lay_out(Conversation((UNWRITTEN,)), WINDOW, 256)
    assert [part.unwritten for part in layout.parts] == [False, True, False]
    assert [part.tokens for part in layout.parts] == [
        5 + len(encode_text(DEFAULT_SYSTEM)) + 1,
        5,
        5,
    ]
    assert (
        SPECIAL_IDS[START_CONTEXT]
        not in encode([span for part in layout.parts for span in part.spans]).ids
    )
