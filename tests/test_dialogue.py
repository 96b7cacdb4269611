"""What each line typed in a chat does, and that no line ends it."""

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread, get_ident
from typing import Any

import pytest
import torch

from gpt2chat import report
from gpt2chat.core.chat.chat import Chat
from gpt2chat.core.chat.chats import Autosave, latest_chat
from gpt2chat.core.chat.model import ChatModel
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import CheckpointError, DataError
from gpt2chat.core.generation.generate import Generator, ReplyStream
from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.text.tokens import EOT_ID, encode_text
from gpt2chat.dialogue.commands import COMMANDS, take
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.models import Models
from gpt2chat.dialogue.text import as_typed, is_open, unquoted
from tests.helpers import before_each_pass, tiny_model

FEEDBACK = Path("feedback.jsonl")
GENERATOR = Generator(tiny_model(), torch.device("cpu"))
Capture = pytest.CaptureFixture[str]
Said = Callable[..., tuple[str, str]]


def models(*names: str, generator: Generator = GENERATOR) -> Models:
    """Models that are loaded at once and all the same."""
    return Models(names or ("tiny",), lambda _: ChatModel("tiny", generator))


@pytest.fixture
def dialogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dialogue:
    monkeypatch.chdir(tmp_path)
    sampling = Sampling(max_new_tokens=6, seed=0)
    autosave = Autosave(tmp_path / "chats")
    return Dialogue(Chat(None, sampling=sampling), models(), autosave=autosave)


@pytest.fixture
def said(dialogue: Dialogue, capsys: Capture) -> Said:
    """Types lines; returns what the last one wrote to stdout and to stderr."""

    def say(*lines: str) -> tuple[str, str]:
        for line in lines:
            capsys.readouterr()
            take(dialogue, line)
        captured = capsys.readouterr()
        return captured.out, captured.err

    return say


def contents(dialogue: Dialogue) -> list[str]:
    return [message.content for message in dialogue.session.turns]


def test_a_message_is_answered_on_stdout_and_counted_on_stderr(dialogue: Dialogue, said: Said):
    out, err = said("Hello")
    assert contents(dialogue) == ["Hello", out.strip()]
    assert "6 tokens, cut at the limit" in err


def test_one_token_is_no_tokens(dialogue: Dialogue, said: Said):
    said("/set max_new_tokens 1")
    assert said("Hello")[1].startswith("1 token, ")
    dialogue.session.window = 72
    dialogue.session.clear()
    room = dialogue.session.layout(1).room
    assert room is not None
    dialogue.session.window -= room - 1
    assert said("/context")[1].endswith("A message may have up to 1 token.\n")
    dialogue.session.window -= 1
    with pytest.raises(DataError, match="1 token"):
        dialogue.session.ask("Hello", 1)


def test_a_reply_that_nobody_reads_ends_the_chat(
    dialogue: Dialogue, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(report, "show_reply", broken)
    with pytest.raises(BrokenPipeError):
        take(dialogue, "Hello")


def test_messages_in_three_quotes_and_after_a_space_are_messages(dialogue: Dialogue, said: Said):
    said('"""\n/help\n  me\n"""', " /usr/bin is what?", "\n \n")
    assert contents(dialogue)[::2] == ["/help\n  me", "/usr/bin is what?"]


def test_a_retry_gives_another_reply_and_repeats_from_the_same_seed(dialogue: Dialogue, said: Said):
    first, second, third = said("Hello")[0], said("/retry")[0], said("/retry")[0]
    assert len({first, second, third}) == 3
    assert said("/clear", "Hello", "/retry")[0] == second
    assert contents(dialogue) == ["Hello", second.strip()]


def test_one_seed_draws_differently_in_each_turn_and_repeats_a_chat(dialogue: Dialogue, said: Said):
    said("Hello", "Hello", "Hello")
    replies = contents(dialogue)[1::2]
    assert len(set(replies)) == 3
    said("/clear", "Hello", "Hello", "Hello")
    assert contents(dialogue)[1::2] == replies


def test_the_highest_seed_works_for_many_turns(dialogue: Dialogue, said: Said):
    said(f"/set seed {2**63 - 1}", "Hello", "Hello", "/retry")
    assert len(contents(dialogue)) == 4


def test_undo_and_clear_take_messages_back(dialogue: Dialogue, said: Said):
    said("one", "two")
    assert said("/undo")[1] == "Taken back: two\n"
    assert contents(dialogue)[0] == "one"
    said("/clear")
    assert contents(dialogue) == []


@pytest.mark.parametrize(
    "line", ["two\nlines", " /usr/bin is what?", '"""\n"""a\n"""', '""""""a b"""', "<|eot_id|>"]
)
def test_undo_returns_the_message_to_the_prompt(dialogue: Dialogue, said: Said, line: str):
    said(line)
    message = contents(dialogue)[0]
    said("/undo")
    said(dialogue.draft)
    assert contents(dialogue)[0] == message


def test_the_window_rolls_and_says_so(dialogue: Dialogue, said: Said):
    notices = [said("word " * 440)[1] for _ in range(3)]
    assert "left the window" not in notices[0] + notices[1]
    assert notices[2].startswith("The oldest 2 messages left the window.\n")
    assert len(dialogue.session.turns) == 6


def test_the_system_prompt_and_the_document_are_shown_and_changed(dialogue: Dialogue, said: Said):
    assert said("/system")[1].startswith("The system prompt: You are a helpful assistant")
    assert said("/system Be brief.")[1] == "The system prompt: Be brief.\n"
    assert said("/system default") == said("/system")
    assert said("/document A page.")[1] == "The document: A page. (3 tokens)\n"
    assert said("/document")[1] == "The document: A page. (3 tokens)\n"
    assert said("/document off")[1] == "The document: none\n"


def test_a_document_is_read_from_a_file(dialogue: Dialogue, said: Said, tmp_path: Path):
    (tmp_path / "page.txt").write_text("A page.\nIts end.", encoding="utf-8")
    said(f"/document @{tmp_path / 'page.txt'}")
    assert dialogue.session.document == "A page.\nIts end."


def test_settings_are_shown_and_changed(dialogue: Dialogue, said: Said):
    assert said("/set temperature 0.9")[1].split() == ["temperature", "0.9"]
    assert said("/SET Top-K=5")[1].split() == ["top_k", "5"]
    assert said("/set top_k")[1].split() == ["top_k", "5"]
    assert dialogue.chat.sampling == Sampling(temperature=0.9, top_k=5, max_new_tokens=6, seed=0)
    said("/set temperature default", "/set seed none")
    assert dialogue.chat.sampling == Sampling(top_k=5, max_new_tokens=6)
    names = [line.split()[0] for line in said("/set")[1].splitlines()]
    assert names == [entry.name for entry in dataclasses.fields(Sampling)]


def test_context_shows_the_prompt_that_comes_next_with_its_tokens(dialogue: Dialogue, said: Said):
    said("/system Say :smile: [b]\x1b[31m", "Hi <|eot_id|>")
    lines = [line.strip() for line in said("/context")[1].splitlines()]
    tokens = 6 + len(encode_text("Say :smile: [b]\x1b[31m"))
    assert lines[0] == f"{tokens} <|beginoftext|><|start_header_id|>system<|end_header_id|>"
    assert lines[1] == "Say :smile: [b]␛[31m<|eot_id|>"
    assert lines[2:5] == [
        "1 <|start_context|>",
        "┄┄┄ leaves next ┄┄┄",
        "14 <|start_header_id|>user<|end_header_id|>",
    ]
    assert lines[5] == "Hi <|eot_id|><|eot_id|>"
    assert "(your next message)<|eot_id|>" in lines
    used = dialogue.session.layout(6).tokens
    assert lines[-2] == f"{used} of 1,024 tokens, and 6 for the reply."
    assert lines[-1].startswith("A message of more than ")


def test_context_says_what_is_out_and_what_waits(dialogue: Dialogue, said: Said, tmp_path: Path):
    said(*["word " * 440] * 3)
    assert said("/context")[1].startswith("Outside the window: the chat's oldest 2 messages.")
    (tmp_path / "chat.json").write_text('[{"role": "user", "content": "Hello"}]')
    assert said("/load chat.json")[1].endswith("/retry answers the latest.\n")
    assert said("/context")[1].endswith("/retry answers the latest message.\n")


def test_show_lists_the_models_the_settings_and_the_files(dialogue: Dialogue, said: Said):
    said("Hello", "/document A page.")
    dialogue.models.add("other")
    text = said("/show")[1]
    shown = {line[:13].strip(): line[15:].strip() for line in text.splitlines()}
    assert shown["model"] == "tiny"
    assert shown["folder"] == "Hugging Face Hub"
    assert shown["parameters"] == f"{GENERATOR.parameters:,}"
    assert shown["device"] == f"cpu, {GENERATOR.precision}"
    assert shown["window"] == f"1,024 tokens, {dialogue.session.used} used"
    assert "temperature 0.72, top_k 36" in shown["sampling"]
    assert shown["document"] == "A page. (3 tokens)"
    assert "feedback.jsonl" in "".join(text.split())
    assert shown["typed lines"] == "not saved"
    assert shown["to compare"] == "other"


def test_a_chat_is_saved_and_loaded(dialogue: Dialogue, said: Said, tmp_path: Path):
    path = tmp_path / "my chat.json"
    saved = said("Hello", f"/save {path}")[1]
    assert saved.startswith("Saved 2 messages to ")
    assert "replacing" not in saved
    assert "replacing" in said(f"/save {path}")[1]
    before = contents(dialogue)
    assert said("/clear", f"/load {path}")[1].startswith("Loaded 2 messages from ")
    assert contents(dialogue) == before


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("'with space.json'", "with space.json"),
        ('"with space.json"', "with space.json"),
        ("with\\ space.json", "with space.json"),
        ("with space.json", "with space.json"),
        ("it's.json", "it's.json"),
    ],
)
def test_quotes_around_a_file_are_read_as_a_shell_does(
    dialogue: Dialogue, said: Said, tmp_path: Path, typed: str, name: str
):
    said("Hello", f"/save {typed}")
    assert (tmp_path / name).exists()
    assert said("/clear", f"/load {typed}")[1].startswith("Loaded 2 messages")
    (tmp_path / name).write_text("A page.")
    said(f"/document @{typed}")
    assert dialogue.session.document == "A page."


def test_a_reply_that_repeats_an_earlier_one_is_pointed_out(
    dialogue: Dialogue, said: Said, monkeypatch: pytest.MonkeyPatch
):
    def again(_prompt: list[int], _sampling: Sampling, **_: bool) -> ReplyStream:
        return ReplyStream(map(Choice, [*encode_text("I do not know that."), EOT_ID]))

    monkeypatch.setattr(GENERATOR, "stream", again)
    assert "/clear" not in said("One?")[1]
    assert "/clear" in said("Two?")[1]


def test_help_has_one_line_for_each_command(said: Said):
    lines = said("/help")[1].splitlines()
    firsts = [line.split()[0] for line in lines]
    assert [command.names[0] for command in COMMANDS] == firsts[: len(COMMANDS)]
    assert " ".join(firsts[: len(COMMANDS)]) == (
        "/help /clear /retry /undo /edit /system /document /context /set /show /save /load "
        "/good /bad /compare /exit"
    )
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "line", ["/exit", "/EXIT", "/bye", "/quit", "bye", "Quit", " exit ", "/exit now"]
)
def test_a_word_leaves(dialogue: Dialogue, line: str):
    with pytest.raises(EOFError):
        take(dialogue, line)


def test_a_chat_is_saved_after_each_turn_and_each_command(dialogue: Dialogue, said: Said):
    folder = dialogue.autosave.folder if dialogue.autosave else FEEDBACK
    said("/system Be brief.", "Hello")
    latest = latest_chat(folder)
    assert latest.conversation.messages == dialogue.session.messages
    assert latest.models == ("tiny",)
    said("/edit Better.")
    assert latest_chat(folder).conversation.turns[-1].content == "Better."
    said("/clear", "Again")
    assert len(list(folder.iterdir())) == 2
    said("/undo")
    assert latest_chat(folder).conversation.turns[-1].content == "Better."


def test_a_message_is_saved_before_its_reply(
    dialogue: Dialogue, said: Said, monkeypatch: pytest.MonkeyPatch
):
    folder = dialogue.autosave.folder if dialogue.autosave else FEEDBACK
    kept: list[str] = []

    def look() -> None:
        kept.append(latest_chat(folder).conversation.messages[-1].content)

    before_each_pass(monkeypatch, GENERATOR, look)
    said("Hello")
    assert set(kept) == {"Hello"}


def test_a_chat_that_can_no_longer_be_saved_continues(
    dialogue: Dialogue, said: Said, tmp_path: Path
):
    (tmp_path / "chats").touch()
    assert "no longer saved automatically" in said("Hello")[1]
    assert "no longer saved" not in said("And?")[1]
    assert len(contents(dialogue)) == 4


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/", "There is no command /."),
        ("/nope now", "There is no command /nope. Type /help"),
        ("/hlep", "There is no command /hlep. Did you mean /help? Type /help"),
        ("/UNDOO", "There is no command /UNDOO. Did you mean /undo?"),
        ("/undo", "There is nothing to undo."),
        ("/retry", "There is no message to answer again."),
        ("/undo 3", "/undo takes nothing. Leave out 3."),
        ("/GOOD because", "/good takes nothing. Leave out because."),
        ("/retry again", "/retry takes nothing. Leave out again."),
        ("/context a page", "/context takes nothing. Type /document TEXT to set a document."),
        ("/set temprature 1", "There is no setting temprature. Did you mean temperature?"),
        ("/set heat", "There is no setting heat."),
        ("/set heat 1", "There is no setting heat."),
        ("/set temperature 1 2", "temperature must be a number, not '1 2'."),
        (
            "/set heat 1",
            "There is no setting heat. The settings are temperature, top_k, top_p, min_p, "
            "repetition_penalty, frequency_penalty, presence_penalty, no_repeat_ngram, stop, "
            "max_new_tokens, seed.",
        ),
        ("/set temperature -1", "temperature must be from 0 to 100, not -1.0."),
        ("/save", "/save needs a file, such as /save chat.json."),
        ("/save chat.json", "There is nothing to save."),
        ("/load", "/load needs a file"),
        ("/load ~nobody-here/chat.json", "Cannot read ~nobody-here/chat.json"),
        ("/document @", "/document needs a file, such as /document @page.txt."),
        ("/document @none.txt", "Cannot read none.txt: No such file or directory."),
        ("/document @.", "Cannot read .: Is a directory."),
        ("/system " + "word " * 600, "The system prompt has 600 tokens; at most 512 fit."),
        ("/document " + "word " * 600, "The document has 600 tokens; at most 512 fit."),
        ("word " * 2000, "The message has 2,000 tokens"),
        ('"""\n"""', "The message cannot be used: empty user message."),
        ("\ud800", "The message is not valid UTF-8."),
    ],
)
def test_an_error_is_one_line_and_the_chat_continues(
    dialogue: Dialogue, said: Said, line: str, error: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    out, err = said(line)
    assert out == ""
    assert err.startswith(f"error: {error}")
    assert err.count("\n") == 1
    assert contents(dialogue) == []


def test_ctrl_c_keeps_the_reply_as_far_as_it_came(
    dialogue: Dialogue, said: Said, monkeypatch: pytest.MonkeyPatch
):
    passes = iter(range(3))

    def count() -> None:
        if next(passes, None) is None:
            raise KeyboardInterrupt

    before_each_pass(monkeypatch, GENERATOR, count)
    out, err = said("Hello")
    assert err.startswith("3 tokens, stopped by Ctrl-C")
    assert contents(dialogue) == ["Hello", out.strip()]


def test_ctrl_c_before_the_first_token_takes_the_message_back_to_the_prompt(
    dialogue: Dialogue, said: Said, monkeypatch: pytest.MonkeyPatch
):
    def stop() -> None:
        raise KeyboardInterrupt

    before_each_pass(monkeypatch, GENERATOR, stop)
    assert said("Hello")[1].startswith("No reply, so your message is taken back.")
    assert (contents(dialogue), dialogue.draft) == ([], "Hello")


def test_a_second_ctrl_c_does_not_lose_the_reply(
    dialogue: Dialogue, said: Said, monkeypatch: pytest.MonkeyPatch
):
    passes = iter(range(3))

    def press() -> None:
        if next(passes, None) is None:
            signal.raise_signal(signal.SIGINT)

    save = dialogue.save

    def press_again() -> None:
        signal.raise_signal(signal.SIGINT)
        save()

    dialogue.save = press_again
    before_each_pass(monkeypatch, GENERATOR, press)
    with pytest.raises(KeyboardInterrupt):
        take(dialogue, "Hello")  # the first press, before the reply has begun
    dialogue.save = save
    out, err = said("Hello")
    assert "stopped by Ctrl-C" in err
    assert contents(dialogue) == ["Hello", out.strip()]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_after_the_reply_has_nothing_to_stop(dialogue: Dialogue, said: Said):
    save = dialogue.save

    def press() -> None:
        if contents(dialogue)[1:]:
            signal.raise_signal(signal.SIGINT)
        save()

    dialogue.save = press
    out, err = said("Hello")
    assert "6 tokens, cut at the limit" in err
    assert contents(dialogue) == ["Hello", out.strip()]


@pytest.mark.parametrize(("empty", "answered"), [(1, True), (2, False)])
def test_an_empty_reply_is_asked_for_once_more(
    dialogue: Dialogue, said: Said, monkeypatch: pytest.MonkeyPatch, empty: int, answered: bool
):
    drawn: list[int | None] = []
    stream = GENERATOR.stream

    def ended_at_once(prompt: list[int], sampling: Sampling, **_: bool) -> ReplyStream:
        drawn.append(sampling.seed)
        ended = ReplyStream(iter([Choice(EOT_ID)]))
        return ended if len(drawn) <= empty else stream(prompt, sampling)

    monkeypatch.setattr(GENERATOR, "stream", ended_at_once)
    out, err = said("Hello")
    assert len(set(drawn)) == 2
    assert contents(dialogue) == (["Hello", out.strip()] if answered else [])
    assert ("before the first word" in err) == (not answered)


def test_a_reply_that_loops_is_stopped_and_its_repeats_are_forgotten(
    dialogue: Dialogue, said: Said, monkeypatch: pytest.MonkeyPatch
):
    verse = encode_text(" I like potatoes with butter and with salt.")

    def loop(_prompt: list[int], _sampling: Sampling, *, stop_loops: bool) -> ReplyStream:
        return ReplyStream(map(Choice, [*encode_text("Well:"), *verse * 20]), stop_loops=stop_loops)

    monkeypatch.setattr(GENERATOR, "stream", loop)
    out, err = said("Hello")
    assert out.count("potatoes") > 2
    assert "stopped because it repeated itself" in err
    assert contents(dialogue) == ["Hello", "Well: I like potatoes with butter and with salt."]


def test_a_model_that_cannot_be_loaded_ends_the_chat_with_its_error():
    def load(_: str) -> ChatModel:
        raise CheckpointError("no weights")

    with pytest.raises(CheckpointError, match="no weights"):
        take(Dialogue(Chat(None), Models(["none"], load)), "Hello")


def test_ctrl_c_while_the_model_loads_leaves_the_chat_unchanged(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    go_on, noted, note = Event(), Event(), report.note

    def load(_: str) -> ChatModel:
        assert go_on.wait(60)
        return ChatModel("slow", GENERATOR)

    dialogue = Dialogue(Chat(None), Models(["slow"], load))
    waiting = get_ident()

    def press() -> None:
        assert noted.wait(60)
        # A signal between the last instruction and the wait for the model does not end the wait.
        time.sleep(0.1)
        # To the thread that waits, as the system does; another would not wake it.
        signal.pthread_kill(waiting, signal.SIGINT)

    def note_and_wait(text: str) -> None:
        note(text)
        noted.set()

    monkeypatch.setattr(report, "note", note_and_wait)
    Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        take(dialogue, "Hello")
    go_on.set()
    assert contents(dialogue) == []
    assert capsys.readouterr().err == "Loading slow …\n"


def test_three_quotes_stay_open_until_they_are_closed():
    assert all(map(is_open, ['"""', '"""a\n', '"""a"', '/system """a', '"""""']))
    assert not any(map(is_open, ['"""a\nb"""', '""""""', 'a """', "/help", '/system """a""" ', ""]))
    assert not any(map(is_open, ['"""a""" b', '/system """a""" b', '"""a""" b """c']))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (' """ a\nb """ ', "a\nb"),
        ('"""hello"""', "hello"),
        ('"""\nx = """a"""\n"""', 'x = """a"""'),
        ('x = """hello"""', 'x = """hello"""'),
        ('say """', 'say """'),
        ('"""a""" b', '"""a""" b'),
        ('"""a""" and """b"""', '"""a""" and """b"""'),
        ('"""', '"""'),
        ('"""""', '"""""'),
    ],
)
def test_three_quotes_are_taken_off_in_pairs_only(typed: str, message: str):
    assert unquoted(typed) == message


@pytest.mark.parametrize(
    "message", ['"""a', '"""a"""', '"""', '"""a\nb"""', '/x """a', '/x """a"""', 'a """b"""', "/x"]
)
def test_a_message_with_three_quotes_is_typed_so_that_it_is_sent_as_it_is(message: str):
    assert not is_open(as_typed(message))
    assert unquoted(as_typed(message)) == message


def test_control_characters_of_a_reply_never_reach_the_terminal():
    pieces = [" \n", "a\x1b[31m", "\x07b\r\x9b2J", "\tc\n", "\x7f", " d", "\n\n "]
    assert "".join(report.visible(pieces)) == "a[31mb2J\tc\n d"


def noted() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FEEDBACK.read_text(encoding="utf-8").splitlines()]


def test_a_good_reply_is_written_with_the_conversation_before_it(dialogue: Dialogue, said: Said):
    said("/system Be kind.", "Hello")
    reply = contents(dialogue)[-1]
    assert "Noted: 1 row in feedback.jsonl." in said("/good")[1]
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    (row,) = noted()
    assert (row["prompt"], row["completion"], row["label"]) == (prompt, reply, True)
    assert "noted that already" in said("/good")[1]
    assert len(noted()) == 1


def test_a_good_reply_that_was_cut_is_marked_and_said_to_be_left_out(
    dialogue: Dialogue, said: Said
):
    said("Hello")
    assert "prepare leaves it out" in said("/good")[1]
    assert noted()[0]["cut"] is True
    said("/edit All of it.")
    assert "prepare" not in said("/good")[1]
    assert [row.get("cut") for row in noted()] == [True, True, None, None]


def test_a_bad_reply_and_a_better_one_are_a_pair(dialogue: Dialogue, said: Said):
    said("Hello")
    bad = contents(dialogue)[-1]
    assert "makes a pair" in said("/bad")[1]
    said("/retry")
    good = contents(dialogue)[-1]
    assert "Noted: 2 rows" in said("/good")[1]
    assert [row.get("label") for row in noted()] == [False, True, None]
    assert (noted()[2]["chosen"], noted()[2]["rejected"]) == (good, bad)


def test_an_edited_reply_takes_the_place_of_the_old_one(dialogue: Dialogue, said: Said):
    said("Hello")
    old = contents(dialogue)[-1]
    assert "Noted: 3 rows" in said("/edit Hello to you, too.")[1]
    assert contents(dialogue) == ["Hello", "Hello to you, too."]
    assert (noted()[-1]["chosen"], noted()[-1]["rejected"]) == ("Hello to you, too.", old)


def test_an_edit_can_be_repeated_if_the_feedback_file_cannot_be_written(
    dialogue: Dialogue, said: Said
):
    said("Hello")
    old = contents(dialogue)[-1]
    FEEDBACK.mkdir()
    assert "error: Cannot write feedback.jsonl" in said("/edit Hello to you, too.")[1]
    assert contents(dialogue)[-1] == old
    FEEDBACK.rmdir()
    assert "Noted: 3 rows" in said("/edit Hello to you, too.")[1]


@pytest.mark.parametrize("line", ["word " * 2000, "/nope a long line\nand another"])
def test_a_refused_line_returns_to_the_prompt(dialogue: Dialogue, said: Said, line: str):
    assert said(line)[1].startswith("error: ")
    assert dialogue.draft == line.rstrip()
    assert not dialogue.session.turns


@pytest.mark.parametrize("line", ["/good", "/bad", "/edit better"])
def test_without_a_reply_there_is_nothing_to_rate(said: Said, line: str):
    assert "There is no reply yet. Write a message first." in said(line)[1]
    assert not FEEDBACK.exists()


def test_an_edit_without_a_text_opens_the_reply_in_the_prompt(dialogue: Dialogue, said: Said):
    said("Hello", "/edit First line.\n/second line")
    dialogue.drafts = True
    assert said("/edit") == ("", "")
    assert dialogue.draft == "/edit First line.\n/second line"
    assert said(dialogue.draft)[1] == "The reply is unchanged.\n"
    said(dialogue.draft + " And a third.")
    assert contents(dialogue)[-1] == "First line.\n/second line And a third."


def test_an_edit_needs_a_text_without_a_prompt(dialogue: Dialogue, said: Said):
    said("Hello")
    before = contents(dialogue)
    assert "/edit needs the better reply" in said("/edit")[1]
    assert contents(dialogue) == before


def test_a_file_of_opinions_that_cannot_be_written_is_one_line(dialogue: Dialogue, said: Said):
    FEEDBACK.mkdir()
    said("Hello")
    assert "Cannot write feedback.jsonl: Is a directory" in said("/good")[1]
    assert len(contents(dialogue)) == 2
