"""FLOPs against the formula worked by hand and PyTorch's own counter; speed of a small model."""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config

from gpt2chat.core.evaluation.speed import TIMED_RUNS, measure_speed
from gpt2chat.core.model.flops import flops_per_token, parameters
from gpt2chat.core.model.load import load_model
from gpt2chat.core.text.tokens import VOCAB
from tests.helpers import tiny_model


def test_flops_of_gpt2_124m_equal_the_value_worked_by_hand():
    # 12 layers of 12·768² weights, a head of 50,264·768; 4·12·768·1,024 for the attention.
    assert 2 * (84_934_656 + 38_602_752) + 37_748_736 == 284_823_552
    assert flops_per_token(GPT2Config(vocab_size=VOCAB), context=1024) == 284_823_552


def test_flops_equal_what_pytorch_counts():
    model = tiny_model()
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 48, dtype=torch.long), use_cache=False)
    assert counter.get_total_flops() == 48 * flops_per_token(model.config, context=48)


def test_the_tied_head_counts_once_as_parameters():
    # The starter's card says 19,446,528 with GPT-2's vocabulary; the template adds seven rows.
    assert parameters(load_model("starter")) == 19_446_528 + 7 * 256


def test_speed_is_measured_in_a_window_of_any_length():
    seen: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))

    speed = measure_speed(tiny_model(positions=24), torch.device("cpu"), on_progress)
    assert (speed.prompt, speed.prefill.runs) == (12, TIMED_RUNS)
    assert 0 < speed.prefill.low <= speed.prefill.median <= speed.prefill.high
    assert speed.decode is not None
    assert speed.decode.median > 0
    assert seen[-1] == (TIMED_RUNS + 1, TIMED_RUNS + 1)
