"""Attention inside each sample: as one operation of a compiled graph, and as many."""

import pytest
import torch
from torch import Tensor

from gpt2chat.core.model.attention import packed_attention, packed_sdpa

STARTS = torch.tensor([0, 5, 5, 6, 19, 19], dtype=torch.int32)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 19, 4, dtype=dtype).unbind()
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    attended, _ = packed_attention(
        torch.nn.Module(), query, key, value, None,
        scaling=scaling, cu_seq_lens_q=STARTS, max_length_q=13,
    )  # fmt: skip
    return attended.transpose(1, 2)


def masked(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Attend with a block mask over the whole sequence."""
    sample = torch.searchsorted(STARTS, torch.arange(19), right=True)
    mask = (sample[:, None] == sample[None, :]).tril()
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling
    )


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_samples_of_a_row_attend_to_themselves_only(scaling: float | None):
    query, key, value = inputs()
    torch.testing.assert_close(
        attend(query, key, value, scaling), masked(query, key, value, scaling)
    )


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_the_single_operation_has_the_value_and_gradient_of_the_many(scaling: float | None):
    torch.manual_seed(1)
    gradient = torch.randn(1, 2, 19, 4, dtype=torch.float64)
    found: list[tuple[Tensor, ...]] = []
    for single in (False, True):
        parts = query, key, value = inputs()
        if single:
            attended: Tensor = packed_sdpa(query, key, value, STARTS, scaling)
        else:
            attended = attend(query, key, value, scaling)
        found.append((attended.detach(), *torch.autograd.grad(attended, parts, gradient)))
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-9, atol=1e-12)


def test_the_operation_keeps_the_rules_of_custom_operations():
    query, key, value = inputs(torch.float32)
    torch.library.opcheck(packed_sdpa, (query, key, value, STARTS, None))


def test_the_gradients_of_the_operation_are_on_the_queries_device():
    parts = torch.empty(4, 1, 2, 19, 4, device="meta").unbind()
    found = torch.ops.gpt2chat.packed_sdpa_backward(*parts, STARTS.to("meta"), None)
    assert {gradient.device.type for gradient in found} == {"meta"}


@pytest.mark.gpu
def test_a_gpus_attention_has_the_value_and_gradient_of_the_cpus():
    starts = torch.tensor([0, 50, 50, 51, 190, 190], dtype=torch.int32)
    torch.manual_seed(0)
    on_cpu = torch.randn(4, 1, 2, 190, 64, dtype=torch.bfloat16).float()
    found: list[tuple[Tensor, ...]] = []
    for device, dtype in (
        ("cpu", torch.float32), ("cuda", torch.bfloat16), ("cuda", torch.float32),
    ):  # fmt: skip
        query, key, value, gradient = on_cpu.to(device, dtype).unbind()
        parts = query.requires_grad_(), key.requires_grad_(), value.requires_grad_()
        attended, _ = packed_attention(
            torch.nn.Module(), *parts, None, cu_seq_lens_q=starts.to(device), max_length_q=139
        )
        gradients = torch.autograd.grad(attended, parts, gradient.transpose(1, 2))
        found.append(tuple(part.float().cpu() for part in (attended.detach(), *gradients)))
    for half, full, exact in zip(found[1], found[2], found[0], strict=True):
        assert float((half - exact).norm() / exact.norm()) < 0.02
        assert float((full - exact).norm() / exact.norm()) < 1e-3
