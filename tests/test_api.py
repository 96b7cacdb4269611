"""The public API: what `import gpt2chat` offers, and that the commands' functions work anywhere."""

import inspect
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpt2chat
from gpt2chat.core.config.training import SftConfig
from gpt2chat.core.training.callbacks import Step

PUBLIC = {
    *("load", "prepare", "sft", "orpo", "evaluate", "export", "list_runs", "__version__"),
    *("Chat", "ChatModel", "Reply", "TrainedModel", "PrepareResult", "Evaluation", "Export"),
    *("Gpt2ChatError", "ConfigError", "DataError", "CheckpointError", "HardwareError"),
    *("StorageError", "NetworkError", "WorkerError", "ReplyError", "ExportError", "Interrupted"),
}


def test_the_public_names_are_these_and_all_can_be_imported():
    assert set(gpt2chat.__all__) == PUBLIC
    assert all(hasattr(gpt2chat, name) for name in PUBLIC)
    assert set(dir(gpt2chat)) >= PUBLIC


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = gpt2chat.nothing


def test_importing_the_package_loads_nothing_heavy():
    code = "import gpt2chat, sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "numpy", "typer", "rich", "datasets", "pyarrow", "tqdm"}
    assert not heavy & set(loaded.stdout.split())


def test_a_function_has_the_settings_of_its_command_as_parameters():
    parameters = inspect.signature(gpt2chat.sft).parameters
    assert parameters["lr"].default == SftConfig.lr
    assert parameters["on_step"].default is None


@pytest.mark.parametrize(
    ("call", "setting"),
    [
        (lambda: gpt2chat.sft(lr=0), "lr"),
        (lambda: gpt2chat.sft(epochs="three"), "epochs"),
        (lambda: gpt2chat.prepare(out=3), "out"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(call: Callable[[], object], setting: str):
    with pytest.raises(gpt2chat.ConfigError) as raised:
        call()
    assert raised.value.setting == setting


def test_an_unknown_setting_is_an_error_that_suggests_the_nearest():
    with pytest.raises(gpt2chat.ConfigError, match="lr"):
        gpt2chat.orpo(learning_rat=1)


def in_a_thread(work: Callable[[], object]) -> None:
    """Run something in a thread that is not the main one, and raise what it raises."""
    errors: list[BaseException] = []

    def catch() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=catch)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.mark.slow
def test_the_whole_path_works_in_another_thread_and_twice(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    steps: list[int] = []

    def note_step(step: Step) -> None:
        steps.append(step.step)

    def path(out: Path) -> None:
        few: dict[str, Any] = {
            "data": tiny_data,
            "evals": 1,
            "eval_samples": 4,
            "limit": 8,
            "epochs": 1,
        }
        first = gpt2chat.sft(model=tiny_folder, out=out / "sft", on_step=note_step, **few)
        second = gpt2chat.orpo(model=first, out=out / "orpo", **few)
        reply = second.load(device="cpu").chat().ask("Hello")
        assert reply.tokens > 0
        measured = gpt2chat.evaluate(
            second,
            against=[first],
            data=tiny_data,
            limit=4,
            generations=0,
            speed=False,
            out=out / "eval.json",
        )
        assert [model.model for model in measured.models] == [str(second.path), str(first.path)]

    in_a_thread(lambda: path(tmp_path / "one"))
    path(tmp_path / "two")
    assert steps


def test_training_prints_nothing_and_shows_its_figures_as_text_and_as_html(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = gpt2chat.sft(
        model=tiny_folder, data=tiny_data, out=tmp_path / "<run>", limit=4, epochs=1, evals=1
    )
    assert f"run: {tmp_path}/<run>" in str(run)
    assert capsys.readouterr() == ("", "")
    assert "&lt;run&gt;" in run._repr_html_()  # pyright: ignore[reportPrivateUsage]


def test_prepare_returns_the_folder_and_its_counts(tmp_path: Path):
    notes: list[str] = []
    result = gpt2chat.prepare(
        sample=True, out=tmp_path / "data", on_progress=lambda progress: notes.append(progress.note)
    )
    assert result.out == tmp_path / "data"
    assert result.manifest.rows("sft", "train") > 0
    assert any(notes)
    assert str(result).splitlines()[0].split() == [str(result.out), "train", "validation"]
    assert "sft: oasst1" in result._repr_html_()  # pyright: ignore[reportPrivateUsage]
