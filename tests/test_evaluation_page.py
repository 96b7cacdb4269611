"""The page of an evaluation: self-contained, with everything the result has."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpt2chat.cli import app
from gpt2chat.core.model.checkpoint import save_model
from tests.helpers import tiny_model

VOID = {"meta", "input", "br", "line", "circle", "path", "polyline"}


class Tags(HTMLParser):
    """Collects the names of the elements, and checks that each is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def close(self) -> None:
        super().close()
        assert self._open == []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> str:
    """The page of two models, the first of which has a name in need of escaping and a curve."""
    folder = tmp_path_factory.mktemp("page")
    for name, seed in {"<b>first": 0, "second": 1}.items():
        save_model(tiny_model(seed=seed), folder / name)
    steps = [{"step": step, "loss": 5 - step / 10} for step in range(1, 9)]
    (folder / "<b>first/metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt2chat.core.evaluation.replies.MAX_NEW_TOKENS", 4)
        result = CliRunner().invoke(
            app,
            ["eval", "--model", str(folder / "<b>first"), "--against", str(folder / "second"),
             "--data", str(tiny_data), "--generations", "1", "--no-speed",
             "--html", str(folder / "page.html")],
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    return (folder / "page.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_loads_nothing(page: str):
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert not {"script", "link", "img", "iframe"} & set(tags.names)
    assert "http" not in page
    assert "url(" not in page
    assert "<b>" not in page


def test_the_page_has_figures_with_definitions_differences_and_a_curve(page: str):
    for text in ("perplexity of replies", "exp(Σ loss / Σ tokens)", "minus the other", "preference "
                 "accuracy", "Training loss of", "instructions kept"):  # fmt: skip
        assert text in page


def test_the_page_has_each_answer_with_the_probability_of_each_token(page: str):
    assert "What’s the best way to learn Python?" in page
    answers = page.count('class="answer"')
    assert answers == 2 * page.count('class="question"') == 2 * 37
    assert 0 < page.count('title="0.') <= 4 * answers
