"""Chats in files: kept after each turn, found again, never in each other's way."""

import json
import os
from pathlib import Path

import pytest

from gpt2chat.core.chat import chats
from gpt2chat.core.chat.chats import (
    Autosave,
    chats_folder,
    data_folder,
    history_file,
    latest_chat,
    read_chat,
    save_chat,
)
from gpt2chat.core.errors import DataError, StorageError
from gpt2chat.core.text.conversations import Message
from tests.helpers import talk

HELLO = talk("hello", "hi").messages
MORE = talk("hello", "hi", "and?", "well").messages


def kept(folder: Path) -> list[list[str]]:
    """The contents of all kept chats, the newest last."""
    files = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime_ns)
    return [
        [message.content for message in read_chat(file).conversation.messages] for file in files
    ]


def test_a_chat_is_saved_in_one_file_that_only_the_user_can_read(tmp_path: Path):
    folder = tmp_path / "data" / "chats"
    autosave = Autosave(folder)
    autosave.write(HELLO, ["starter"])
    autosave.write(MORE, ["starter"])
    (file,) = folder.iterdir()
    assert [message.content for message in read_chat(file).conversation.messages] == [
        "hello",
        "hi",
        "and?",
        "well",
    ]
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_latest_chat_has_its_models_and_system_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    Autosave(tmp_path / "chats").write(MORE, ["gpt2"])
    messages = (Message("system", "Be brief."), *HELLO)
    Autosave(tmp_path / "chats").write(messages, ["runs/sft", "starter"])
    latest = latest_chat(tmp_path / "chats")
    assert latest.conversation.messages == messages
    assert latest.models == ("runs/sft", "starter")
    monkeypatch.chdir(tmp_path / "runs")
    assert latest_chat(tmp_path / "chats").models == ("sft", "starter")
    monkeypatch.chdir(tmp_path / "chats")
    assert latest_chat(tmp_path / "chats").models == (str(tmp_path / "runs" / "sft"), "starter")


def test_the_chat_that_was_talked_in_last_is_the_latest(tmp_path: Path):
    first, second = Autosave(tmp_path), Autosave(tmp_path)
    first.write(HELLO, ["a"])
    second.write(HELLO, ["b"])
    first.write(MORE, ["a"])
    assert latest_chat(tmp_path).models == ("a",)


def test_a_resumed_chat_keeps_its_file(tmp_path: Path):
    Autosave(tmp_path).write(HELLO, ["a"])
    Autosave(tmp_path, latest_chat(tmp_path)).write(MORE, ["a"])
    assert kept(tmp_path) == [["hello", "hi", "and?", "well"]]


def test_two_programs_that_resume_one_chat_do_not_overwrite_each_other(tmp_path: Path):
    Autosave(tmp_path).write(HELLO, ["a"])
    one, other = (Autosave(tmp_path, latest_chat(tmp_path)) for _ in range(2))
    one.write(talk("hello", "hi", "one", "1").messages, ["a"])
    other.write(talk("hello", "hi", "two", "2").messages, ["a"])
    one.write(talk("hello", "hi", "one", "1", "more", "3").messages, ["a"])
    assert kept(tmp_path) == [
        ["hello", "hi", "two", "2"],
        ["hello", "hi", "one", "1", "more", "3"],
    ]


def test_a_cleared_chat_stays_saved_and_an_undone_one_does_not(tmp_path: Path):
    autosave = Autosave(tmp_path)
    autosave.write(HELLO, ["a"])
    autosave.begin_another()
    autosave.write((), ["a"])
    assert kept(tmp_path) == [["hello", "hi"]]
    autosave.write(MORE, ["a"])
    autosave.write((Message("system", "Be brief."),), ["a"])
    assert kept(tmp_path) == [["hello", "hi"]]


def test_the_oldest_chats_beyond_the_limit_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(chats, "MOST_CHATS", 3)
    for number in range(5):
        Autosave(tmp_path).write(talk(str(number), "yes").messages, ["a"])
    assert [chat[0] for chat in kept(tmp_path)] == ["2", "3", "4"]


def test_a_chat_of_any_length_can_be_read(tmp_path: Path):
    Autosave(tmp_path).write(HELLO * 1500, ["a"])
    assert len(latest_chat(tmp_path).conversation.turns) == 3000


def test_a_chat_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path):
    save_chat(tmp_path / "chat.json", HELLO)
    text = (tmp_path / "chat.json").read_text()
    (tmp_path / "chat.json").write_text(text, encoding="utf-8-sig")
    assert read_chat(tmp_path / "chat.json").conversation.messages == HELLO


def test_a_file_that_is_not_a_chat_is_skipped_and_named(tmp_path: Path):
    Autosave(tmp_path).write(HELLO, ["a"])
    assert latest_chat(tmp_path).unread == ()
    (tmp_path / "zzz.json").write_text("{")
    latest = latest_chat(tmp_path)
    assert latest.models == ("a",)
    (why,) = latest.unread
    assert why.startswith(f"{tmp_path / 'zzz.json'} is not a saved chat: ")


def test_if_no_chat_can_be_read_the_error_names_the_latest(tmp_path: Path):
    (tmp_path / "zzz.json").write_text("{")
    with pytest.raises(DataError, match=r"zzz\.json"):
        latest_chat(tmp_path)


def test_without_a_chat_the_command_to_type_is_named(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "none", None):
        with pytest.raises(DataError, match="resume"):
            latest_chat(folder)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="XDG_DATA_HOME"):
        Autosave(tmp_path / "file" / "chats").write(HELLO, ["a"])


def test_a_saved_chat_contains_only_its_messages(tmp_path: Path):
    save_chat(tmp_path / "chat.json", HELLO)
    value = json.loads((tmp_path / "chat.json").read_text())
    assert value == {"messages": talk("hello", "hi").as_dicts()}


def test_the_environment_decides_where_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GPT2CHAT_HISTORY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "gpt2chat"
    assert (history_file(), chats_folder()) == (
        tmp_path / "gpt2chat" / "history",
        tmp_path / "gpt2chat" / "chats",
    )
    monkeypatch.setenv("GPT2CHAT_HISTORY", "lines")
    assert (history_file(), chats_folder()) == (Path("lines"), tmp_path / "gpt2chat" / "chats")
    monkeypatch.setenv("GPT2CHAT_HISTORY", "off")
    assert (history_file(), chats_folder()) == (None, None)
    monkeypatch.delenv("GPT2CHAT_HISTORY")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", _homeless)
    assert (data_folder(), history_file(), chats_folder()) == (None, None, None)


def _homeless() -> Path:
    raise RuntimeError(os.strerror(2))


def test_a_chat_is_the_newest_and_stays_also_if_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(chats, "MOST_CHATS", 3)
    for number in range(3):
        Autosave(tmp_path).write(talk(f"{number}", "yes").messages, ["tiny"])
    for file in tmp_path.iterdir():
        later = file.stat().st_mtime + 10_000
        os.utime(file, (later, later))
    Autosave(tmp_path).write(talk("now", "yes").messages, ["tiny"])
    assert latest_chat(tmp_path).conversation.messages[0].content == "now"
    assert len(list(tmp_path.iterdir())) == 3
