"""The history of a chat: what fits the window, what leaves it, what a mistake leaves unchanged."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2chat.core.chat.session import Session
from gpt2chat.core.chat.window import SHORTEST_REPLY
from gpt2chat.core.errors import DataError
from gpt2chat.core.text.conversations import DEFAULT_SYSTEM, Conversation, Message
from gpt2chat.core.text.template import END_CONTEXT, START_CONTEXT
from gpt2chat.core.text.tokens import SPECIAL_IDS, WINDOW, encode_conversation, encode_text

REPLY = 256
WORDS = st.text(min_size=1, max_size=30).filter(str.strip).map(lambda text: text * 8)


def chat(*contents: str, system: str | None = None) -> Session:
    """A session with these messages in turn, the user's first."""
    session = Session(system)
    for question, answer in zip(contents[::2], contents[1::2], strict=True):
        session.ask(question, REPLY)
        session.answer(answer)
    return session


def contents(session: Session) -> list[str]:
    return [message.content for message in session.turns]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12), st.none() | WORDS)
def test_every_prompt_is_the_beginning_of_a_sample_that_fits(
    exchanges: list[tuple[str, str]], system: str | None
):
    session = Session(system)
    head = encode_conversation(
        Conversation((Message("system", session.system), Message("user", "?")))
    )
    at = head.ids.index(SPECIAL_IDS["<|eot_id|>"]) + 1
    left = 0
    for question, answer in exchanges:
        prompt = session.ask(question, REPLY)
        left += prompt.left
        kept = session.turns[left:]
        sample = Conversation((Message("system", session.system), *kept)).with_reply(answer)
        assert prompt.ids == encode_conversation(sample).ids[: len(prompt.ids)]
        assert prompt.ids == encode_conversation(sample.prompt).ids
        assert prompt.ids[:at] == head.ids[:at]
        assert kept[-1].content == question.strip()
        assert len(prompt.ids) <= WINDOW - SHORTEST_REPLY
        assert len(kept) == 1 or len(prompt.ids) <= WINDOW - REPLY
        session.answer(answer)


def test_the_oldest_exchange_leaves_first_and_is_counted_once():
    session = chat(*["word " * 140] * 6)
    assert session.ask("next", REPLY).left == 2
    session.answer("yes")
    assert session.ask("next", REPLY).left == 0
    assert len(session.turns) == 9


def test_a_reply_of_more_than_half_the_window_leaves_half_to_the_history():
    session = chat("word " * 200, "yes")
    assert session.ask("next", 960).left == 0


def test_a_message_too_long_for_the_window_says_what_fits_and_changes_nothing():
    session = chat("hello", "hi")
    before, used = session.turns, session.used
    with pytest.raises(DataError) as error:
        session.ask("word " * 2000, REPLY)
    assert str(error.value).startswith("The message has 2,000 tokens; 932 fit.")
    assert "\n" not in str(error.value)
    assert (session.turns, session.used) == (before, used)


def test_the_longest_message_that_fits_is_taken_alone():
    session = chat("hello", "hi")
    longest = " word" * 932
    with pytest.raises(DataError, match="933"):
        session.ask(longest + " word", REPLY)
    prompt = session.ask(longest, REPLY)
    assert len(prompt.ids) == WINDOW - SHORTEST_REPLY
    assert prompt.left == 2


@pytest.mark.parametrize("text", ["", " \n", "\ud800", "half\udcc3"])
def test_a_message_that_is_not_text_is_refused(text: str):
    session = Session()
    with pytest.raises(DataError, match="The message"):
        session.ask(text, REPLY)
    assert session.turns == ()


def test_an_empty_reply_takes_the_message_back():
    session = chat("hello", "hi")
    session.ask("and?", REPLY)
    assert not session.answer(" \n")
    assert contents(session) == ["hello", "hi"]


def test_an_empty_reply_to_a_retry_leaves_the_old_one():
    session = chat("hello", "hi")
    session.retry(REPLY)
    assert not session.answer("")
    assert contents(session) == ["hello", "hi"]


def test_a_message_without_a_reply_is_taken_back_and_one_with_a_reply_is_not():
    session = chat("hello", "hi")
    assert not session.take_back()
    session.ask("and?", REPLY)
    assert session.take_back()
    session.retry(REPLY)
    assert session.take_back()
    assert contents(session) == ["hello", "hi"]


def test_a_retry_reads_what_the_first_try_read():
    session = chat("hello", "hi")
    prompt = session.ask("and?", REPLY)
    session.answer("well")
    assert session.retry(REPLY) == prompt
    session.answer("better")
    assert contents(session) == ["hello", "hi", "and?", "better"]


def test_undo_takes_back_one_exchange():
    session = chat("hello", "hi", "and?", "well")
    assert session.undo() == "and?"
    assert contents(session) == ["hello", "hi"]
    session.undo()
    with pytest.raises(DataError, match="undo"):
        session.undo()
    with pytest.raises(DataError, match="answer"):
        session.retry(REPLY)


def test_undo_brings_back_what_the_message_pushed_out():
    session = chat("hello", "hi")
    prompt = session.ask("and?", REPLY)
    session.answer("")
    assert session.ask("word " * 800, REPLY).left == 2
    session.answer("yes")
    session.undo()
    assert session.ask("and?", REPLY).ids == prompt.ids


def test_clear_forgets_messages_and_keeps_the_system_prompt():
    session = chat("hello", "hi", system="Be brief.")
    session.clear()
    assert session.turns == ()
    assert session.ask("hello", REPLY) == Session("Be brief.").ask("hello", REPLY)


def test_the_system_prompt_can_change_on_the_way():
    session = chat("hello", "hi", system="Be brief.")
    session.set_system(None)
    assert session.system == DEFAULT_SYSTEM
    assert session.ask("and?", REPLY) == chat("hello", "hi").ask("and?", REPLY)


def test_a_document_is_at_the_beginning_of_the_context_block():
    session = Session()
    session.set_document("Romulus was first.")
    session.set_system("Be brief.")
    ids = session.ask("Who?", REPLY).ids
    start, end = SPECIAL_IDS[START_CONTEXT], SPECIAL_IDS[END_CONTEXT]
    assert ids[ids.index(start) + 1 : ids.index(end)] == encode_text("Romulus was first.")
    session.set_document(None)
    assert session.document is None


def test_a_system_prompt_of_more_than_half_the_window_is_refused():
    session = Session("Be brief.")
    with pytest.raises(DataError, match="513"):
        session.set_system("word" + " word" * 512)
    assert session.system == "Be brief."


def test_a_system_prompt_and_a_document_that_leave_no_room_together_are_refused(tmp_path: Path):
    session, other = Session("word" + " word" * 499), Session()
    most = r"1,000 tokens .* (\d+) fit"
    with pytest.raises(DataError, match=most) as caught:
        session.set_document("word" + " word" * 499)
    assert session.document is None
    found = re.search(most, str(caught.value))
    assert found
    session.set_document("word" + " word" * (int(found[1]) - 501))
    with pytest.raises(DataError, match="document"):
        session.set_system("word" + " word" * 500)
    assert session.ask("word" + " word" * 63, REPLY).ids
    path = tmp_path / "chat.json"
    long = [{"role": role, "content": "word " * 500} for role in ("system", "context")]
    path.write_text(json.dumps([*long, {"role": "user", "content": "hello"}]))
    with pytest.raises(DataError, match=r"chat\.json"):
        other.load(path)
    assert other.system == DEFAULT_SYSTEM


def test_used_counts_the_tokens_that_the_chat_takes():
    session = Session()
    assert session.used == 3 + 2 + len(encode_text(DEFAULT_SYSTEM)) + 1
    prompt = session.ask("hello", REPLY)
    session.answer("hi there")
    assert session.used == len(prompt.ids) + len(encode_text("hi there")) + 1
    session.undo()
    assert session.used == Session().used


def test_a_saved_chat_continues_where_it_stopped(tmp_path: Path):
    session = chat("hello", "hi", "zwölf 🙂\nlines", "<|eot_id|>", system="Be brief.")
    session.set_document("A page.")
    session.save(tmp_path / "chat.json")
    loaded = Session()
    loaded.load(tmp_path / "chat.json")
    assert (loaded.turns, loaded.system, loaded.document) == (
        session.turns,
        "Be brief.",
        "A page.",
    )
    assert loaded.ask("and?", REPLY) == session.ask("and?", REPLY)


def test_a_plain_list_of_messages_is_loaded_too(tmp_path: Path):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"role": "user", "content": "hello"}]))
    session = Session()
    session.load(path)
    assert contents(session) == ["hello"]
    assert session.retry(REPLY) == Session().ask("hello", REPLY)


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", '[{"role": "robot", "content": "x"}]'])
def test_a_file_that_is_not_a_chat_is_refused_and_never_overwritten(tmp_path: Path, text: str):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    session = chat("hello", "hi")
    with pytest.raises(DataError, match="saved chat"):
        session.load(path)
    with pytest.raises(DataError, match="saved chat"):
        session.save(path)
    assert path.read_text() == text
    assert contents(session) == ["hello", "hi"]


def test_a_chat_can_be_saved_twice_under_one_name(tmp_path: Path):
    session = chat("hello", "hi")
    session.save(tmp_path / "chat.json")
    session.undo()
    with pytest.raises(DataError, match="save"):
        session.save(tmp_path / "chat.json")
    session.ask("bye", REPLY)
    session.save(tmp_path / "chat.json")
    assert "bye" in (tmp_path / "chat.json").read_text()


def test_a_missing_file_is_one_line(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.json"):
        Session().load(tmp_path / "none.json")


def test_after_undo_the_meter_shows_what_is_in_the_window():
    session = chat(*["word " * 140] * 6)
    session.ask("next", REPLY)
    session.answer("yes")
    session.undo()
    assert session.used < WINDOW - REPLY


def test_the_messages_of_a_chat_begin_with_what_always_stays():
    session = chat("hello", "hi", system="Be brief.")
    session.set_document("A page.")
    assert [m.role for m in session.messages] == ["system", "context", "user", "assistant"]


def test_a_document_too_long_in_a_saved_chat_is_named_with_its_file(tmp_path: Path):
    path = tmp_path / "chat.json"
    long = {"role": "context", "content": "word " * 600}
    path.write_text(json.dumps([long, {"role": "user", "content": "hello"}]))
    session = chat("hello", "hi")
    with pytest.raises(DataError, match="600"):
        session.load(path)
    assert contents(session) == ["hello", "hi"]
