"""The examples of docs/langchain.md run as they are printed."""

import re
import shutil
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.serve.app import create_app
from gpt2chat.serve.models import Models
from gpt2chat.serve.run import Server, bind

pytest.importorskip("langchain_openai", reason="needs langchain-openai: pip install '.[dev]'")
pytest.importorskip("langgraph", reason="needs langgraph: pip install '.[dev]'")

PAGE = (Path(__file__).parent.parent / "docs" / "langchain.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def served(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """The address of a server with the tiny model as runs/orpo."""
    shutil.copytree(tiny_folder, tmp_path / "runs" / "orpo")
    monkeypatch.chdir(tmp_path)
    settings = ServeConfig(port=0)
    app = create_app(settings, Models(settings, ["runs/orpo"]), None)
    address, started = list[str](), threading.Event()

    def on_start(url: str) -> None:
        address.append(url)
        started.set()

    server = Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"), on_start)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bind("127.0.0.1", 0)]})
    thread.start()
    assert started.wait(300)
    yield address[0]
    server.should_exit = True
    thread.join(300)


def test_a_langgraph_memory_works_with_the_server(served: str, capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {}
    first, second = BLOCKS[:2]
    first = first.replace("http://127.0.0.1:8000", served)
    exec(first.replace("max_tokens=60", "max_tokens=6"), names)
    exec(second, names)
    state = names["bot"].get_state(names["thread"]).values["messages"]
    assert [message.type for message in state] == ["human", "ai"] * 3
    printed = "".join(capsys.readouterr().out.split())
    said = [message.content for message in state if message.type == "ai"]
    assert printed == "".join("".join(said).split())


def test_a_model_in_the_same_process_answers_and_streams(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(tiny_folder, tmp_path / "runs" / "orpo")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(BLOCKS[2].replace('"max_new_tokens": 60', '"max_new_tokens": 6, "seed": 1'), names)
    llm, asked = names["llm"], [("user", "Hi"), ("ai", "Hello."), ("user", "And now?")]
    whole = llm.invoke(asked).content
    assert "".join(piece.content for piece in llm.stream(asked)).strip() == whole
    model, history = llm.model, [{"role": "user", "content": "Hi"}]
    history.append({"role": "assistant", "content": "Hello."})
    chat = model.chat(messages=history, seed=1, max_new_tokens=6)
    assert str(chat.ask("And now?")) == whole
