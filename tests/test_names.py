"""What the name of a model means."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.config.training import SftConfig
from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.files import STARTER
from gpt2chat.core.model.lora import add_lora, save_adapted
from gpt2chat.core.model.names import (
    is_base_model,
    is_hub_name,
    is_model_folder,
    known_models,
    local_folder,
    pick_model,
    resolve_model,
)
from gpt2chat.core.text.tokens import gpt2_vocabulary
from tests.helpers import tiny_model
from tests.test_runs import finished, unfinished


def adapter(folder: Path, base: str) -> Path:
    """Save an untrained adapter that names a base."""
    settings = SftConfig(model="starter", lora_r=4)
    save_adapted(add_lora(tiny_model(packed=True), settings), folder, merge=False)
    change(folder / "adapter_config.json", base_model_name_or_path=base)
    return folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_starter_is_a_base_model_with_gpt2s_window():
    model = resolve_model("starter")
    assert (model.name, model.path, model.window) == ("starter", STARTER, 1024)
    assert not model.is_chat
    assert model.base is None


def test_a_folder_that_we_saved_is_a_chat_model(tiny_folder: Path):
    model = resolve_model(str(tiny_folder))
    assert (model.path, model.is_chat) == (tiny_folder, True)


def test_an_adapter_has_the_window_of_its_base(folder: Path, tmp_path: Path):
    model = resolve_model(str(adapter(tmp_path / "adapter", str(folder))))
    assert model.base == resolve_model(str(folder))
    assert [one.path.name for one in model.lineage] == ["adapter", "model"]
    assert model.window == 1024


def test_an_adapter_of_a_base_model_was_trained_on_the_template(tmp_path: Path):
    assert resolve_model(str(adapter(tmp_path / "adapter", "starter"))).is_chat


def test_an_adapter_whose_base_moved_says_where_to_write_its_place(here: Path):
    with pytest.raises(CheckpointError, match=r"/gone/sft.*base_model_name_or_path") as caught:
        resolve_model(str(adapter(here / "adapter", "/gone/sft")))
    assert caught.value.setting == "model"


def test_an_adapter_that_moved_with_its_base_is_told_where_the_base_is(here: Path, folder: Path):
    with pytest.raises(CheckpointError, match=str(folder)):
        resolve_model(str(adapter(here / "adapter", "/gone/model")))


def test_an_adapter_of_itself_is_refused(here: Path):
    folder = adapter(here / "adapter", str(here / "adapter"))
    with pytest.raises(CheckpointError, match="base_model_name_or_path") as caught:
        resolve_model(str(folder))
    assert caught.value.setting == "model"


def test_a_name_is_the_starter_a_folder_or_a_name_on_the_hub(tmp_path: Path):
    assert local_folder("starter") == STARTER
    assert local_folder(str(tmp_path)) == tmp_path
    assert local_folder("gpt2") is local_folder("openai-community/gpt2") is None
    assert is_hub_name("gpt2")
    assert not any(map(is_hub_name, ("starter", str(tmp_path), "runs/gone", "./gone")))


@pytest.mark.parametrize("name", ["./nothing", "/nothing/at/all", "runs/sft", "~/nothing", ""])
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(name: str):
    with pytest.raises(CheckpointError) as caught:
        resolve_model(name)
    assert caught.value.setting == "model"


@pytest.mark.parametrize("name", ["zero\0byte", "a" * 5000])
def test_a_name_that_cannot_be_a_path_is_an_error_of_ours(name: str):
    with pytest.raises(CheckpointError):
        resolve_model(name)


@pytest.mark.skipif(sys.platform != "linux", reason="the file system takes only UTF-8")
def test_a_folder_whose_name_is_not_utf_8_is_refused(here: Path, tiny_folder: Path):
    shutil.copytree(tiny_folder, "model\udcff")
    with pytest.raises(CheckpointError) as error:
        resolve_model("model\udcff")
    assert error.value.setting == "model"


def test_a_mistyped_run_is_told_the_nearest_and_all_there_are(here: Path, tiny_folder: Path):
    for run in ("sft", "orpo"):
        shutil.copytree(tiny_folder, here / "runs" / run)
    with pytest.raises(CheckpointError, match=r"runs/orpo\b.*runs/sft, starter"):
        resolve_model("runs/orpoo")


def test_known_models_are_runs_and_adapters_that_have_weights_and_the_starter(
    here: Path, tiny_folder: Path
):
    assert known_models() == ["starter"]
    shutil.copytree(tiny_folder, here / "runs" / "whole")
    adapter(here / "runs" / "adapter", "starter")
    unfinished(here / "runs" / "unfinished", 5)
    assert known_models() == ["runs/adapter", "runs/whole", "starter"]
    assert is_model_folder("runs/adapter")
    assert not is_model_folder("runs/unfinished")


def test_runs_that_is_a_file_holds_no_models(here: Path):
    (here / "runs").touch()
    assert known_models() == ["starter"]


def test_a_model_that_is_named_is_taken_as_it_is():
    assert pick_model("starter", ("sft",)) == ("starter", "model: starter")


def test_the_newest_finished_run_is_picked_where_none_is_named(here: Path):
    finished(here / "runs" / "a", at="2026-01-02T00:00:00+00:00")
    finished(here / "runs" / "b", at="2026-01-01T00:00:00+00:00")
    assert pick_model("", ("sft",))[0] == "runs/a"


def test_no_finished_run_names_the_function_to_call(here: Path):
    with pytest.raises(CheckpointError, match=r"`sft\(\)`"):
        pick_model("", ("sft",))


def test_an_unfinished_run_says_how_to_resume_it(here: Path):
    unfinished(here / "runs" / "sft", 5, 10)
    with pytest.raises(CheckpointError, match=r"resume.*checkpoint-10"):
        resolve_model("runs/sft")


@pytest.mark.parametrize("content", [None, b"{}", b'{"model_type": null}'])
def test_a_folder_without_an_architecture_is_refused(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="model_type" if content else "missing"):
        resolve_model(str(tmp_path))


def test_another_architecture_is_named(folder: Path):
    change(folder / "config.json", model_type="llama")
    with pytest.raises(CheckpointError, match="llama"):
        resolve_model(str(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_another_vocabulary_of_the_same_size_is_refused(folder: Path, name: str):
    vocabulary = gpt2_vocabulary() | {"Ġthe": 257, "Ġa": 262}
    (folder / "tokenizer.json").unlink()
    content = {"model": {"vocab": vocabulary}, "added_tokens": []}
    (folder / name).write_text(json.dumps(vocabulary if name == "vocab.json" else content))
    with pytest.raises(CheckpointError, match="GPT-2's own tokenizer"):
        resolve_model(str(folder))


def test_a_tokenizer_of_another_kind_is_refused(folder: Path):
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").touch()
    with pytest.raises(CheckpointError, match="GPT-2's own tokenizer"):
        resolve_model(str(folder))


def test_a_folder_without_a_tokenizer_is_what_its_config_says(folder: Path):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert resolve_model(str(folder)).is_chat
    change(folder / "config.json", eos_token_id=50256)
    assert not resolve_model(str(folder)).is_chat


@pytest.mark.parametrize("rows", [50_258, 50_304])
def test_rows_beyond_gpt2s_are_counted_and_can_be_dropped(folder: Path, rows: int):
    change(folder / "config.json", vocab_size=rows)
    with pytest.raises(CheckpointError, match=rf"{rows:,}.*resize_token_embeddings"):
        resolve_model(str(folder))


def test_seven_tokens_of_another_template_are_not_taken_for_ours(folder: Path):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["content"] = token["content"].replace("<|", "[")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="resize_token_embeddings"):
        resolve_model(str(folder))


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_weights_in_a_pickle_are_not_opened_and_can_be_converted(folder: Path, pickle: str):
    (folder / "model.safetensors").rename(folder / pickle)
    with pytest.raises(CheckpointError, match=f"{pickle}.*save_pretrained"):
        resolve_model(str(folder))


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        resolve_model(str(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_read_permission_is_one_line(folder: Path):
    folder.chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        resolve_model(str(folder))


def test_a_file_is_not_a_model(folder: Path):
    with pytest.raises(CheckpointError) as caught:
        resolve_model(str(folder / "config.json"))
    assert caught.value.setting == "model"


def test_a_base_model_is_known_without_a_download(tiny_folder: Path):
    assert is_base_model("starter")
    assert is_base_model(str(STARTER))
    assert is_base_model("openai-community/gpt2")
    assert not is_base_model(str(tiny_folder))
    assert not is_base_model("someone/gpt2-chat")
