"""gpt2chat and its peers behind one call: prompts in, so many new tokens out, with their times.

A peer is no dependency of the project. What each needs, on the CPU:

    transformers   nothing: the project has it
    CTranslate2    pip install ctranslate2
    llama.cpp      pip install gguf llama-cpp-python (compiles for this processor)

All read the same folder. Each asks for the likeliest token, and for no end before the last one.
"""

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GPT2LMHeadModel
from transformers.generation.streamers import BaseStreamer

from decoding.tasks import Prompts, Timing, timing
from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.model.load import load_model


class Decoder(Protocol):
    """One program with one model on one device."""

    def run(self, prompts: Prompts, new: int) -> Timing:
        """Continue the prompts by `new` tokens each."""
        ...


class Gpt2chat:
    """The project's own Generator."""

    def __init__(
        self, folder: Path, device: torch.device, precision: ChatPrecision, compiled: bool = False
    ):
        model = load_model(str(folder))
        self.generator = Generator(model, device, precision, compiled=compiled)

    def run(self, prompts: Prompts, new: int) -> Timing:
        sampling = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=new)
        begun = time.perf_counter()
        if len(prompts) == 1:
            replies = [self.generator.generate(prompts[0], sampling)]
        else:
            replies = self.generator.generate_batch(prompts, sampling)
        first = max(reply.first_seconds for reply in replies)
        # As long as the call took, and not as long as it says.
        marks = [begun + first, time.perf_counter()]
        return timing(begun, marks, len(prompts), [list(reply.ids) for reply in replies], new)


class Stopwatch(BaseStreamer):
    """Records the times at which transformers returns the prompt and each step's tokens."""

    def __init__(self):
        self.marks: list[float] = []

    def put(self, value: Any) -> None:
        self.marks.append(time.perf_counter())

    def end(self) -> None:
        pass


class Transformers:
    """transformers' `generate`, with the model as transformers loads it."""

    def __init__(self, folder: Path, device: torch.device, dtype: str, cache: str):
        kind: Any = GPT2LMHeadModel
        self.model = kind.from_pretrained(str(folder), dtype=dtype).to(device).eval()
        self.device = device
        self.cache = cache

    def run(self, prompts: Prompts, new: int) -> Timing:
        batch = torch.tensor(prompts, device=self.device)
        watch = Stopwatch()
        begun = time.perf_counter()
        ids = self.model.generate(
            input_ids=batch, attention_mask=torch.ones_like(batch), do_sample=False,
            max_new_tokens=new, cache_implementation=self.cache, streamer=watch,
        )  # fmt: skip
        replies = ids[:, batch.shape[1] :].tolist()
        return timing(begun, watch.marks[1:], len(prompts), replies, new)


class CTranslate2:
    """CTranslate2 with int8 weights; on a GPU it computes the rest in float16."""

    def __init__(self, folder: Path, device: torch.device):
        # Its own choice is AVX2 on processors of another maker than Intel.
        avx512 = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_f", False)
        if avx512:
            os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")
        library: Any = importlib.import_module("ctranslate2")
        converted = folder / "ctranslate2"
        if not converted.exists():
            convert(library, folder, converted)
        self.tokens: list[str] = json.loads((converted / "vocabulary.json").read_bytes())
        self.generator = library.Generator(
            str(converted),
            device=device.type,
            compute_type="int8" if device.type == "cpu" else "int8_float16",
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )

    def run(self, prompts: Prompts, new: int) -> Timing:
        marks: list[float] = []
        texts = [[self.tokens[token] for token in prompt] for prompt in prompts]

        # It goes on while this returns False.
        def note(_: Any) -> bool:
            marks.append(time.perf_counter())
            return False

        begun = time.perf_counter()
        results = self.generator.generate_batch(
            texts, max_length=new, min_length=new, sampling_topk=1, callback=note,
            include_prompt_in_result=False,
        )  # fmt: skip
        replies = [result.sequences_ids[0] for result in results]
        return timing(begun, marks, len(prompts), replies, new)


def convert(library: Any, folder: Path, converted: Path) -> None:
    """Convert a model folder to CTranslate2's format."""
    converter = library.converters.TransformersConverter(str(folder))
    converter.convert(str(converted), quantization="int8")
    # Our tokenizer has no token for the unknown, and CTranslate2 reads no file without one.
    file = converted / "config.json"
    config = json.loads(file.read_bytes())
    config["unk_token"] = config["unk_token"] or config["eos_token"]
    file.write_text(json.dumps(config), encoding="utf-8")
