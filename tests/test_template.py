"""One template, in Python and in Jinja; the prompt is the beginning of what is trained."""

from functools import cache
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from gpt2chat.core.inputs.shapes import CHAT_SHAPES, detect, read_record
from gpt2chat.core.model.checkpoint import chat_tokenizer
from gpt2chat.core.text.conversations import Conversation, Message
from gpt2chat.core.text.template import SPECIAL_TOKENS, render, to_text
from gpt2chat.core.text.tokens import WINDOW, encode_conversation
from tests.helpers import sample_rows, talk

CONTROL_NAMES = (*SPECIAL_TOKENS, "<|endoftext|>")

contents = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(
    lambda text: text.strip() and not any(name in text for name in CONTROL_NAMES)
)


@st.composite
def conversations(draw: st.DrawFn, texts: st.SearchStrategy[str] = contents) -> Conversation:
    """Draw a sample: any head, up to three exchanges of history, a user message, a reply."""
    roles: list[Any] = ["system"] * draw(st.booleans()) + ["context"] * draw(st.booleans())
    roles += ["user", "assistant"] * draw(st.integers(1, 4))
    return Conversation(tuple(Message(role, draw(texts)) for role in roles))


@pytest.fixture(scope="module")
def bundled() -> list[Conversation]:
    rows = sample_rows("oasst1.train.chat.jsonl.gz", 60)
    rows += sample_rows("instructions.train.jsonl.gz", 60)
    samples: list[Conversation] = []
    for row in rows:
        shape = detect(row, CHAT_SHAPES)
        assert shape is not None
        samples += cast(list[Conversation], read_record(row, shape).contents)
    return samples


def text(conversation: Conversation) -> str:
    return to_text(render(conversation))


def test_a_conversation_with_everything_is_rendered_as_designed():
    head = (Message("system", "Be kind."), Message("context", "A text."))
    conversation = Conversation((*head, *talk("Hi", "Hello", "Bye", "See you").messages))
    assert text(conversation) == (
        "<|beginoftext|>"
        "<|start_header_id|>system<|end_header_id|>\nBe kind.<|eot_id|>"
        "<|start_context|>A text."
        "<|start_header_id|>user<|end_header_id|>\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\nHello<|eot_id|>"
        "<|end_context|>"
        "<|start_header_id|>user<|end_header_id|>\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\nSee you<|eot_id|>"
    )


def test_without_history_or_document_there_is_no_context_block():
    assert text(talk("Hi")) == (
        "<|beginoftext|><|start_header_id|>system<|end_header_id|>\n"
        "You are a helpful assistant who converses with the user.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n"
    )


def test_the_reply_and_its_end_of_turn_are_trained_and_nothing_else():
    trained = [span.text for span in render(talk("a", "b", "c", "d")) if span.trained]
    assert trained == ["d", "<|eot_id|>"]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(conversations())
def test_the_prompt_is_the_beginning_of_what_is_trained(conversation: Conversation):
    sample, prompt = render(conversation), render(conversation.prompt)
    assert sample[: len(prompt)] == prompt
    assert text(conversation).startswith(text(conversation.prompt))


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return chat_tokenizer(WINDOW)


def through_transformers(conversation: Conversation, **options: Any) -> Any:
    return tokenizer().apply_chat_template(conversation.as_dicts(), **options)  # pyright: ignore[reportArgumentType]


def assert_jinja_agrees(conversation: Conversation) -> None:
    """Hold transformers' rendering, ids and assistant mask to ours; the prompt's too."""
    encoded = encode_conversation(conversation)
    assert through_transformers(conversation, tokenize=False) == text(conversation)
    theirs = through_transformers(
        conversation, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert theirs["input_ids"] == encoded.ids
    assert theirs["assistant_masks"] == [int(label != -100) for label in encoded.labels]
    prompt = through_transformers(conversation.prompt, tokenize=False, add_generation_prompt=True)
    assert prompt == text(conversation.prompt)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(conversations())
def test_the_jinja_template_gives_the_same_text_ids_and_mask(conversation: Conversation):
    assert_jinja_agrees(conversation)


def test_the_jinja_template_gives_the_same_on_real_data(bundled: list[Conversation]):
    assert len(bundled) > 120
    for conversation in bundled:
        assert_jinja_agrees(conversation)


def test_a_greeting_before_the_first_user_message_is_history_in_both():
    greeting = Message("assistant", "Welcome!")
    assert_jinja_agrees(Conversation((greeting, *talk("Hi", "Hello").messages)))
