"""A step reads no value from its device, so a GPU computes while Python prepares the next one.

Tensors on PyTorch's meta device have shapes and no values. Code that reads a value from one fails,
and code that distinguishes devices takes the GPU's branch.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.training import SftConfig
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.graph import draw
from gpt2chat.core.generation.sampling import never_mask
from gpt2chat.core.text.tokens import VOCAB
from gpt2chat.core.training.arguments import arguments
from gpt2chat.core.training.guard import Guard
from gpt2chat.core.training.objectives import (
    Objective,
    OrpoObjective,
    SftObjective,
    lay_out_for,
    shape_for,
)
from gpt2chat.core.training.trainer import Votes
from tests.helpers import tiny_model
from tests.test_trainer import make


def test_reading_a_value_of_a_meta_tensor_fails():
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
def test_a_draw_reads_no_value(sampling: Sampling):
    logits, meta = torch.empty(3, VOCAB, device="meta"), torch.device("meta")
    seen, token = torch.zeros_like(logits, dtype=torch.bool), torch.zeros(3, device=meta).long()
    draw(sampling, never_mask(meta), logits, torch.empty_like(logits), seen, token, token.clone())


def test_a_step_of_decoding_reads_no_value():
    model: Any = tiny_model()
    decoder = Decoder(model.to("meta"), torch.bfloat16).with_slots(2, 64)
    numbers = torch.zeros(2, dtype=torch.long, device="meta")
    assert decoder.step_tensors(numbers, numbers, numbers, 64).shape == (2, len(decoder.tokens))


def test_attention_off_the_cpu_leaves_cudnn_out(monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []
    attention = F.scaled_dot_product_attention

    def recorded(*arguments: Any, **options: Any) -> Tensor:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    model: Any = tiny_model()
    decoder = Decoder(model.to("meta"), torch.bfloat16)
    decoder.extend([1, 2, 3], 0)
    decoder.step([4], [3], [0])
    assert seen == [False] * 2 * len(decoder.blocks)
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    "objective", [SftObjective(), OrpoObjective(0.1, "response"), OrpoObjective(0.1, "full")]
)
def test_a_step_of_training_reads_no_value(objective: Objective):
    lengths, prompts = np.array([9, 8, 7, 6]), np.array([4, 4, 3, 3])
    sequence = lay_out_for(
        objective,
        np.zeros(lengths.sum(), dtype=np.int64),
        lengths,
        prompts,
        shape_for(objective, [(lengths, prompts)]),
        training=True,
    )
    there = {
        name: value.to("meta") if isinstance(value, Tensor) else value
        for name, value in sequence.items()
    }
    logps = torch.empty(there["targets"].shape, device="meta", requires_grad=True)
    loss, _ = objective.loss(logps, there, there["counts"])
    loss.backward()
    optimizer: Any = torch.optim.AdamW([logps])
    guard = Guard(names_of, names_of, lambda value: value, list)
    guard.add_loss(1, loss, sequence)
    guard.stop(torch.empty((), device="meta"), optimizer)
    assert optimizer.found_inf.device.type == "meta"


def test_a_gpu_copies_the_next_batch_while_it_computes(tmp_path: Path):
    made: Any = arguments(SftConfig(out=tmp_path), validated=False, device=torch.device("cuda"))
    assert made.dataloader_pin_memory
    assert made.accelerator_config.non_blocking


def test_a_single_process_copies_no_wishes_to_its_device(tmp_path: Path):
    def wishes() -> list[float]:
        raise AssertionError("a copy would wait for the previous step")

    trainer: Any = make([[0]], tmp_path)
    trainer.votes = Votes(wishes)
    counts = torch.ones(1, device="meta")
    assert trainer._get_num_items_in_batch([{"counts": counts}], counts.device).shape == (1,)


def test_the_forward_pass_does_not_look_for_samples_in_the_positions(
    monkeypatch: pytest.MonkeyPatch,
):
    def look(*_: Any, **__: Any) -> None:
        raise AssertionError("a condition on a tensor waits for the device")

    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", look)
    model: Any = tiny_model(packed=True)
    numbers = torch.zeros(1, 6, dtype=torch.long)
    logps = model(
        input_ids=numbers,
        position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]),
        cu_seq_lens_q=torch.tensor([0, 3, 6], dtype=torch.int32),
        max_length_q=3,
        logit_positions=numbers[0],
        targets=numbers[0],
    )
    assert logps.shape == (6,)


def names_of(_: Any) -> list[str]:
    raise AssertionError("no sequence is asked for before the guard checks")
