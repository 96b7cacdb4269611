"""Write a plain model folder, with the adapter merged in, and run it with transformers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt2chat.core.evaluation.statistics import FloatArray
from gpt2chat.core.export.runtime import ByTokenizer, Continuation, continuation
from gpt2chat.core.model.checkpoint import no_bars


class Transformers(ByTokenizer):
    """A folder in plain transformers: its own tokenizer, model, configs and `generate`."""

    name = f"transformers {transformers.__version__}"

    def __init__(self, folder: Path):
        super().__init__(AutoTokenizer.from_pretrained(folder))
        with no_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval()

    @torch.inference_mode()
    def logprobs(self, ids: Sequence[int], start: int) -> FloatArray:
        scores = self.model(torch.tensor([ids])).logits[0, start - 1 : -1]
        tokens = torch.tensor(ids[start:])
        return scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0].double().numpy()

    def reply(self, prompt: Sequence[int], limit: int) -> Continuation:
        # The tokens that end it are those of its generation config.
        ids = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=limit,
        )
        return continuation(ids[0, len(prompt) :].tolist())
