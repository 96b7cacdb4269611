"""Write docs/modules.md: each file of the package with the first sentence of its docstring."""

import ast
from pathlib import Path

PAGE = Path(__file__).with_name("modules.md")
PACKAGE = Path(__file__).parent.parent / "gpt2chat"
FOLDERS = sorted(file.parent.relative_to(PACKAGE) for file in PACKAGE.rglob("__init__.py"))

HEAD = """\
# Modules

Written by `make docs` from the first line of each file; a test holds the two together. Imports go
one way: the terminal (`commands`, `report`, `repl`, `dialogue`) and the server (`serve`) know the
core, and the core knows neither; [tests/test_layers.py](../tests/test_layers.py) lists what each
folder may import.
"""


def summary(path: Path) -> str:
    """Return the first paragraph of a file's docstring; empty if it has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for folder in FOLDERS:
        name = ("gpt2chat" / folder).as_posix()
        about = summary(PACKAGE / folder / "__init__.py")
        files = sorted(path for path in (PACKAGE / folder).glob("[!_]*.py"))
        rows = [f"| [{path.stem}](../{name}/{path.name}) | {summary(path)} |" for path in files]
        table = "\n".join(["| | |", "|---|---|", *rows]) + "\n"
        parts.append("\n".join([f"## {name}/", *(["", about] if about else []), "", table]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
