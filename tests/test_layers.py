"""Imports go one way, and the light modules stay light."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gpt2chat"


def part(name: str, modules: str) -> list[str]:
    return [f"{name}.{module}" for module in modules.split()]


# A core module imports only from modules before it.
ORDER = [
    *("errors", "files", "kernelcache"),
    *part("config", "settings prepare training evaluation sampling chat"),
    *("runs", "started"),
    *part("text", "wording conversations template tokens"),
    *part("inputs", "datafiles records hub_errors hub hh shapes oasst1 forest mend sources"),
    *part("data", "shards rows tally journal near samples parts trees work pool jobs selection"),
    *part("data", "histogram writer prepare"),
    *part(
        "model", "losses packing attention packed checkpoint lora flops device compiling weights"
    ),
    *part("model", "load"),
    *part("training", "tokenized objectives guard trackers metrics arguments trainer"),
    *part("training", "callbacks job memory plan curve lineage card train"),
    *part("generation", "sampling reply decoder kernels int8 engine graph generate"),
    *part("chat", "window chats session feedback"),
    *part("evaluation", "scoring statistics figures heldout replies speed evaluate"),
]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> list[Path]:
    return sorted((PACKAGE / "core").rglob("[a-z]*.py"))


def name_of(path: Path) -> str:
    """Return a core module's name, without what all their names begin with."""
    return ".".join(path.relative_to(PACKAGE / "core").with_suffix("").parts)


def test_every_core_module_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(map(name_of, modules()))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_core_module_imports_only_what_stands_before_it(path: Path):
    before = ORDER[: ORDER.index(name_of(path))]
    used = {
        name
        for name in ORDER
        if any(f"{found}.".startswith(f"gpt2chat.core.{name}.") for found in imports(path))
    }
    assert used <= set(before)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_the_core_knows_nothing_of_the_terminal(path: Path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"typer", "rich", "prompt_toolkit"}
    terminal = {"cli", "options", "report", "repl", "commands"}
    assert not {
        name
        for name in imports(path)
        if name.split(".")[1:2]
        and name.split(".")[0] == "gpt2chat"
        and name.split(".")[1] in terminal
    }


@pytest.mark.parametrize(("library", "owner"), [("rich", "report"), ("prompt_toolkit", "repl")])
def test_one_module_imports_each_terminal_library(library: str, owner: str):
    users = {
        path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users == {owner}


def test_two_modules_import_trl():
    users = {
        path.stem
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "trl" for name in imports(path))
    }
    assert users == {"arguments", "trainer"}
