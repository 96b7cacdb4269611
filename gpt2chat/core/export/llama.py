"""Run a GGUF file in llama.cpp, through the server that the package xllamacpp contains."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import torch

from gpt2chat.core.evaluation.statistics import FloatArray
from gpt2chat.core.export.runtime import Continuation, continuation
from gpt2chat.core.text.conversations import Conversation
from gpt2chat.core.text.tokens import EOT_ID, VOCAB, decode


class Llama:
    """llama.cpp's server with a file, on a free port of this machine, until the context ends."""

    def __init__(self, file: Path):
        self.name = f"llama.cpp, xllamacpp {version('xllamacpp')}"
        import xllamacpp

        library: Any = xllamacpp
        settings = library.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx = 0  # the window that the file says
        settings.n_parallel = 1
        # The original runs on the CPU too.
        settings.n_gpu_layers = 0
        settings.port = 0
        settings.warmup = False
        settings.verbosity = -1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
        self._server = library.Server(settings)
        self._address = self._server.listening_address
        # Not through a proxy: it runs on this machine.
        self._open = build_opener(ProxyHandler({})).open

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._server

    def prompt(self, conversation: Conversation) -> str:
        return self.ask("/apply-template", messages=conversation.as_dicts())["prompt"]

    def encode(self, conversation: Conversation) -> list[int]:
        text = self.prompt(conversation)
        # As its chat does: names of special tokens are these tokens.
        return self.ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def logprobs(self, ids: Sequence[int], start: int) -> FloatArray:
        # The server reports the log-probability of the token that it draws, so each one is drawn
        # by force. What it reports is from before the bias. It keeps the prompt's beginning.
        values: list[float] = []
        for at in range(start, len(ids)):
            # Of a token that ends within a character it reports nothing. Another one is drawn in
            # its place, and all tokens are reported, which takes longer.
            partial = "\ufffd" in decode([ids[at]])
            answer = self.ask(
                "/completion", prompt=list(ids[:at]), n_predict=1, temperature=0, cache_prompt=True,
                n_probs=VOCAB if partial else 1,
                logit_bias=[[EOT_ID if partial else ids[at], 1e6]],
            )  # fmt: skip
            (drawn,) = answer["completion_probabilities"]
            chances = {each["id"]: each["logprob"] for each in (drawn, *drawn["top_logprobs"])}
            values.append(chances[ids[at]])
        return np.array(values)

    def reply(self, prompt: Sequence[int], limit: int) -> Continuation:
        answer = self.ask(
            "/completion", prompt=list(prompt), n_predict=limit, temperature=0, return_tokens=True
        )
        return continuation(answer["tokens"])

    def ask(self, path: str, **body: Any) -> Any:
        """Return the server's answer to a request."""
        headers = {"Content-Type": "application/json"}
        request = Request(self._address + path, json.dumps(body).encode(), headers)
        # A connection for each request: the server ends one that is idle for some seconds.
        with self._open(request) as response:
            return json.loads(response.read())
