"""Imports go one way, in every folder, and the terminal's libraries stay where they belong."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gpt2chat"

# What each folder, or file beside the folders, may import besides itself. A folder of the core
# may import the ones that its line names and no other, whatever their order.
FILES = "errors files kernelcache display limits"
DATA = f"{FILES} config text inputs data"
MODEL = f"{FILES} config text runs model"
ALLOWED = {
    "core.errors": "",
    "core.files": "errors",
    "core.kernelcache": "",
    "core.display": "",
    "core.limits": "errors",
    "core.config": "errors",
    "core.runs": "errors files config",
    "core.text": FILES,
    "core.inputs": f"{FILES} config text",
    "core.data": DATA,
    "core.model": MODEL,
    "core.training": f"{DATA} {MODEL}",
    "core.generation": MODEL,
    "core.chat": f"{MODEL} generation",
    "core.evaluation": f"{DATA} {MODEL} generation chat",
    "core.export": f"{DATA} {MODEL} generation evaluation training",
}
# Above the core: each may import all of the core, and of its neighbours these.
ABOVE = {
    "api": "",
    "threads": "",
    "interrupts": "",
    "environment": "",
    "commandline": "",
    "report": "commandline",
    "options": "commandline",
    "dialogue": "report threads interrupts",
    "telegram": "",
    "repl": "report dialogue interrupts",
    "serve": "",
    "commands": "options environment report dialogue repl interrupts serve telegram",
    "cli": "commands options report threads",
    "__main__": "cli",
}


def modules() -> dict[str, Path]:
    """Return every module by its name without the package's own, such as "core.text.template"."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str, known: dict[str, Path]) -> set[str]:
    """Return the modules of this package that a module imports, packages left out where a module
    of theirs is meant."""
    used = {used.removeprefix("gpt2chat.") for used in imports(known[name])} & known.keys()
    return {
        module for module in used if not any(other.startswith(f"{module}.") for other in used)
    } - {name}


def unit(name: str) -> str:
    """Return the folder or file that the table has: "core.text" for core.text.template."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "core" else parts[0]


@pytest.mark.parametrize("name", [name for name in modules() if name != "core"])
def test_a_module_imports_only_what_its_folder_may(name: str):
    used = {unit(module) for module in own_imports(name, modules())} - {unit(name), "core"}
    if unit(name) in ALLOWED:
        assert used <= {f"core.{allowed}" for allowed in ALLOWED[unit(name)].split()}
    else:
        assert {use for use in used if not use.startswith("core.")} <= set(
            ABOVE[unit(name)].split()
        )


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    remaining = {name: own_imports(name, known) for name in known}
    while free := {name for name, used in remaining.items() if not used & remaining.keys()}:
        remaining = {name: used for name, used in remaining.items() if name not in free}
    assert not remaining


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("core.")])
def test_the_core_imports_no_library_of_the_terminal(name: str):
    roots = {used.split(".")[0] for used in imports(modules()[name])}
    assert not roots & {"typer", "click", "rich", "prompt_toolkit"}


@pytest.mark.parametrize(("library", "owner"), [("rich", "report"), ("prompt_toolkit", "repl")])
def test_one_folder_imports_each_terminal_library(library: str, owner: str):
    users = {
        unit(name)
        for name, path in modules().items()
        if any(used.split(".")[0] == library for used in imports(path))
    }
    assert users == {owner}


def test_two_modules_import_trl():
    users = {
        path.stem
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "trl" for name in imports(path))
    }
    assert users == {"arguments", "trainer"}
