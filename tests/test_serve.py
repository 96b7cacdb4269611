"""The server over real connections: OpenAI's routes, the window, votes, wrong requests."""

import asyncio
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.errors import CheckpointError, ConfigError
from gpt2chat.core.text.conversations import Conversation, Message
from gpt2chat.core.text.tokens import encode_conversation, encode_text
from gpt2chat.serve.app import create_app
from gpt2chat.serve.models import Models
from gpt2chat.serve.run import Server, bind
from gpt2chat.serve.run import run as run_server

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


def test_the_oldest_turns_leave_the_window_and_the_response_says_so(served: Running):
    talk = [
        {"role": role, "content": f"{at} " + "word " * 90}
        for at in range(8)
        for role in ("user", "assistant")
    ]
    messages = [{"role": "system", "content": "Be brief."}, *talk, *HI]
    response = served.post("/v1/chat/completions", messages=messages, max_tokens=64)
    dropped = int(response.headers["x-dropped-messages"])
    usage = response.json()["usage"]
    assert dropped == usage["prompt_tokens_details"]["dropped_messages"] > 0
    assert usage["prompt_tokens"] + 64 <= 1024
    window = served.post("/v1/window", messages=messages, max_tokens=64).json()
    assert window["dropped"] == list(range(1, 1 + dropped))
    assert window["leaves_next"] == [1 + dropped, 2 + dropped]
    assert window["used"] == usage["prompt_tokens"]
    refused = served.post("/v1/chat/completions", messages=messages, truncation="disabled")
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert served.post("/v1/chat/completions", messages=HI, truncation="disabled").is_success


def test_the_window_of_an_empty_chat_is_reported(served: Running):
    window = served.post("/v1/window", messages=[{"role": "system", "content": "Be kind."}]).json()
    assert 0 < window["used"] < 40
    assert window["leaves_next"] == window["dropped"] == []


def test_choices_differ_and_repeat_with_the_seed(served: Running):
    asked = {"messages": HI, "max_tokens": 8, "seed": 3, "n": 3, "temperature": 2}
    answers = [served.post("/v1/chat/completions", **asked).json() for _ in range(2)]
    texts = [[each["message"]["content"] for each in answer["choices"]] for answer in answers]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
    assert answers[0]["usage"]["completion_tokens"] <= 24


def test_a_stop_text_ends_the_reply(served: Running):
    asked = {"prompt": "Rome", "max_tokens": 30, "seed": 1, "temperature": 2}
    whole = served.post("/v1/completions", **asked).json()["choices"][0]["text"]
    stop = whole[10:14]
    choice = served.post("/v1/completions", **asked, stop=[stop]).json()["choices"][0]
    assert choice == {
        "index": 0,
        "finish_reason": "stop",
        "text": whole[: whole.index(stop)],
        "logprobs": None,
    }


def test_log_probabilities_come_with_a_chat_and_with_an_echo(served: Running):
    asked = {"max_tokens": 2, "seed": 1, "temperature": 1}
    answer = served.post(
        "/v1/chat/completions", **asked, messages=HI, logprobs=True, top_logprobs=3
    ).json()
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert [len(each["top_logprobs"]) for each in tokens] == [3, 3]
    ids = encode_text("The history of Rome")
    for prompt in ("The history of Rome", ids):
        choice = served.post("/v1/completions", **asked, prompt=prompt, echo=True, logprobs=1)
        logprobs = choice.json()["choices"][0]["logprobs"]
        assert logprobs["tokens"][:4] == ["The", " history", " of", " Rome"]
        assert len(logprobs["tokens"]) == 6
        generator = served.models.load(served.models.pick(None)).generator
        expected = generator.logprobs(ids).tolist()
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["token_logprobs"][1:4] == pytest.approx(expected, abs=1e-4)
        assert choice.json()["choices"][0]["text"].startswith("The history of Rome")
    only = served.post("/v1/completions", prompt=ids, echo=True, logprobs=0, max_tokens=0).json()
    assert only["choices"][0]["text"] == "The history of Rome"
    assert len(only["choices"][0]["logprobs"]["tokens"]) == 4


def test_the_openai_client_works_as_it_is(served: Running):
    import openai

    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        name = client.models.list().data[0].id
        assert name == served.models.pick(None)
        stream = client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": "Hi"}],
            max_completion_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
        *_, last = stream
        assert last.usage is not None
        assert last.usage.completion_tokens <= 4
        with pytest.raises(openai.BadRequestError, match="tools"):
            client.chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": "Hi"}],
                tools=[{"type": "function", "function": {"name": "f"}}],
            )


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_streams(served: Running):
    body = json.dumps({"messages": HI, "max_tokens": 3, "stream": True})
    command = ["curl", "-sN", f"{served.url}/v1/chat/completions", "-d", body]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.endswith("data: [DONE]\n\n")


def test_votes_become_training_data(served: Running, tmp_path: Path):
    vote = {"messages": HI, "model": "tiny"}
    rows = [
        served.post("/v1/feedback", **vote, reply="Hello to you.", vote="good", reason="kind"),
        served.post("/v1/feedback", **vote, reply="What?", vote="bad"),
        served.post(
            "/v1/feedback",
            messages=[{"role": "user", "content": "And you?"}],
            chosen="I am fine.",
            rejected="No.",
            models={"chosen": "a", "rejected": "b"},
        ),
    ]
    assert [(each.status_code, each.json()["rows"]) for each in rows] == [
        (201, 1),
        (201, 2),
        (201, 1),
    ]
    same = served.post("/v1/feedback", messages=HI, chosen="Yes", rejected=" Yes ")
    assert same.status_code == 400
    settings = PrepareConfig(
        oasst1="off",
        alpaca="off",
        ultrafeedback="off",
        feedback=(str(served.settings.feedback),),
        holdout=0,
        out=tmp_path / "data",
    )
    prepare(settings, lambda _: None)
    (shard,) = (tmp_path / "data" / "preference").glob("train*.jsonl")
    assert len(shard.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"x" * (10 * 2**20), 413),
        (b"\xff\xfe", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"messages": [{"role": "tool", "content": "1"}]}', 400),
        (b'{"messages": [{"role": "user", "content": 5}]}', 400),
        (b'{"messages": [{"role": "user", "content": "Hi"}], "n": true}', 400),
        (b'{"messages": [{"role": "user", "content": "Hi"}], "top_p": NaN}', 400),
        (b'{"messages": [{"role": "user", "content": "' + b"a " * 3000 + b'"}]}', 400),
        (b'{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1e9}', 400),
    ],
)
def test_a_wrong_body_gets_the_right_status(served: Running, content: bytes, status: int):
    response = served.client.post("/v1/chat/completions", content=content)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_body_in_pieces_is_refused_once_it_is_too_large(served: Running):
    def pieces() -> Generator[bytes]:
        for _ in range(20):
            yield b" " * 2**19

    response = served.client.post("/v1/chat/completions", content=pieces())
    assert response.status_code == 413


def http_head(body: bytes, *more: str) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", *more]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()


def connect(served: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), 60)


def wait_until_idle(served: Running) -> None:
    scheduler = served.models.load(served.models.pick(None)).scheduler
    deadline = time.monotonic() + 120
    while scheduler.running or scheduler.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_half_a_body_and_a_client_that_vanishes_harm_nobody(served: Running):
    body = json.dumps({"messages": HI, "max_tokens": 900, "stream": True}).encode()
    head = http_head(body)
    with connect(served) as half:
        half.sendall(head + body[:10])
    with connect(served) as gone:
        gone.sendall(head + body)
        assert gone.recv(15) == b"HTTP/1.1 200 OK"
    wait_until_idle(served)
    assert served.post("/v1/chat/completions", messages=HI, max_tokens=2).is_success


def test_five_hundred_slow_clients_all_get_their_reply(served: Running):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    port = int(served.url.rpartition(":")[2])
    body = json.dumps({"messages": HI, "max_tokens": 3, "stream": True}).encode()
    ask = http_head(body, "Connection: close") + body

    async def slow_client(all_asked: asyncio.Barrier) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ask)
        await writer.drain()
        await all_asked.wait()  # nobody reads before everybody has asked
        answer = await reader.read()
        writer.close()
        return answer

    async def all_clients() -> list[bytes]:
        barrier = asyncio.Barrier(500)
        return await asyncio.gather(*(slow_client(barrier) for _ in range(500)))

    answers = asyncio.run(all_clients())
    assert sum(b"data: [DONE]" in answer for answer in answers) == 500
    wait_until_idle(served)


def test_a_full_queue_refuses_with_the_time_to_wait(tiny_folder: Path):
    running = Running(tiny_folder, queue=1)
    scheduler = running.models.load(running.models.pick(None)).scheduler
    with scheduler._lock:  # pyright: ignore[reportPrivateUsage]  # no pass begins meanwhile
        waits = threading.Thread(
            target=running.post, args=("/v1/chat/completions",), kwargs={"messages": HI}
        )
        waits.start()
        while not scheduler.waiting:
            time.sleep(0.01)
        refused = running.post("/v1/chat/completions", messages=HI)
    waits.join()
    running.close()
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_a_key_is_needed_where_one_is_set_and_other_pages_where_they_are_allowed(
    tiny_folder: Path,
):
    running = Running(tiny_folder, key="secret", cors_origin=("https://a.example",))
    statuses = [
        running.client.get(path, headers=headers).status_code
        for path, headers in [
            ("/v1/models", {}),
            ("/v1/models", {"authorization": "Bearer wrong"}),
            ("/v1/models", {"authorization": "Bearer secret"}),
            ("/metrics", {}),
            ("/health", {}),
            ("/", {}),
        ]
    ]
    allowed = running.client.get("/health", headers={"origin": "https://a.example"})
    running.close()
    assert statuses == [401, 401, 200, 401, 200, 200]
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"


def test_figures_are_there_for_prometheus(served: Running):
    served.post("/v1/chat/completions", messages=HI, max_tokens=2)
    lines = served.client.get("/metrics").text.splitlines()
    assert any(line.startswith('gpt2chat_tokens_total{kind="reply"') for line in lines)
    assert any(line.startswith("gpt2chat_running{") for line in lines)


@pytest.mark.parametrize(
    ("settings", "error", "name"),
    [
        ({"host": "0.0.0.0"}, ConfigError, "host"),
        ({"host": "nosuch.invalid"}, ConfigError, "host"),
        ({"api_key_file": "nosuch"}, ConfigError, "api_key_file"),
    ],
)
def test_a_server_that_must_not_start_says_why(
    settings: dict[str, Any], error: type[ConfigError], name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("GPT2CHAT_API_KEY", raising=False)
    with pytest.raises(error) as caught:
        run_server(ServeConfig(**settings), ["starter"], lambda _: None)
    assert caught.value.setting == name


def test_a_model_that_does_not_exist_is_reported_before_the_server_runs():
    with pytest.raises(CheckpointError):
        run_server(ServeConfig(), ["runs/nosuch"], lambda _: None)


@pytest.mark.slow
def test_sigterm_lets_a_running_reply_finish_and_logs_nothing_of_it(tiny_folder: Path):
    command = [
        sys.executable,
        "-m",
        "gpt2chat",
        "serve",
        "--port",
        "0",
        "--model",
        str(tiny_folder),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        url = lines[1].split()[2].rstrip(".")
        body = {"messages": HI, "max_tokens": 900, "stream": True, "temperature": 2, "seed": 1}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as stream:
            events = stream.iter_text()
            text = next(events)
            process.send_signal(signal.SIGTERM)
            text += "".join(events)
        assert text.endswith("data: [DONE]\n\n")
        assert process.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        assert "Hi" not in process.stderr.read()


def test_a_checkpoint_meets_what_vllm_requires_of_a_gpt_2(tiny_folder: Path):
    config = json.loads((tiny_folder / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    for setting in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"):
        assert not config[setting]
    assert not config["reorder_and_upcast_attn"]
    assert config["scale_attn_weights"]
    assert config.get("tie_word_embeddings", True)
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny_folder))
    ids = tokenizer.apply_chat_template(HI, add_generation_prompt=True, tokenize=True)
    rendered = ids["input_ids"] if not isinstance(ids, list) else ids
    conversation = Conversation((Message("user", "Hi"),))
    assert list(rendered) == encode_conversation(conversation).ids
