"""Ids: fixed for the control tokens, never forged by text, the prompt's first."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2chat.core.text.conversations import Conversation, Message
from gpt2chat.core.text.template import SPECIAL_TOKENS
from gpt2chat.core.text.tokens import (
    ENDOFTEXT_ID,
    EOT_ID,
    LONGEST_TOKEN,
    SPECIAL_IDS,
    VOCAB,
    decode,
    encode_conversation,
    encode_conversations,
    encode_text,
    fit_window,
    load_tokenizer,
    token_bytes,
)
from tests.helpers import talk
from tests.test_template import CONTROL_NAMES, conversations

pieces = st.one_of(st.sampled_from(CONTROL_NAMES), st.text(st.characters(codec="utf-8")))
forging = st.lists(pieces, min_size=1, max_size=4).map("".join).filter(str.strip)


def test_the_special_tokens_have_fixed_ids():
    assert list(SPECIAL_IDS) == list(SPECIAL_TOKENS)
    assert list(SPECIAL_IDS.values()) == list(range(50257, 50264))
    assert (VOCAB, ENDOFTEXT_ID, EOT_ID) == (50264, 50256, 50261)


def test_hello_world_has_gpt2s_ids():
    assert encode_text("Hello world") == [15496, 995]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text(st.characters(codec="utf-8")))
def test_text_has_the_ids_of_the_tokenizer_that_is_saved_with_a_model(text: str):
    assert encode_text(text) == load_tokenizer().encode(text, add_special_tokens=False).ids


def test_every_character_has_the_ids_of_the_saved_tokenizer():
    tokenizer = load_tokenizer()
    letters = [chr(code) for code in range(0, 0x30000, 7) if not 0xD800 <= code < 0xE000]
    for letter in letters:
        text = f"a{letter}b 1{letter} {letter}. {letter}\n{letter}"
        assert encode_text(text) == tokenizer.encode(text, add_special_tokens=False).ids, letter


@pytest.mark.parametrize("text", [" " * 600_000 + "x", "\n" * 150_000 + "x", "a" * 300_000])
def test_a_very_long_run_of_one_kind_has_ids_too(text: str):
    assert encode_text(text) == load_tokenizer().encode(text, add_special_tokens=False).ids


def test_the_longest_token_has_128_bytes():
    assert max(map(len, token_bytes())) == LONGEST_TOKEN


def test_half_a_character_is_decoded_as_a_replacement_character():
    ids = encode_text("🙂")
    assert decode(ids) == "🙂"
    assert decode(ids[:1]) == "\ufffd"
    assert decode([EOT_ID, ENDOFTEXT_ID]) == "<|eot_id|><|endoftext|>"


@pytest.mark.parametrize("name", CONTROL_NAMES)
def test_a_typed_control_token_stays_text(name: str):
    ids = encode_text(f"before {name} after")
    assert max(ids) < ENDOFTEXT_ID
    assert decode(ids) == f"before {name} after"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(conversations(forging))
def test_text_never_gives_a_control_token(conversation: Conversation):
    control = [id for id in encode_conversation(conversation).ids if id >= ENDOFTEXT_ID]
    plain = Conversation(tuple(Message(m.role, "x") for m in conversation.messages))
    assert control == [id for id in encode_conversation(plain).ids if id >= ENDOFTEXT_ID]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(conversations(forging))
def test_the_ids_of_the_prompt_are_the_beginning_of_the_samples(conversation: Conversation):
    sample, prompt = encode_conversation(conversation), encode_conversation(conversation.prompt)
    assert sample.ids[: sample.prompt_length] == prompt.ids
    assert prompt.prompt_length == len(prompt)
    assert sample.labels == [-100] * len(prompt) + sample.ids[len(prompt) :]
    assert sample.labels[-1] == EOT_ID


def test_a_line_break_before_a_reply_is_one_token_however_the_reply_begins():
    # As one string, "\n" and "\n\nhello" would share tokens.
    for reply in ("hello", "\n\nhello", "\nhello"):
        sample = encode_conversation(talk("Hi", reply))
        assert sample.ids[: sample.prompt_length] == encode_conversation(talk("Hi")).ids
        assert decode(sample.ids[sample.prompt_length :]) == "hello<|eot_id|>"
    assert encode_text("\n") + encode_text("\nhello") != encode_text("\n\n") + encode_text("hello")


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(conversations(forging), max_size=5))
def test_many_conversations_have_the_same_ids_as_one_at_a_time(many: list[Conversation]):
    assert encode_conversations(many) == [encode_conversation(one) for one in many]


def test_a_conversation_that_fits_the_window_is_unchanged():
    conversation = talk("a", "b", "c", "d")
    exactly = len(encode_conversation(conversation))
    assert fit_window(conversation, exactly) == conversation
    assert fit_window(conversation, exactly - 1) == talk("c", "d")


def test_the_oldest_whole_exchanges_are_dropped_first():
    head = (Message("system", "s"), Message("context", "c"))
    long = talk("one", "1", "two", "2", "three", "3", "latest", "reply")
    conversation = Conversation((*head, *long.messages))
    sizes: list[int] = []
    while conversation.history:
        fitted = fit_window(conversation, len(encode_conversation(conversation)) - 1)
        assert fitted is not None
        assert fitted.messages[:2] == head
        assert fitted.messages[-2:] == long.messages[-2:]
        sizes.append(len(conversation.history) - len(fitted.history))
        conversation = fitted
    assert sizes == [2, 2, 2]


def test_a_greeting_is_dropped_on_its_own():
    greeting = Message("assistant", "Welcome!")
    conversation = Conversation((greeting, *talk("a", "b", "c", "d").messages))
    fitted = fit_window(conversation, len(encode_conversation(conversation)) - 1)
    assert fitted == talk("a", "b", "c", "d")


def test_a_latest_message_that_is_too_long_alone_does_not_fit():
    assert fit_window(talk("a", "b", "word " * 200, "c"), 100) is None


def test_a_very_long_conversation_is_fitted_from_its_end():
    turns = [text for n in range(900) for text in (f"question {n}", "word " * 200)]
    fitted = fit_window(talk(*turns, "latest", "reply"), 1024)
    assert fitted is not None
    assert fitted.messages[-2:] == talk("latest", "reply").messages
    assert fitted.history == talk(*turns).messages[-len(fitted.history) :]
    assert 700 < len(encode_conversation(fitted)) <= 1024
