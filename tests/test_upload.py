"""An upload puts the listed files, and no others, into a repository that is private by default."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

import gpt2chat
from gpt2chat.core.errors import ConfigError, NetworkError
from gpt2chat.core.export import export as exporting
from gpt2chat.core.export.export import Export
from gpt2chat.core.export.hub_card import hub_card
from gpt2chat.core.model.checkpoint import save_model
from tests.helpers import tiny_model
from tests.hub_server import Fault, Hub

TOKEN = "hf_of_me"


@pytest.fixture
def own_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub on which `me` is logged in."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Fewer comparisons than a user gets: this is about the upload.
    monkeypatch.setattr(exporting, "TOKENS", 60)
    hub.users[TOKEN] = "me"
    return hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder like a run's, with files that must stay on this machine."""
    folder = tmp_path / "bot"
    save_model(tiny_model(), folder)
    (folder / "feedback.jsonl").write_text("secret\n")
    (folder / "run.toml").write_text('model = "gpt2"\ndata = "gone"\n')
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: gpt2\n---\n# old\n")
    estimate = {"value": 31.5, "low": 30.0, "high": 33.0, "samples": 5, "groups": 4}
    result = {
        "models": [{"model": str(folder), "figures": {"perplexity": estimate}}],
        "split": "validation", "precision": "fp32", "finished": "2026-11-28T12:00:00",
    }  # fmt: skip
    (folder / "eval.json").write_text(json.dumps({"evaluations": [result]}))
    return folder


def send(run: Path, **settings: Any) -> tuple[Export, list[str]]:
    lines: list[str] = []
    settings = {"repo": "me/bot", **settings}
    return gpt2chat.export(run, to="hub", on_progress=lines.append, **settings), lines


def test_an_upload_is_listed_first_private_and_complete(own_hub: Hub, run: Path, tmp_path: Path):
    done, lines = send(run)
    sent = own_hub.repositories["models", "me/bot"]
    assert ("models", "me/bot") in own_hub.private
    assert sent.keys() == {name for name, _ in done.files}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= sent.keys()
    assert not {"feedback.jsonl", "run.toml"} & sent.keys()
    assert all(any(f" {name}, " in line for line in lines) for name in sent)
    assert done.path is None
    assert done.uploaded.startswith(f"{own_hub.url}/me/bot/commit/")
    assert {each.name for each in tmp_path.iterdir()} == {"bot"}


def test_a_dry_run_lists_the_same_files_and_sends_nothing(own_hub: Hub, run: Path):
    done, lines = send(run, dry_run=True)
    assert done.uploaded == ""
    assert any("README.md" in line for line in lines)
    assert ("models", "me/bot") not in own_hub.repositories
    assert not any(request.startswith(("POST", "PUT")) for request in own_hub.requests)


def test_a_public_repository_is_refused_before_any_work(own_hub: Hub, run: Path):
    own_hub.repositories["models", "me/bot"] = {}
    with pytest.raises(ConfigError) as raised:
        send(run)
    assert raised.value.setting == "private"
    assert own_hub.repositories["models", "me/bot"] == {}


def test_who_is_not_logged_in_is_told_before_any_work(
    own_hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(NetworkError, match="hf auth login"):
        send(run)


def test_a_hub_that_fails_is_an_error_of_one_line(own_hub: Hub, run: Path):
    own_hub.faults["me/bot"] = Fault(suffix="main", status=403)
    with pytest.raises(NetworkError, match="403"):
        send(run)


@pytest.mark.parametrize("settings", [{"repo": None}, {"out": "x"}, {"repo": "a/b/c"}])
def test_settings_that_do_not_fit_are_refused(own_hub: Hub, run: Path, settings: dict[str, Any]):
    with pytest.raises(ConfigError):
        send(run, **settings)


def test_the_card_has_the_licence_the_evaluation_the_data_and_an_example(run: Path):
    card = hub_card(str(run), "me/bot", 1_000, 1024, [])
    data: Any = ModelCard(card).data
    assert (data.license, data.base_model) == ("mit", "gpt2")
    assert "| perplexity of replies | 31.50 | 30.00 to 33.00 |" in card
    assert 'from_pretrained("me/bot")' in card
    assert "the data folder of bot, which is gone" in card


def test_the_card_names_data_sets_with_their_licences_and_no_local_file(
    run: Path, sample_data: Path, tiny_data: Path, tmp_path: Path
):
    manifest = json.loads((tiny_data / "manifest.json").read_text())
    manifest["inputs"][0].update(name="tatsu-lab/alpaca:train", revision="0" * 40)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    for data, lines in {
        sample_data: ["| OpenAssistant/oasst1, validation split | Apache-2.0 |"],
        tmp_path / "data": ["| tatsu-lab/alpaca | CC BY-NC 4.0", "| files of its own | unknown |"],
    }.items():
        (run / "run.toml").write_text(f'model = "gpt2"\ndata = "{data}"\n')
        card = hub_card(str(run), "me/bot", 1_000, 1024, [])
        assert all(line in card for line in lines)
        assert ".jsonl" not in card
