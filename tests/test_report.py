"""What is printed: readable at 80 columns, with and without a terminal."""

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from gpt2chat import report
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import PrepareResult, Progress, prepare
from gpt2chat.core.data.shards import LENGTH_BINS, Lengths
from gpt2chat.core.data.show import Shown, pick_samples
from gpt2chat.core.errors import DataError
from gpt2chat.core.training.callbacks import Step
from gpt2chat.report import console, progress, training
from gpt2chat.report.prepare import LEFT_OUT, REMARKS, show_reasons
from gpt2chat.report.progress import Pace, ReadingLine
from gpt2chat.report.samples import MOST_LINES, shortened
from gpt2chat.report.stats import BAR_CELLS, bar, bin_labels
from gpt2chat.report.training import note_positions, step_line, training_progress
from tests.helpers import ignore

Capture = pytest.CaptureFixture[str]
NAMES = (
    "oasst1",
    "my chat [bold].jsonl",
    "会話のデータ.jsonl",
    "a_long_name_of_a_file_that_somebody_exported_from_somewhere_else_long_ago.jsonl",
    ":smile:.jsonl",
)


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 80)
    monkeypatch.setattr(console.err, "width", 80)


def printed(capsys: Capture) -> list[str]:
    """Return the lines on stdout, which all fit a terminal, without white space at their ends."""
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    return [line.rstrip() for line in lines]


def words(lines: list[str], beginning: str) -> list[str]:
    """Return the words of the one line that begins so, after these."""
    (line,) = (line for line in lines if line.strip().startswith(beginning))
    return line.strip().removeprefix(beginning).split()


def lengths(**prompts: list[int]) -> Lengths:
    """Return replies that are as long as the prompts, but one sixteenth of the window longer."""
    filled = {name: (bars + [0] * LENGTH_BINS)[:LENGTH_BINS] for name, bars in prompts.items()}
    return {
        name: {"prompt": bars, "reply": [bars[-1], *bars[:-1]]} for name, bars in filled.items()
    }


@pytest.mark.parametrize("text", ["a :smile: b", "[red]a[/red]", "[/]", "x" * 200])
def test_notes_and_errors_are_printed_as_they_are(text: str, capsys: Capture):
    report.note(text)
    report.show_error(DataError(text))
    assert capsys.readouterr() == ("", f"{text}\nerror: {text}\n")


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_break_between_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    narrow = Console(file=screen, width=24, color_system=None, highlight=False, emoji=False)
    monkeypatch.setattr(console, "err", narrow)
    monkeypatch.setattr(console, "out", narrow)
    report.show_error(DataError("a/path/of/a/file is not there. Type gpt2chat prepare."))
    report.note("[red] :smile: no_repeat_ngram")
    console.say("2,000 samples of whole groups (trees).")
    assert screen.getvalue().splitlines() == [
        "error: a/path/of/a/file",
        "is not there. Type",
        "gpt2chat prepare.",
        "[red] :smile:",
        "no_repeat_ngram",
        "2,000 samples of whole",
        "groups (trees).",
    ]


def test_what_a_note_or_an_error_quotes_cannot_act_on_the_terminal(capsys: Capture):
    text = "title \x1b]0;x\x07 clear \x9b2J"
    report.note(text)
    report.show_error(DataError(text))
    err = capsys.readouterr().err
    assert err.count("title \u241b]0;x\u2407 clear") == 2
    assert not {"\x1b", "\x07", "\x9b"} & set(err)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (70, ["top_k       36", "/undo TEXT  take back the latest message, to write it again"]),
        (
            20,
            [
                "top_k",
                "  36",
                "/undo TEXT",
                "  take back the",
                "  latest message, to",
                "  write it again",
            ],
        ),
    ],
)
def test_meanings_are_complete_on_a_narrow_screen_too(
    columns: int, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setattr(console.err, "width", columns)
    meaning = "take back the latest message, to write it again"
    report.show_rows([("top_k", "36"), ("/undo TEXT", meaning)])
    assert [line.rstrip() for line in capsys.readouterr().err.splitlines()] == expected


@given(st.floats(0, 1), st.integers(1, 60), st.booleans())
def test_a_bar_is_as_long_as_its_share_and_seen_if_it_is_not_nothing(
    share: float, width: int, plain: bool
):
    drawn = bar(share, width, plain=plain)
    assert len(drawn) <= width
    assert bool(drawn) == (share > 0)
    assert abs(len(drawn) - share * width) <= 1


def test_a_bar_ends_in_eighths_of_a_cell():
    assert [bar(n / 8, 1) for n in range(9)] == ["", *"▏▎▍▌▋▊▉█"]
    assert bar(0.5 + 1 / 64, 8) == "████▏"


@given(st.integers(64, 5000))
def test_the_labels_name_the_tokens_that_a_bar_counts(window: int):
    labels = [label.replace(",", "") for label in bin_labels(window, LENGTH_BINS)]
    for tokens in range(1, window + 50):
        label = labels[min((tokens - 1) * LENGTH_BINS // window, LENGTH_BINS - 1)]
        first, _, last = label.rstrip("+").partition("-")
        assert int(first) <= tokens <= int(last or tokens)


def test_stats_show_the_training_rows_of_each_kind_that_has_any(capsys: Capture):
    found = {
        "sft": {"train": lengths(a=[1200, 3], b=[600]), "validation": lengths(a=[7])},
        "preference": {"train": {}, "validation": {}},
        "reference": {"validation": lengths(a=[0, 0, 5])},
    }
    report.show_stats(found, 1024, Path("data/lengths.png"))
    lines = printed(capsys)
    headings = [line for line in lines if line.endswith("samples")]
    assert headings == ["sft: 1,803 training samples", "reference: 5 validation samples"]
    sft = lines[: lines.index(headings[1])]
    assert words(sft, "1-64") == ["█" * BAR_CELLS, "1,800", "·"]
    assert words(sft, "65-128") == ["▏", "3", "█" * BAR_CELLS, "1,800"]
    assert words(sft, "961+") == ["·", "·"]
    assert words(sft, "a ")[1:] == ["66.7%", "1,203"]
    assert words(sft, "b ")[1:] == ["33.3%", "600"]
    assert lines[-1] == "Drawn: data/lengths.png"


def test_stats_of_nothing_are_no_histogram(capsys: Capture):
    nothing: dict[str, dict[str, Lengths]] = {"sft": {"train": lengths(a=[]), "validation": {}}}
    report.show_stats(nothing, 1024, Path("lengths.png"))
    assert printed(capsys) == ["Drawn: lengths.png"]


def test_stats_take_any_name_and_millions_of_rows(capsys: Capture):
    bars = [9_999_999] * LENGTH_BINS
    many = {"preference": {"train": lengths(**dict.fromkeys(NAMES, bars))}}
    report.show_stats(many, 1024, Path("lengths.png"))
    lines = printed(capsys)
    for name in NAMES:
        assert any(line.startswith(name[:12]) for line in lines), name


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_every_reason_is_printed_with_its_number(number: int, capsys: Capture):
    sources = NAMES[:number] if number != 4 else ("a", "b", "c", "d")
    counts = {
        source: {"duplicate": 1000 + place, f"only {place}": 10**6 + place}
        for place, source in enumerate(sources)
    }
    show_reasons({LEFT_OUT: counts, REMARKS: {sources[0]: {"early turns dropped": 77}}})
    lines = printed(capsys)
    text = "\n".join(lines)
    for place, source in enumerate(sources):
        assert source[:30] in text
        for figure in (1000 + place, 10**6 + place, 10**6 + 1000 + 2 * place):
            assert f"{figure:,}" in text
    assert words(lines, "early turns dropped")[0] == "77"


def test_a_few_sources_are_columns_and_the_most_frequent_reason_is_first(capsys: Capture):
    left_out = {"a": {"duplicate": 1, "score tie": 2}, "b": {"longer": 30}, "c": {}}
    show_reasons({LEFT_OUT: left_out, REMARKS: {"b": {"mended": 4, "shortened": 4}}})
    lines = [line.split() for line in printed(capsys)]
    assert lines == [
        [],
        ["left", "out", "a", "b"],
        ["longer", "·", "30"],
        ["score", "tie", "2", "·"],
        ["duplicate", "1", "·"],
        ["total", "3", "30"],
        [],
        ["kept,", "with", "a", "remark"],
        ["mended", "·", "4"],
        ["shortened", "·", "4"],
    ]


def test_many_sources_have_a_block_each(capsys: Capture):
    show_reasons(
        {LEFT_OUT: {name: {"longer": 2, "duplicate": 5} for name in "abcdef"}, REMARKS: {}}
    )
    lines = [line.split() for line in printed(capsys)]
    assert lines[2:5] == [["a", "7"], ["duplicate", "5"], ["longer", "2"]]
    assert len(lines) == 2 + 6 * 3


def test_without_dropped_records_no_reasons_are_printed(capsys: Capture):
    show_reasons({LEFT_OUT: {"a": {}}, REMARKS: {}})
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PrepareResult:
    """Shards of five samples and a broken line, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("report")
    row = '{{"prompt": "What is {0} + 1?", "completion": "It is {1}."}}\n'
    chat = folder / "chat.jsonl"
    chat.write_text("".join(row.format(n, n + 1) for n in range(5)) + "broken\n")
    off = {"oasst1": "off", "alpaca": "off", "ultrafeedback": "off"}
    settings: dict[str, Any] = {**off, "chat": (str(chat),), "holdout": 0.0}
    return prepare(PrepareConfig(**settings, dedup="exact", out=folder / "my data"), ignore)


def test_the_result_ends_with_what_to_type_next(prepared: PrepareResult, capsys: Capture):
    report.show_prepare(prepared, json=False)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert words(lines, "chat.jsonl  ") == ["sft", "5", "·"]
    assert words(lines, "not JSON") == ["1"]
    last = f"Written: {prepared.out}. Next: gpt2chat sft --data '{prepared.out}'"
    assert lines[-1] == last


def test_the_trained_part_of_a_sample_is_marked_without_colours_too(
    prepared: PrepareResult, capsys: Capture
):
    report.show_samples(pick_samples(prepared.out, 1), json=False)
    text = capsys.readouterr().out
    untrained, trained = text.split("\n── trained ──\n")
    assert untrained.endswith("<|start_header_id|>assistant<|end_header_id|>")
    assert trained.startswith("It is ")
    assert trained.endswith(".<|eot_id|>\n")


def test_a_sample_cannot_act_on_the_terminal(capsys: Capture):
    sample = Shown("id", "\x1b[2J\x9b\x7f\ttab 会話 :smile: [red]\n", "\r\a", 9, 2)
    report.show_samples([sample], json=True)
    said = capsys.readouterr()
    assert said.out == ""
    body = "␛[2J\ufffd␡\ttab 会話 :smile: [red]\n── trained ──\n␍␇\n"
    assert said.err.expandtabs() == f"\nid: 9 tokens, 2 trained\n{body}".expandtabs()


def test_of_a_long_prompt_the_middle_is_left_out():
    lines = [f"line {n}" for n in range(100)]
    kept = shortened("\n".join(lines) + "\n").split("\n")
    assert len(kept) == MOST_LINES + 1
    assert kept[:40] == lines[:40]
    assert kept[40] == "[40 lines are not shown]"
    assert kept[-20:] == lines[-20:]
    assert shortened("\n".join(lines[:MOST_LINES]) + "\n") == "\n".join(lines[:MOST_LINES])


def test_without_a_terminal_on_stderr_there_is_no_live_line(capsys: Capture):
    with report.prepare_progress() as listen:
        listen(Progress("a", 0, note="a: :smile:"))
        listen(Progress("a", 500, 500, done=0.5))
    assert capsys.readouterr() == ("", "a: :smile:\n")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    screen = io.StringIO()
    environ = {"TERM": "xterm", "COLUMNS": "80"}
    live = Console(file=screen, force_terminal=True, width=80, _environ=environ)
    monkeypatch.setattr(progress, "err", live)
    return screen


def test_the_live_line_says_how_far_the_reading_is(terminal: io.StringIO):
    with report.prepare_progress() as listen:
        listen(Progress(":smile:[red]", 1500, 1500, done=0.25))
        listen(Progress(":smile:[red]", 6000, 4500, done=1.0))
    text = terminal.getvalue()
    assert "writing" in text
    assert "100% · 6,000 records" in text


def test_a_pace_is_that_of_the_last_seconds():
    pace = Pace()
    assert pace.add(0.0, 0) == 0
    assert pace.add(10.0, 1000) == 100
    for second in range(11, 60):
        pace.add(float(second), 1000 + 5 * (second - 10))
    assert pace.add(60.0, 1250) == 5


def test_the_numbers_of_the_live_line_never_fall():
    state = ReadingLine()
    assert state.line(Progress("a", 0), 0.0) == ""
    assert state.line(Progress("a", 2000), 2.0) == "2,000 records · 1,000/s"
    half = "50% · 4,000 records · 1,000/s"
    assert state.line(Progress("a", 4000, done=0.5), 4.0) == half
    # Told of ahead, then again as they are counted.
    assert state.line(Progress("a", 500, 500, done=0.25), 4.0).startswith("50% · 4,000 records")
    line = state.line(Progress("b", 2000, 2000, done=0.75), 6.0)
    assert line == "75% · 6,000 records · 1,000/s · 0:02 left"
    assert state.line(Progress("b", 2000, done=1.0), 7.0) == "100% · 6,000 records"


def step(**changes: Any) -> Step:
    values: dict[str, Any] = {
        "step": 1200, "steps": 36_000, "epoch": 1.25, "loss": 10.882, "validation_loss": 10.807,
        "tokens_per_second": 65_335.0, "utilisation": 0.37, "seconds_left": 45_296.0,
        "metrics": {"accuracy": 0.5}, **changes,
    }  # fmt: skip
    return Step(**values)


@pytest.mark.parametrize("columns", [40, 75, 95, 115])
def test_the_live_line_says_first_what_matters_and_fits(columns: int):
    line = step_line(step(), columns)
    assert line.startswith("1200/36000 · loss 10.882 · 12:34:56 left")
    assert len(line) <= columns


def test_the_live_line_has_all_figures_if_there_is_room():
    assert step_line(step(), 200) == (
        "1200/36000 · loss 10.882 · 12:34:56 left · validation 10.807 · accuracy 0.50 · "
        "65,335 tokens/s · 37% used · epoch 1.25"
    )


def test_positions_that_no_sample_reaches_are_said(tiny_data: Path, capsys: Capture):
    note_positions(tiny_data, 1024)
    assert capsys.readouterr().err == ""
    note_positions(tiny_data, 2048)
    said = capsys.readouterr().err
    assert "no sample of" in said
    assert "prepare it with --max-length 2048 too." in said


@pytest.mark.parametrize(("columns", "bar_there"), [(50, False), (140, True)])
def test_the_bar_gives_way_to_the_words(
    columns: int, bar_there: bool, monkeypatch: pytest.MonkeyPatch
):
    screen = io.StringIO()
    narrow = Console(file=screen, force_terminal=True, width=columns, color_system=None)
    monkeypatch.setattr(training, "err", narrow)
    with training_progress("orpo") as (on_step, *_):
        on_step(step(step=36_000))
    shown = screen.getvalue().rpartition("orpo ")[2]
    assert "12:34:56 left" in shown
    assert "…" not in shown
    assert ("━━━━━━━━" in shown) is bar_there


def test_the_live_line_says_that_a_run_validates(monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()
    monkeypatch.setattr(training, "err", Console(file=screen, force_terminal=True, width=80))
    with training_progress("sft") as (*_, on_validate):
        on_validate()
    assert "validating" in screen.getvalue()
