"""Messages that speak Python reach the terminal as flags and commands."""

import ast
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import gpt2chat
from gpt2chat.commandline import CONFIGS, known_settings, to_command_line
from gpt2chat.core.config.settings import settings_of
from gpt2chat.core.errors import ConfigError, call
from gpt2chat.report import show_error

CORE = Path(gpt2chat.__file__).parent / "core"
FILES = {str(path.relative_to(CORE)): path for path in sorted(CORE.rglob("*.py"))}
FLAG = re.compile(r"(?<![\w-])--[a-z]|gpt2chat (prepare|sft|orpo|eval|chat|export)\b")
CALL = re.compile(r"`(\w+\([^`]*\))`")


def texts(path: Path, *, docstrings: bool) -> Iterator[str]:
    """Yield the texts of a module; a value within one is `__`."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    skip = {
        id(part)
        for node in nodes
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Expr) and not docstrings)
        for part in ast.iter_child_nodes(node)
    }
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "__" for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in skip:
            yield str(node.value)


def calls(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield function and keywords of each call that a module suggests to the user."""
    trees = [
        ast.parse(code) for text in texts(path, docstrings=False) for code in CALL.findall(text)
    ]
    for node in chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, [str(keyword.arg) for keyword in node.keywords]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id="call"), args=[ast.Constant(value=str(function))]):
                yield function, [keyword.arg for keyword in node.keywords if keyword.arg]
            case _:
                pass


@pytest.mark.parametrize("name", FILES)
def test_the_core_names_no_flag_and_no_command(name: str):
    assert [text for text in texts(FILES[name], docstrings=True) if FLAG.search(text)] == []


@pytest.mark.parametrize("name", FILES)
def test_each_call_in_a_message_is_one_that_the_library_has(name: str):
    for function, settings in calls(FILES[name]):
        if function in CONFIGS:
            assert set(settings) <= settings_of(CONFIGS[function]).keys()
        else:
            assert function == "__" or hasattr(gpt2chat, function)


@pytest.mark.parametrize("name", FILES)
def test_each_value_of_a_setting_in_a_message_becomes_a_flag(name: str):
    for text in texts(FILES[name], docstrings=False):
        for code in re.findall("`([a-z_]+=[^`]*)`", text):
            setting = code.partition("=")[0]
            if setting != "__":
                assert setting in known_settings()
                assert to_command_line(f"`{code}`").startswith("--")


@pytest.mark.parametrize(
    ("core", "terminal"),
    [
        ("`lr` must be above 0.", "--lr must be above 0."),
        ('Use `precision="fp32"`.', "Use --precision fp32."),
        ("Set `merge=False`, `dora=True`.", "Set --no-merge, --dora."),
        ("Give `chat=FILE`.", "Give --chat FILE."),
        ("Run `prepare(sample=True)`.", "Run gpt2chat prepare --sample."),
        ("Run `evaluate()`.", "Run gpt2chat eval."),
        ("`a file` and `x=1` and `nothing()`", "`a file` and `x=1` and `nothing()`"),
        ("one ` only", "one ` only"),
    ],
)
def test_python_between_backticks_becomes_what_a_user_types(core: str, terminal: str):
    assert to_command_line(core) == terminal


def test_values_are_quoted_for_a_shell():
    text = call("sft", out='my "run"', resume="auto", max_length=64)
    assert to_command_line(text) == "gpt2chat sft --out 'my \"run\"' --resume auto --max-length 64"


def test_an_error_begins_with_the_flag_that_caused_it(capsys: pytest.CaptureFixture[str]):
    show_error(ConfigError("There is no folder runs/x.", setting="model"))
    assert capsys.readouterr().err == "error: --model: There is no folder runs/x.\n"
