"""Find the control groups that limit this process, as those of a container do."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
"""Folder in which the groups are mounted."""
GROUPS = Path("/proc/self/cgroup")
"""File that names the groups of this process."""


def control_groups(controller: str, root: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups, and of the groups around them.

    Args:
        controller: `memory` or `cpu`. Version 1 has groups of their own for each.
        root, groups: ROOT and GROUPS, except in tests.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        # Version 2 has one line, `0::/name`; version 1 has one line for each set of controllers.
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        folder = top / name.lstrip("/")
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top))
