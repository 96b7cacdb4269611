"""Messages that speak Python reach the terminal as flags and commands."""

import pytest

from gpt2chat.commandline import to_command_line
from gpt2chat.core.errors import ConfigError, call
from gpt2chat.report import show_error


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
