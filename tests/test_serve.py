"""The server over real connections: OpenAI's routes, the window, votes, wrong requests."""

import json
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.serve.app import create_app
from gpt2chat.serve.models import Models
from gpt2chat.serve.run import Server, bind

HI = [{"role": "user", "content": "Hi"}]


class Running:
    """A server on a free port of the loopback interface, in a thread."""

    def __init__(self, folder: Path, key: str | None = None, **settings: Any):
        self.settings = ServeConfig(port=0, **settings)
        self.models = Models(self.settings, [str(folder)])
        app = create_app(self.settings, self.models, key)
        config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
        started = threading.Event()
        self.url = ""

        def on_start(url: str) -> None:
            self.url = url
            started.set()

        self.server = Server(config, on_start)
        sockets = [bind("127.0.0.1", 0)]
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": sockets})
        self._thread.start()
        assert started.wait(60)
        self.client = httpx.Client(base_url=self.url, timeout=120)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self._thread.join(60)


@pytest.fixture(scope="module")
def served(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    running = Running(tiny_folder, feedback=tmp_path_factory.mktemp("votes") / "feedback.jsonl")
    yield running
    running.close()


def test_a_chat_completion_has_the_shape_of_openai(served: Running):
    answer = served.post("/v1/chat/completions", messages=HI, max_tokens=4, seed=1).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4


def test_a_stream_has_the_text_of_the_whole_reply(served: Running):
    asked = {"messages": HI, "max_tokens": 8, "seed": 1}
    whole = served.post("/v1/chat/completions", **asked).json()["choices"][0]["message"]["content"]
    streamed = served.post("/v1/chat/completions", **asked, stream=True).text.split("\n\n")
    assert streamed[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in streamed[:-2]]
    assert (
        "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).strip()
        == whole
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": HI, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": HI, "temperature": "hot"}, "temperature"),
        ({"messages": "Hi"}, "messages"),
        ({}, "messages"),
    ],
)
def test_a_parameter_that_cannot_be_honoured_is_refused(
    served: Running, body: dict[str, Any], param: str
):
    response = served.post("/v1/chat/completions", **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_an_unknown_model_is_not_found(served: Running):
    response = served.post("/v1/chat/completions", model="nosuch", messages=HI)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
def test_requests_of_other_sites_are_refused(served: Running, headers: dict[str, str]):
    assert served.client.get("/v1/models", headers=headers).status_code == 403


def test_a_reply_is_scored_to_its_end(served: Running):
    messages = [*HI, {"role": "assistant", "content": "Hello you"}]
    asked = {"messages": messages, "top_logprobs": 2}
    tokens = served.post("/v1/score", **asked).json()["content"]
    assert [each["token"] for each in tokens] == ["Hello", " you", "<|eot_id|>"]
    assert all(len(each["top_logprobs"]) == 2 for each in tokens)
    long = [*HI, {"role": "assistant", "content": "word " * 2000}]
    refusals = [served.post("/v1/score", messages=some) for some in (HI, long)]
    assert [each.json()["error"]["param"] for each in refusals] == ["messages", "messages"]


def test_the_list_of_models_has_the_sampling_of_a_request_that_sets_none(served: Running):
    (model,) = served.client.get("/v1/models").json()["data"]
    assert model["sampling"]["temperature"] == served.settings.sampling.temperature
