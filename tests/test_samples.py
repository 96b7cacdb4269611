"""Which group a record belongs to decides the side it goes to, and nothing else does."""

from gpt2chat.core.data.samples import content_id, held_out, opening
from gpt2chat.core.text.conversations import Conversation, Message
from tests.helpers import talk

GROUPS = [f"group {n}" for n in range(4000)]


def test_the_held_out_share_is_the_one_asked_for():
    assert 0.18 < sum(held_out(group, 0.2, seed=0) for group in GROUPS) / len(GROUPS) < 0.22
    assert not any(held_out(group, 0.0, seed=0) for group in GROUPS)


def test_a_larger_holdout_contains_a_smaller_one_of_the_same_seed():
    small, large = ({g for g in GROUPS if held_out(g, share, 0)} for share in (0.1, 0.2))
    assert small < large
    assert large != {group for group in GROUPS if held_out(group, 0.2, seed=1)}


def test_conversations_that_begin_alike_are_one_group():
    first = talk("Hi", "Hello")
    longer = talk("Hi", "Good day", "Bye", "See you")
    told = Conversation((Message("system", "Be kind."), *first.messages))
    assert opening(first) == opening(longer) == opening(told)


def test_another_document_or_first_message_is_another_group():
    document = Message("context", "A text.")
    conversations = (
        talk("Hi"), talk("Hello"), Conversation((document, *talk("Hi").messages)),
    )  # fmt: skip
    assert len({opening(conversation) for conversation in conversations}) == 3


def test_ids_depend_only_on_the_content():
    assert content_id("a", talk("Hi", "Hello")) == content_id("a", talk(" Hi", "Hello "))
    assert content_id("a", talk("Hi"), "x", "y") != content_id("a", talk("Hi"), "y", "x")
    assert content_id("my.jsonl", talk("Hi")).startswith("my.jsonl-")
