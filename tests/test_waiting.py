"""A step asks its device for no value: a GPU works on while Python prepares the next one.

Tensors on PyTorch's meta device have shapes and no values. What asks one for a value fails, and
what tells devices apart goes the GPU's way.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.sampling import candidates, first_to_ring
from gpt2chat.core.text.tokens import VOCAB
from gpt2chat.core.training.guard import Guard
from gpt2chat.core.training.objectives import (
    Objective,
    OrpoObjective,
    SftObjective,
    lay_out_for,
    shape_for,
)
from tests.helpers import tiny_model


def test_a_tensor_without_values_tells_on_who_asks():
    scores = torch.ones(3, device="meta")
    with pytest.raises(RuntimeError):
        scores.sum().item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        scores[scores > 0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0),
        Sampling(top_k=0),
        Sampling(top_k=0, top_p=1, repetition_penalty=1),
        Sampling(min_p=0.1, repetition_penalty=0.9),
    ],
)
def test_a_draw_asks_for_nothing(sampling: Sampling):
    logits = torch.empty(3, VOCAB, device="meta")
    chances, ids = candidates(logits, torch.zeros_like(logits, dtype=torch.bool), sampling)
    drawn = ids.gather(1, first_to_ring(chances, torch.empty_like(chances).exponential_()))
    assert drawn.shape == (3, 1)


def test_a_step_of_decoding_asks_for_nothing():
    model: Any = tiny_model()
    decoder = Decoder(model.to("meta"), torch.bfloat16).with_slots(2, 64)
    numbers = torch.zeros(2, dtype=torch.long, device="meta")
    assert decoder.step_tensors(numbers, numbers, numbers, 64).shape == (2, len(decoder.tokens))


@pytest.mark.parametrize(
    "objective", [SftObjective(), OrpoObjective(0.1, "response"), OrpoObjective(0.1, "full")]
)
def test_a_step_of_training_asks_for_nothing(objective: Objective):
    lengths, prompts = np.array([9, 8, 7, 6]), np.array([4, 4, 3, 3])
    row = lay_out_for(
        objective,
        np.zeros(lengths.sum(), dtype=np.int64),
        lengths,
        prompts,
        shape_for(objective, [(lengths, prompts)]),
        training=True,
    )
    there = {
        name: value.to("meta") if isinstance(value, Tensor) else value
        for name, value in row.items()
    }
    logps = torch.empty(there["targets"].shape, device="meta", requires_grad=True)
    loss, _ = objective.loss(logps, there, there["counts"])
    loss.backward()
    optimizer: Any = torch.optim.AdamW([logps])
    guard = Guard(names_of, names_of, lambda value: value, list)
    guard.see(1, loss, row)
    guard.stop(torch.empty((), device="meta"), optimizer)
    assert optimizer.found_inf.device.type == "meta"


def names_of(_: Any) -> list[str]:
    raise AssertionError("no row is asked for before the guard checks")
