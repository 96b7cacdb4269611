"""The page "A bot from your own fifty rows" works as it is written."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpt2chat.cli import app

PAGE = (Path(__file__).parent.parent / "docs" / "own-bot.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_every_command_of_the_page_runs_in_its_order_without_network(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(tiny_folder, "runs/sft")
    rows = [json.loads(line) for line in blocks("json")[0].splitlines()]
    fifty = [{**rows[n % 3], "prompt": f"{rows[n % 3]['prompt']} ({n})"} for n in range(50)]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in fifty))
    noted = {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello", "label": True}
    Path("feedback.jsonl").write_text(json.dumps(noted) + "\n")
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        assert command[0] == "gpt2chat"
        result = CliRunner().invoke(app, command[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    manifest = json.loads(Path("data/mine/manifest.json").read_text())
    assert sum(manifest["counts"]["sft"]["mine.jsonl"].values()) == 50
