"""The pages say what the program does."""

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import pytest
from pyte import Screen, Stream

from gpt2chat.core.chat.model import load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def all_help() -> str:
    """Return the help of all commands, a process each, as docs/commands.md has it."""
    return script("commands").page()


def test_the_command_reference_is_what_help_prints():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert page == all_help(), "Type make docs."


def test_the_help_shows_defaults_as_one_types_them():
    assert "[default: data]" in all_help()
    assert "default: (" not in all_help()


def test_the_list_of_modules_is_what_they_say_of_themselves():
    page = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
    assert page == script("modules").page(), "Type make docs."
    files = (ROOT / "gpt2chat").rglob("[!_]*.py")
    assert [path.name for path in files if f"/{path.name})" not in page] == []
    assert "|  |" not in page, "A file does not say what it is."


def test_the_readme_names_every_folder_of_the_package():
    tree = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "gpt2chat").rglob("*.py")}
    assert [name for name in folders if f"{name}/" not in tree] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    for path, anchor in links:
        if "://" not in path:
            target = page.parent / path if path else page
            assert target.exists(), path
            assert not anchor or anchor in anchors(target), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_in_the_pages_is_one_that_the_program_has(page: Path):
    known = set(re.findall(r"--[a-z0-9][a-z0-9-]+", all_help()))
    # torchrun's, pip's, accelerate's, llama.cpp's, systemd's, Docker's, vLLM's, llm's and
    # lm_eval's; then those of scripts.
    foreign = {"--nproc-per-node", "--constraint", "--config_file", "--presence-penalty"}
    foreign |= {
        "--user",
        "--now",
        "--create-home",
        "--chown",
        "--extra-index-url",
        "--no-cache-dir",
    }
    foreign |= {"--generation-config", "--key", "--max-model-len", "--tasks"}
    for file in (*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py")):
        text = file.read_text(encoding="utf-8")
        foreign |= set(re.findall(r'add_argument\("(--[a-z-]+)"', text))
    used = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]+", page.read_text(encoding="utf-8")))
    assert used - known - foreign == set()


def test_the_recorded_chat_is_small_and_needs_nothing_from_elsewhere():
    picture = ROOT / "docs" / "chat.svg"
    assert picture.stat().st_size < 200_000
    text = picture.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search("Traceback|WARNING|error:|/tmp|/home", text)


def test_a_screen_becomes_a_picture_of_its_text_in_colour():
    record = script("record")
    terminal = SimpleNamespace(screen=Screen(record.COLUMNS, 3), rows=["> a <b>  red", "", "meter"])
    Stream(terminal.screen).feed("> a <b> \x1b[1;31mred\x1b[0m\r\n\r\nmeter")
    text = record.picture(terminal)
    words = "".join(ElementTree.fromstring(text).itertext()).split()
    assert {"red", "meter", "<b>"} <= set(" ".join(words).replace("\xa0", " ").split())
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_showcase_has_every_reply_as_the_model_gave_it(tiny_folder: Path, tmp_path: Path):
    showcase, models = script("showcase"), [load(tiny_folder, device="cpu", precision="fp32")] * 2
    page = showcase.page(models, 3, 8, "python docs/showcase.py")
    questions = (*showcase.REFERENCE, *showcase.MORE)
    assert len(questions) == 13
    for question in questions:
        reply = models[0].chat(seed=3, max_new_tokens=8).ask(question)
        assert page.count(f"```text\n{reply}\n```") >= 2
        assert f"### {question}\n" in page


def test_a_reply_with_a_fence_stays_within_its_own():
    reply = SimpleNamespace(text="Use ```python\nprint()\n```")
    assert script("showcase").fenced(reply).startswith("````text\nUse ```python")
