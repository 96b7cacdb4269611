"""Generate with llama.cpp through its C interface."""

import ctypes
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decoding import gguf_file
from decoding.tasks import Prompts, Timing, timing


def silent(level: int, text: bytes, data: Any) -> None:
    """Drop a line of llama.cpp's log."""


class LlamaCpp:
    """llama.cpp with Q8_0 weights and flash attention, which makes it 1.2 times as fast on a CPU.

    Its Python class would copy all logits of every step. GCC or Clang, OpenMP or threads of its
    own made no difference on a CPU with AVX-512.
    """

    def __init__(self, folder: Path, device: torch.device, mapped: bool = True):
        self.library: Any = importlib.import_module("llama_cpp")
        file = folder / "q8_0.gguf"
        if not file.exists():
            gguf_file.write(folder, file)
        self.log = self.library.llama_log_callback(silent)
        self.library.llama_log_set(self.log, None)
        self.library.llama_backend_init()
        settings = self.library.llama_model_default_params()
        settings.n_gpu_layers = 0 if device.type == "cpu" else 999
        if not mapped:
            settings.load_mode = self.library.LLAMA_LOAD_MODE_NONE
        self.model = self.library.llama_model_load_from_file(str(file).encode(), settings)
        if not self.model:
            raise ValueError("llama.cpp cannot load its file")
        self.vocab = self.library.llama_vocab_n_tokens(
            self.library.llama_model_get_vocab(self.model)
        )

    def run(self, prompts: Prompts, new: int) -> Timing:
        sequences, length = len(prompts), len(prompts[0])
        context = self._context(sequences, length, new)
        batch = self.library.llama_batch_init(sequences * length, 0, 1)
        try:
            begun = time.perf_counter()
            step = [self._step(context, batch, prompts, 0)]
            marks = [time.perf_counter()]
            for position in range(length, length + new - 1):
                ids = [[int(token)] for token in step[-1]]
                step.append(self._step(context, batch, ids, position))
                marks.append(time.perf_counter())
        finally:
            self.library.llama_batch_free(batch)
            self.library.llama_free(context)
        replies = np.stack(step, axis=1).tolist()
        return timing(begun, marks, sequences, replies, new)

    def _context(self, sequences: int, length: int, new: int) -> Any:
        """Return room for the sequences, each with keys of its own."""
        settings = self.library.llama_context_default_params()
        # A sequence's room is a multiple of 256.
        settings.n_ctx = sequences * (-(-(length + new) // 256) * 256)
        settings.n_seq_max = sequences
        settings.n_batch = sequences * length
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.flash_attn_type = self.library.LLAMA_FLASH_ATTN_TYPE_ENABLED
        context = self.library.llama_init_from_model(self.model, settings)
        if not context:
            raise ValueError("llama.cpp has no memory for this batch")
        return context

    def _step(self, context: Any, batch: Any, rows: Prompts, position: int) -> Any:
        """Compute the rows' tokens from a position on; return each row's likeliest next one."""
        at = 0
        for sequence, row in enumerate(rows):
            for offset, token in enumerate(row):
                batch.token[at] = token
                batch.pos[at] = position + offset
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = offset == len(row) - 1
                at += 1
        batch.n_tokens = at
        code = self.library.llama_decode(context, batch)
        if code:
            raise ValueError(f"llama_decode returned {code}")
        logits = self.library.llama_get_logits(context)
        pointer = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape=(len(rows), self.vocab)).argmax(axis=1)
