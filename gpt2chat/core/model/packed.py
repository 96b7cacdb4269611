"""GPT-2 on packed sequences: the model that training runs, and that `compile` compiles."""

from typing import Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from gpt2chat.core.model.attention import PACKED
from gpt2chat.core.model.losses import head_logps, token_logps


class PackedGPT2(GPT2LMHeadModel):
    """GPT-2 whose forward takes a packed sequence and returns what a loss needs of it.

    The head is part of the forward so that DDP and FSDP see its gradient, and so that transformer,
    head and log-softmax compile into one graph.
    """

    attention = PACKED
    """The value for `attn_implementation`; importing attention.py registered it."""
    noise = 0.0
    """NEFTune's α: how much noise the embeddings get in training; 0 for none."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        cu_seq_lens_q: Tensor,
        max_length_q: int,
        logit_positions: Tensor,
        targets: Tensor,
    ) -> Tensor:
        """Return the log-probabilities of the trained tokens, in nats. Shape (K,), float32.

        The arguments are fields of PackedSequence.
        """
        embeddings: Tensor = self.transformer.wte(input_ids)
        if self.training and self.noise:
            embeddings = embeddings + self.noise * neftune(embeddings, cu_seq_lens_q)
        hidden: Tensor = self.transformer(
            inputs_embeds=embeddings,
            position_ids=position_ids,
            # A step reads each token once: a cache of keys and values would only take memory.
            use_cache=False,
            cu_seq_lens_q=cu_seq_lens_q,
            max_length_q=max_length_q,
        ).last_hidden_state
        weight: Any = self.lm_head.weight
        if torch.compiler.is_compiling():
            # Inductor fuses the log-softmax into few kernels by itself.
            return token_logps(hidden[0, logit_positions] @ weight.t(), targets)
        return head_logps(hidden[0, logit_positions], weight, targets)


def neftune(embeddings: Tensor, starts: Tensor) -> Tensor:
    """Return uniform noise, in each sample as strong as NEFTune defines it for that length.

        noise ~ U(-1, 1) / √(tokens of the sample · width)

    transformers' own hook takes the length of the whole sequence, which is many times a sample's.

    Args:
        embeddings: Shape (1, tokens, width).
        starts: First token of each sample, then the number of tokens. Shape (samples + 1,).

    Source:
        Jain et al. (2023), NEFTune, arXiv:2310.05914, algorithm 1.
    """
    _, tokens, width = embeddings.shape
    places = torch.arange(tokens, device=starts.device)
    samples = torch.searchsorted(starts, places, right=True) - 1
    lengths = starts.diff()[samples]
    scale = (lengths * width).rsqrt().to(embeddings.dtype)
    return torch.empty_like(embeddings).uniform_(-1, 1) * scale[None, :, None]
