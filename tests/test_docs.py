"""The pages say what the program does."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("commands", ROOT / "docs" / "commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_reference_is_what_help_prints():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert page == generator().page(), "Type make docs."


def test_the_readme_names_every_file_of_the_package():
    tree = (ROOT / "README.md").read_text(encoding="utf-8")
    files = [
        path.name
        for path in (ROOT / "gpt2chat").rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    assert [name for name in files if name.removesuffix(".py") not in tree] == []


def test_the_readme_has_a_length_one_reads():
    assert 120 <= len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_in_the_pages_is_one_that_the_program_has(page: Path):
    known = set(re.findall(r"--[a-z0-9][a-z0-9-]+", generator().page()))
    # torchrun's and pip's; then the benchmarks'.
    foreign = {"--nproc-per-node", "--constraint", "--config_file"}
    for file in (ROOT / "benchmarks").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        foreign |= set(re.findall(r'add_argument\("(--[a-z-]+)"', text))
    used = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]+", page.read_text(encoding="utf-8")))
    assert used - known - foreign == set()
