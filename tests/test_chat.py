"""`gpt2chat chat -p` and piped input: the answer on stdout, all else on stderr, exit codes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gpt2chat.cli import app
from gpt2chat.core.chat.chats import Autosave, latest_chat
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.generation.generate import Generator, ReplyStream
from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.text.conversations import Message
from gpt2chat.core.text.tokens import EOT_ID, encode_text
from tests.helpers import talk, tiny_model

Chat = Callable[..., tuple[int, str, str]]


@pytest.fixture
def chat(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Runs `gpt2chat chat` with the tiny model in an empty folder; returns code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def run(
        *arguments: str, stdin: str | bytes = "", model: str | None = str(tiny_folder)
    ) -> tuple[int, str, str]:
        named = [] if model is None else ["--model", model]
        flags = [*named, "--max-new-tokens", "8", "--seed", "1", *arguments]
        result = CliRunner().invoke(app, ["chat", *flags], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return run


def test_a_prompt_is_answered_once_on_stdout(chat: Chat, tiny_folder: Path):
    code, out, err = chat("-p", "Hello")
    assert code == 0
    assert out.strip()
    assert out.endswith("\n")
    assert err.startswith(f"model: {tiny_folder}\n8 tokens, cut at the limit")


def test_the_same_seed_gives_the_same_answer(chat: Chat):
    assert chat("-p", "Hello")[1] == chat("-p", "Hello")[1] != chat("-p", "Hello", "--seed", "2")[1]


@pytest.mark.parametrize(("empty", "code"), [(1, 0), (2, 9)])
def test_an_empty_answer_is_asked_for_once_more(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, empty: int, code: int
):
    drawn: list[int | None] = []
    stream = Generator.stream

    def ended_at_once(
        self: Generator, prompt: list[int], sampling: Sampling, **_: bool
    ) -> ReplyStream:
        drawn.append(sampling.seed)
        nothing = ReplyStream(map(Choice, [*encode_text(" "), EOT_ID]))
        return nothing if len(drawn) <= empty else stream(self, prompt, sampling)

    monkeypatch.setattr(Generator, "stream", ended_at_once)
    found, out, err = chat("-p", "Hello")
    assert (found, bool(out.strip())) == (code, code == 0)
    assert len(set(drawn)) == 2
    if code:
        assert out == ""
        assert err.splitlines()[1:] == [
            "error: The model ended its reply before the first word, twice. Ask in other words, or "
            "set another --seed."
        ]


def test_a_model_with_damaged_weights_is_one_line(chat: Chat, tmp_path: Path):
    model = tiny_model()
    torch.nn.init.constant_(model.transformer.ln_f.weight, torch.nan)
    save_model(model, tmp_path / "damaged")
    code, out, err = chat("-p", "Hello", model="damaged")
    assert (code, out) == (4, "")
    assert "--model" in err.splitlines()[1]
    assert "ln_f.weight" in err.splitlines()[1]


def test_several_prompts_are_each_answered_as_alone(chat: Chat):
    first, second = chat("-p", "Hello")[1], chat("-p", "Bye")[1]
    assert chat("-p", "Hello", "-p", "Bye")[1] == f"{first}\n{second}"


def test_several_models_each_answer(chat: Chat, tiny_folder: Path):
    one = chat("-p", "Hello")[1]
    code, out, err = chat("-p", "Hello", "--model", "starter")
    assert (code, out.count("\n\n")) == (0, 1)
    assert out.startswith(one)
    assert err.index(f"\n{tiny_folder}:\n") < err.index("\nstarter:\n")


def test_json_has_the_reply_with_its_figures(chat: Chat, tiny_folder: Path):
    row = json.loads(chat("-p", "Hello", "--json")[1])
    assert (row["model"], row["prompt"]) == (str(tiny_folder), "Hello")
    assert row["reply"] == chat("-p", "Hello")[1].strip()
    assert (row["finish_reason"], row["tokens"], row["left_window"]) == ("length", 8, 0)


def test_a_file_of_prompts_is_answered_line_by_line(chat: Chat, tmp_path: Path):
    (tmp_path / "lines.txt").write_text("Hello\n\nBye\n")
    _, out, _ = chat("--prompts", "lines.txt", stdin="not read")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["prompt"] for row in rows] == ["Hello", "Bye"]
    assert rows[1]["reply"] == chat("-p", "Bye")[1].strip()


def test_prompts_in_json_lines_are_texts_or_conversations(chat: Chat, tmp_path: Path):
    messages = [{"role": "system", "content": "Shout."}, {"role": "user", "content": "Hello"}]
    lines = [{"prompt": "Hello"}, {"messages": messages}, {"prompt": messages}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [json.loads(line) for line in chat("--prompts", "a.jsonl")[1].splitlines()]
    shouted = chat("-p", "Hello", "--system", "Shout.")[1].strip()
    assert [row["reply"] == shouted for row in rows] == [False, True, True]
    assert rows[1]["messages"] == messages


def test_a_prompt_that_cannot_be_answered_does_not_stop_the_others(chat: Chat, tmp_path: Path):
    (tmp_path / "a.txt").write_text(f"{'word ' * 2000}\nHello\n")
    code, out, _ = chat("--prompts", "a.txt")
    first, second = map(json.loads, out.splitlines())
    assert (code, "2,000 tokens" in first["error"], bool(second["reply"])) == (9, True, True)


@pytest.mark.parametrize(
    ("line", "code"),
    [('{"messages": []}', 3), ('{"a": 1}', 3), ("{", 3), ("\n", 3), ('{"messages": 1}', 3)],
)
def test_a_line_that_is_not_a_prompt_is_named(chat: Chat, tmp_path: Path, line: str, code: int):
    (tmp_path / "a.jsonl").write_text(line)
    found, out, err = chat("--prompts", "a.jsonl")
    assert (found, out) == (code, "")
    assert "a.jsonl" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("-p", "a", "--prompts", "a.txt"),
        ("--resume-last", "-p", "a", "-p", "b"),
        ("--resume-last", "--prompts", "a.txt"),
    ],
)
def test_prompts_that_contradict_each_other_are_refused(chat: Chat, arguments: tuple[str, ...]):
    code, out, _ = chat(*arguments)
    assert (code, out) == (2, "")


def test_an_empty_system_prompt_is_the_default_one(chat: Chat):
    assert chat("-p", "Hello", "--system", "")[1] == chat("-p", "Hello")[1]


def test_piped_text_is_the_message(chat: Chat):
    assert chat(stdin="Hello\n")[1] == chat("-p", "Hello")[1]
    assert chat(stdin="\ufeffHello".encode())[1] == chat("-p", "Hello")[1]


def test_piped_text_follows_the_prompt_after_an_empty_line(chat: Chat):
    assert chat("-p", "Shorten:", stdin="A text.\n")[1] == chat("-p", "Shorten:\n\nA text.")[1]


def test_the_system_prompt_changes_the_answer(chat: Chat):
    assert chat("-p", "Hello", "--system", "Shout.")[1] != chat("-p", "Hello")[1]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "line"),
    [
        ((), "", 3, "The message is empty."),
        (("-p", " "), " \n", 3, "The message is empty."),
        ((), b"\xff\xfe", 3, "Standard input is not UTF-8 text"),
        ((), "word " * 2000, 3, "The message has 2,000 tokens; 988 fit."),
        (("-p", "x", "--system", "a " * 999), "", 3, "The system prompt has 999 tokens"),
        (("-p", "x", "--top-p", "0"), "", 2, "--top-p must be above 0 and at most 1, not 0.0."),
        (("-p", "x", "--temperature", "nan"), "", 2, "--temperature must be from 0 to 100"),
        (("-p", "x", "--max-new-tokens", "961"), "", 2, "--max-new-tokens must be from 1 to 960"),
        (("-p", "x", "--seed", "-1"), "", 2, "--seed must be at least 0"),
        (("-p", "x", "--model", "./none"), "", 4, "--model: There is no folder ./none."),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(
    chat: Chat, arguments: tuple[str, ...], stdin: str | bytes, code: int, line: str
):
    got, out, err = chat(*arguments, stdin=stdin)
    assert (got, out) == (code, "")
    assert err.splitlines()[-1].startswith(f"error: {line}")
    assert err.count("error") == 1


def test_without_a_run_the_command_to_type_is_named(chat: Chat):
    code, out, err = chat("-p", "Hello", model=None)
    assert (code, out) == (4, "")
    assert "gpt2chat sft" in err


def test_the_newest_finished_run_answers(chat: Chat, tiny_folder: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, day in (("sft", "2026-01-02"), ("orpo", "2026-01-03")):
        (runs / name).mkdir()
        for file in tiny_folder.iterdir():
            (runs / name / file.name).write_bytes(file.read_bytes())
        result = {"command": name, "finished": f"{day}T00:00:00+00:00"}
        (runs / name / "result.json").write_text(json.dumps(result))
    _, out, err = chat("-p", "Hello", model=None)
    assert f"model: {Path('runs', 'orpo')} (newest finished run)" in err
    assert out == chat("-p", "Hello")[1]


def test_settings_come_from_a_file_too(chat: Chat, tmp_path: Path):
    (tmp_path / "chat.toml").write_text("temperature = 0.0\ntop_k = 1\n")
    assert chat("-p", "Hi", "--config", "chat.toml") != chat("-p", "Hi")
    assert chat("-p", "Hi", "--config", "chat.toml")[1] == chat("-p", "Hi", "--temperature", "0")[1]


@pytest.mark.parametrize("spelled", ['"{}"', '["{}"]'])
def test_a_file_names_one_model_or_several(
    chat: Chat, tiny_folder: Path, tmp_path: Path, spelled: str
):
    (tmp_path / "chat.toml").write_text(f"model = {spelled.format(tiny_folder)}\n")
    _, out, err = chat("-p", "Hi", "--config", "chat.toml", model=None)
    assert err.startswith(f"model: {tiny_folder}\n8 tokens")
    assert out == chat("-p", "Hi")[1]


def keep(tmp_path: Path, *models: str) -> Path:
    """Keep a chat of two messages; return the folder."""
    messages = (Message("system", "Be brief."), *talk("hello", "hi").messages)
    folder = tmp_path / "data" / "gpt2chat" / "chats"
    Autosave(folder).write(messages, models)
    return folder


def test_the_latest_chat_resumes_with_its_model_and_system_prompt(
    chat: Chat, tiny_folder: Path, tmp_path: Path
):
    folder = keep(tmp_path, str(tiny_folder), "starter")
    code, out, err = chat("--resume-last", "-p", "And?", model=None)
    assert code == 0
    resumed = next(line for line in err.splitlines() if "Resumed" in line)
    assert resumed.endswith(f": 2 messages, the latest “hi”, with {tiny_folder}, starter.")
    assert out != chat("-p", "And?")[1]
    kept = latest_chat(folder)
    assert kept.models == (str(tiny_folder), "starter")
    assert [message.content for message in kept.conversation.messages] == [
        "Be brief.", "hello", "hi", "And?", out.strip(),
    ]  # fmt: skip
    assert len(list(folder.iterdir())) == 1


def test_a_later_chat_that_cannot_be_read_is_named(chat: Chat, tiny_folder: Path, tmp_path: Path):
    folder = keep(tmp_path, str(tiny_folder))
    (folder / "later.json").write_text("{")
    code, _, err = chat("--resume-last", "-p", "And?", model=None)
    assert code == 0
    unread, resumed, *_ = err.splitlines()
    assert unread.startswith(f"{folder / 'later.json'} is not a saved chat: ")
    assert resumed.startswith("Resumed the chat")


def test_flags_override_the_resumed_chat(chat: Chat, tiny_folder: Path, tmp_path: Path):
    keep(tmp_path, "somewhere/else")
    code, _, err = chat("--resume-last", "--no-history", "--system", "Shout.", "-p", "And?")
    assert code == 0
    assert f"with {tiny_folder}." in err
    kept = latest_chat(tmp_path / "data" / "gpt2chat" / "chats").conversation
    assert (kept.system, len(kept.turns)) == ("Be brief.", 2)


def test_a_chat_that_cannot_be_resumed_is_one_line(chat: Chat, tmp_path: Path):
    code, out, err = chat("--resume-last", "-p", "And?")
    assert (code, out) == (3, "")
    assert err == "error: There is no chat to resume. Start one with gpt2chat chat.\n"
    keep(tmp_path, "./gone")
    code, out, err = chat("--resume-last", "-p", "And?", model=None)
    assert (code, out) == (4, "")
    assert err == (
        "error: The latest chat was with ./gone, which no longer exists. Name another --model.\n"
    )


def test_a_single_answer_is_not_saved(chat: Chat, tmp_path: Path):
    chat("-p", "Hello")
    assert not (tmp_path / "data").exists()


def test_ctrl_c_leaves_with_130_and_one_line(tiny_folder: Path, tmp_path: Path):
    # The reply has begun when its first bytes are there. It cannot have ended: some 6 KB do not fit
    # the pipe, which is at its smallest.
    command = [sys.executable, "-m", "gpt2chat", "chat", "--model", str(tiny_folder), "-p", "Hi"]
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "960", "--top-k", "0"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        pipesize=4096,
    )  # fmt: skip
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.decode().splitlines()[1:] == ["Interrupted; nothing was changed."]


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("<&-", 3, "error: The message is empty."),
        ("-p Hi <&-", 0, "8 tokens, cut at the limit"),
        ("-p Hi >&-", 0, "8 tokens, cut at the limit"),
        ("-p Hi >/dev/full", 6, "Standard output cannot be written: No space left on device.\n"),
        ("-p Hi | head -c 0", 0, "model: "),
    ],
)
def test_streams_that_are_closed_or_full_are_no_traceback(
    tiny_folder: Path, tmp_path: Path, redirection: str, code: int, said: str
):
    flags = f"--model '{tiny_folder}' --max-new-tokens 8 {redirection}"
    process = subprocess.run(
        f"'{sys.executable}' -m gpt2chat chat {flags}",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (process.returncode, "Traceback" in process.stderr) == (code, False)
    assert said in process.stderr


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("--top-k", "3", 3),
        ("no_repeat_ngram", "4", 4),
        ("min-p", "0.1", 0.1),
        ("stop", "The end", ("The end",)),
        ("stop", "none", ()),
        ("stop", '"END"', ("END",)),
        ("stop", "'none'", ("none",)),
        ("stop", '"', ('"',)),
        ("stop", "it's'", ("it's'",)),
        ("seed", "none", None),
        ("seed", "7", 7),
    ],
)
def test_a_setting_is_read_from_text(name: str, text: str, value: object):
    changed = Sampling(seed=1).with_setting(name, text)
    assert getattr(changed, name.strip("-").replace("-", "_")) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("heat", "1", "There is no setting heat. There are temperature, top_k,"),
        ("top_k", "1.5", "top_k must be a whole number, not '1.5'."),
        ("top_p", "much", "top_p must be a number, not 'much'."),
        ("top_p", "2", "top_p must be above 0 and at most 1, not 2.0."),
        ("min_p", "1", "min_p must be at least 0 and below 1, not 1.0."),
        ("no_repeat_ngram", "1", "no_repeat_ngram must be 0, or from 2 to 64, not 1."),
        ("stop", "", "stop must not be empty."),
        ("stop", "''", "stop must not be empty."),
        ("max_new_tokens", "5000", "max_new_tokens must be from 1 to 960, not 5000."),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name: str, text: str, message: str):
    with pytest.raises(ConfigError) as error:
        Sampling().with_setting(name, text)
    assert str(error.value).startswith(message)
