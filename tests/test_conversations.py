"""Messages, conversations and preferences are checked when they are made."""

from typing import Any

import pytest

from gpt2chat.core.errors import RowError
from gpt2chat.core.text.conversations import (
    DEFAULT_SYSTEM,
    Conversation,
    Message,
    Preference,
    parse_messages,
)
from tests.helpers import talk


def turns(roles: str) -> Conversation:
    """Return a conversation from the first letters of its roles."""
    names: dict[str, Any] = {"s": "system", "c": "context", "u": "user", "a": "assistant"}
    return Conversation(tuple(Message(names[letter], letter) for letter in roles))


@pytest.mark.parametrize("roles", ["u", "ua", "su", "cu", "scuaua", "au", "aua", "uuua", "uaua"])
def test_messages_in_these_orders_are_a_conversation(roles: str):
    assert len(turns(roles).messages) == len(roles)


@pytest.mark.parametrize("roles", ["", "a", "s", "us", "ccu", "uca", "csu", "uaa", "aa"])
def test_messages_in_other_orders_are_refused(roles: str):
    with pytest.raises(RowError):
        turns(roles)


@pytest.mark.parametrize("content", ["", " \n\t", "half a pair: \ud83d"])
def test_a_message_needs_a_text_that_can_be_written(content: str):
    with pytest.raises(RowError):
        Message("user", content)


def test_contents_are_stripped_at_both_ends():
    assert Message("user", "\n Hi. \n").content == "Hi."


def test_a_conversation_has_a_document_a_history_a_question_and_a_reply():
    conversation = turns("scuaua")
    assert (conversation.system, conversation.document) == ("s", Message("context", "c"))
    assert [message.role for message in conversation.history] == ["user", "assistant"]
    assert (conversation.user.content, conversation.reply) == ("u", Message("assistant", "a"))
    assert conversation.prompt == turns("scuau")


def test_the_default_system_prompt_is_used_if_there_is_none():
    assert talk("Hi").system == DEFAULT_SYSTEM == turns("u").system


def test_a_prompt_with_its_reply_is_the_conversation_again():
    conversation = talk("a", "b", "c", "d")
    assert conversation.prompt.with_reply("d") == conversation


def test_the_history_can_be_changed_alone():
    shorter = turns("scuaua").with_history(())
    assert shorter == turns("scua")


def test_messages_are_read_back_as_they_were_written():
    conversation = turns("scua")
    assert parse_messages(conversation.as_dicts()) == conversation


@pytest.mark.parametrize(
    "value",
    [None, "Hi", [], ["Hi"], [{"role": "user"}], [{"role": "king", "content": "Hi"}], [None]],
)
def test_a_value_that_is_not_a_list_of_messages_is_refused(value: object):
    with pytest.raises(RowError):
        parse_messages(value)


@pytest.mark.parametrize(("chosen", "rejected"), [("", "b"), ("a", " "), ("a", " a\n")])
def test_a_preference_has_two_different_replies(chosen: str, rejected: str):
    with pytest.raises(RowError):
        Preference(talk("Hi"), chosen, rejected)


def test_a_preference_has_a_prompt_without_a_reply():
    with pytest.raises(RowError):
        Preference(talk("Hi", "Hello"), "a", "b")
