"""Define the ways to generate that are compared: programs with their settings."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from page import UNBOUNDED

from decoding.decoders import CTranslate2, Decoder, Gpt2chat, Transformers
from decoding.llama import LlamaCpp
from gpt2chat.core.config.chat import ChatPrecision

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Way:
    """A program and its settings: one row of the tables."""

    title: str
    package: str
    """The package whose version the page names."""
    load: Callable[[Path, torch.device], Decoder]
    """The function that loads the model from a folder."""
    needs: tuple[str, ...] = ()
    """Modules that may not be installed."""
    devices: tuple[str, ...] = DEVICES
    """Devices on which it is measured by default."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Environment variables of its process."""

    @property
    def lacking(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def ours(title: str, precision: ChatPrecision, devices: tuple[str, ...], **settings: bool) -> Way:
    load = partial(Gpt2chat, precision=precision, **settings)
    return Way(title, "gpt2chat", load, devices=devices)


def hf(title: str, dtype: str, cache: str) -> Way:
    load = partial(Transformers, dtype=dtype, cache=cache)
    return Way(title, "transformers", load, environment=UNBOUNDED)


def llama(title: str, load: Callable[[Path, torch.device], Decoder], **settings: Any) -> Way:
    return Way(title, "llama-cpp-python", load, ("llama_cpp", "gguf"), **settings)


WAYS = {
    "gpt2chat": ours("gpt2chat", "auto", DEVICES),
    "gpt2chat-compiled": ours("gpt2chat, compiled", "auto", ("cuda",), compiled=True),
    "gpt2chat-fp32": ours("gpt2chat, float32", "fp32", DEVICES),
    "gpt2chat-bf16": ours("gpt2chat, bf16", "bf16", ()),
    "gpt2chat-int8": ours("gpt2chat, int8", "int8", ()),
    "transformers-fp32": hf("transformers, float32", "float32", "dynamic"),
    "transformers-fp32-static": hf("transformers, float32, static cache", "float32", "static"),
    "transformers-bf16": hf("transformers, bf16", "bfloat16", "dynamic"),
    "transformers-bf16-static": hf("transformers, bf16, static cache", "bfloat16", "static"),
    "ctranslate2": Way("CTranslate2, int8", "ctranslate2", CTranslate2, ("ctranslate2",)),
    "llama.cpp": llama("llama.cpp, Q8_0", LlamaCpp),
    # glibc then asks Linux for huge pages, which a file's mapping does not get.
    "llama.cpp-huge": llama(
        "llama.cpp, Q8_0, huge pages", partial(LlamaCpp, mapped=False), devices=("cpu",),
        environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    ),
}  # fmt: skip
OURS = "gpt2chat"
"""The way that all others are compared with: the Generator's default."""


def version_of(way: Way) -> str:
    """Return the package and version behind a way."""
    return f"{way.package} {version(way.package)}"
