"""The decoder against transformers: prompts, continuations, slots; float32, bfloat16, int8."""

import os
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.errors import HardwareError
from gpt2chat.core.generation import kernels
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.engine import make_decoder
from gpt2chat.core.generation.int8 import INT8_TOKENS, Int8Decoder
from gpt2chat.core.model.load import load_model
from gpt2chat.core.text.conversations import parse_messages
from gpt2chat.core.text.tokens import encode_conversation
from tests.helpers import sample_rows, tiny_model

IDS: list[int] = torch.randint(
    0, 50_000, (40,), generator=torch.Generator().manual_seed(0)
).tolist()
DECODERS = {
    "fp32": (partial(Decoder, dtype=torch.float32), 1e-5),
    "bf16": (partial(Decoder, dtype=torch.bfloat16), 0.05),
    "int8": (partial(Int8Decoder, dtype=torch.float32), 0.05),
}


@pytest.fixture(scope="module")
def starter() -> GPT2LMHeadModel:
    return load_model("starter")


def expected(model: GPT2LMHeadModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        output: Any = model(torch.tensor([ids]))
    return output.logits[0]


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return how far scores are from others, as a share of how far these are from each other."""
    return float((ours - theirs).square().mean().sqrt() / theirs.std())


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> tuple[Any, float]:
    make, tolerance = DECODERS[request.param]
    return make, tolerance


def test_scores_are_those_of_transformers(decoder: tuple[Any, float]):
    model = tiny_model()
    make, tolerance = decoder
    made, scores = make(model), expected(model, IDS)
    assert apart(made.extend(IDS, 0), scores[-1]) < tolerance
    for start in (1, 20, 39):
        made.extend(IDS[:start], 0)
        assert apart(made.extend(IDS[start:], start), scores[-1]) < tolerance
    for at, token in enumerate(IDS):
        (step,) = made.step([token], [at], [0])
        assert apart(step, scores[at]) < tolerance


def test_scores_along_a_text_are_those_after_each_of_its_tokens(decoder: tuple[Any, float]):
    make, tolerance = decoder
    model = tiny_model()
    assert apart(make(model).along(IDS), expected(model, IDS)) < tolerance


def test_slots_do_not_see_each_other(decoder: tuple[Any, float]):
    model = tiny_model()
    make, tolerance = decoder
    made = make(model).with_slots(3, 64)
    texts = [IDS[:30], IDS[5:9], IDS[20:]]
    for slot, ids in enumerate(texts):
        made.extend(ids[:-1], 0, slot)
    for slots in ([0, 1, 2], [2, 0]):
        scores = made.step(
            [texts[slot][-1] for slot in slots], [len(texts[slot]) - 1 for slot in slots], slots
        )
        for slot, row in zip(slots, scores, strict=True):
            assert apart(row, expected(model, texts[slot])[-1]) < tolerance


def test_texts_in_many_slots_have_the_scores_that_they_have_alone(decoder: tuple[Any, float]):
    model = tiny_model()
    make, tolerance = decoder
    made = make(model).with_slots(INT8_TOKENS + 4, 64)
    slots = [slot for slot in range(INT8_TOKENS + 4) if slot != 3]
    lengths = [1 + slot % 7 for slot in slots]
    for slot, length in zip(slots, lengths, strict=True):
        made.extend(IDS[slot : slot + length], 0, slot)
    for _ in range(2):
        tokens = [IDS[slot + length] for slot, length in zip(slots, lengths, strict=True)]
        scores = made.step(tokens, lengths, slots)
        lengths = [length + 1 for length in lengths]
        for slot, length, row in zip(slots, lengths, scores, strict=True):
            assert apart(row, expected(model, IDS[slot : slot + length])[-1]) < tolerance


def test_a_text_can_be_rewritten_from_an_earlier_position(decoder: tuple[Any, float]):
    make, _ = decoder
    model = tiny_model()
    made, fresh = make(model), make(model)
    for ids in (IDS, IDS[:10]):
        made.extend(ids, 0)
    fresh.extend(IDS[:10], 0)
    again, straight = made.extend(IDS[30:], 10), fresh.extend(IDS[30:], 10)
    assert apart(again, straight) < 1e-5


@pytest.mark.parametrize(
    "settings", [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}]
)
def test_models_with_another_scale_of_attention_have_the_scores_of_transformers(
    decoder: tuple[Any, float], settings: dict[str, bool]
):
    config = GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=3, n_head=2, **settings)  # pyright: ignore[reportArgumentType]
    config.bos_token_id = config.eos_token_id = 0
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, part in model.named_parameters():
            if "c_attn.weight" in name:
                part.mul_(20)  # else attention is flat, whatever its scale
    make, tolerance = decoder
    ids = [token % 128 for token in IDS]
    scores = expected(model, ids)[-1]
    assert apart(make(model).extend(ids, 0), scores) < 8 * tolerance


def test_int8_scores_of_few_tokens_are_near_those_of_many_at_once(starter: GPT2LMHeadModel):
    made = Int8Decoder(starter, torch.float32)
    many = made.extend(IDS[: INT8_TOKENS + 1], 0)
    made.extend(IDS[:1], 0)
    few = made.extend(IDS[1 : INT8_TOKENS + 1], 1)
    assert apart(few, many) < 0.05


@pytest.mark.slow
def test_int8_costs_less_than_one_per_cent_of_perplexity(starter: GPT2LMHeadModel):
    made = Int8Decoder(starter, torch.float32)
    whole, short, count = 0.0, 0.0, 0
    for row in held_out(8):
        ids = torch.tensor(row)
        scores = made.along(row)
        loss = torch.nn.functional.cross_entropy
        whole += float(loss(expected(starter, row)[:-1], ids[1:], reduction="sum"))
        short += float(loss(scores[:-1], ids[1:], reduction="sum"))
        count += len(row) - 1
    assert count > 1000
    assert abs(np.exp((short - whole) / count) - 1) < 0.01


def held_out(count: int) -> list[list[int]]:
    """Return conversations of the bundled sample as ids."""
    rows = sample_rows("ultrafeedback.jsonl.gz", count)
    return [encode_conversation(parse_messages(row["chosen"])).ids[:400] for row in rows]


def test_an_outlier_does_not_round_small_activations_away():
    x = torch.randn(3072, generator=torch.Generator().manual_seed(0)).numpy()
    x[5] = 300
    quantized = np.empty(3072, np.int16)
    unit = kernels.quantize(x, quantized)
    assert np.abs(quantized * unit - x).max() <= unit
    assert unit < 0.01


@pytest.mark.parametrize("x", [np.full(6400, 7, np.float32), np.zeros(64, np.float32)])
def test_a_product_never_overflows(x: Any):
    quantized = np.empty(len(x), np.int16)
    unit = kernels.quantize(x, quantized)
    np.testing.assert_allclose(quantized * unit, x, rtol=1e-3)
    assert int(np.abs(quantized.astype(np.int64)).sum()) * kernels.WEIGHT_TOP < 2**31
    out = np.zeros((1, 1), np.float32)
    weight, one = np.full((1, len(x)), 127, np.int8), np.ones(1, np.float32)
    kernels.product(weight, one, one, quantized[None], np.array([unit]), False, out)
    assert out[0, 0] == pytest.approx(127 * x.sum() + 1, rel=1e-3)


def test_the_vectorised_exponential_is_near_that_of_libm():
    x = np.linspace(-86, 86, 2001, dtype=np.float32)
    ours = np.array([kernels.exp(value) for value in x])
    np.testing.assert_allclose(ours, np.exp(x.astype(np.float64)), rtol=1e-5)


def test_a_model_with_another_activation_runs_in_float32_and_never_in_int8():
    model = tiny_model()
    model.config.activation_function = "relu"
    blocks: Any = model.transformer.h
    for block in blocks:
        block.mlp.act = torch.nn.ReLU()
    precision, made = make_decoder(model)
    assert precision == "fp32"
    assert apart(made.extend(IDS, 0), expected(model, IDS)[-1]) < 1e-5
    with pytest.raises(HardwareError, match="relu"):
        make_decoder(model, "int8")


def test_auto_is_int8_on_a_cpu(starter: GPT2LMHeadModel):
    precision, made = make_decoder(starter)
    assert precision == "int8"
    assert isinstance(made, Int8Decoder)


def test_without_numba_auto_is_float32_and_int8_is_refused(
    starter: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "gpt2chat.core.generation.int8", None)
    assert make_decoder(starter)[0] == "fp32"
    with pytest.raises(HardwareError, match="numba") as refusal:
        make_decoder(starter, "int8")
    assert refusal.value.setting == "precision"


def test_int8_is_not_compiled_again(starter: GPT2LMHeadModel):
    with pytest.raises(HardwareError) as refusal:
        make_decoder(starter, "int8", compiled=True)
    assert refusal.value.setting == "compile"


def with_starter(code: str, **environment: str) -> tuple[str, str]:
    """Run code in a process of its own; return what it prints, and its errors."""
    lines = [
        "import torch",
        "from gpt2chat.core.generation.engine import make_decoder",
        # Without transformers, whose import takes longer than all the rest.
        "from gpt2chat.core.model.names import resolve_model",
        "from gpt2chat.core.model.weights import read_weights",
        "starter = read_weights(resolve_model('starter'))",
        code,
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    return done.stdout, done.stderr


@pytest.mark.slow
def test_float32_is_used_if_numba_cannot_store_what_it_compiles():
    # If the package and the home folder are read-only, numba finds no place and fails on import.
    out, err = with_starter(
        "print(make_decoder(starter)[0]); make_decoder(starter, 'int8')",
        NUMBA_CACHE_LOCATOR_CLASSES="Nowhere",
    )
    assert out == "fp32\n", err
    assert "NUMBA_CACHE_DIR" in err


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="numba can take no more cores than one")
def test_int8_leaves_torch_as_many_threads_as_it_had():
    out, err = with_starter(
        "print(make_decoder(starter, 'int8')[0], torch.get_num_threads())", OMP_NUM_THREADS="1"
    )
    assert out == "int8 1\n", err


@pytest.mark.slow
def test_numbas_own_threads_serve_several_decoders_at_once():
    code = """
import numba
from threading import Thread
def run(decoder):
    for at in range(30):
        decoder.step([0], [at], [0])
decoders = [make_decoder(starter, "int8")[1] for _ in range(2)]
threads = [Thread(target=run, args=(decoder,)) for decoder in decoders]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(numba.threading_layer())
"""
    out, err = with_starter(code, NUMBA_THREADING_LAYER="workqueue")
    assert out == "workqueue\n", err
