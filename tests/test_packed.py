"""The model on packed sequences: one compiled graph for all, and NEFTune's noise by sample."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2chat.core.config.training import SftConfig
from gpt2chat.core.model.compiling import able_to_compile, compiled_graphs
from gpt2chat.core.model.packed import neftune
from gpt2chat.core.training.job import sequence_lengths
from gpt2chat.core.training.objectives import shape_for
from tests.helpers import tiny_model
from tests.test_trainer import SFT, TOKENS, make


@pytest.mark.skipif(not able_to_compile(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own use
def test_one_graph_serves_every_step_and_changes_no_loss(tmp_path: Path):
    settings = SftConfig(out=tmp_path, epochs=3, lr=1e-2, warmup=0.0)
    sequences = [[0, 1], [2], [1, 2], [0]]
    logs: list[list[float]] = []
    for compiled in (False, True):
        shape = shape_for(SFT, sequence_lengths(TOKENS, sequences)) if compiled else None
        trainer = make(sequences, tmp_path, settings, shape=shape, held_out=TOKENS,
                       held_out_sequences=[[0], [0, 1]])  # fmt: skip
        before = compiled_graphs()
        trainer.train()
        trainer.evaluate()
        assert compiled_graphs() - before == int(compiled)
        logs.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert len(logs[0]) == 3 * len(sequences)
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)


def test_noise_is_as_strong_in_each_sample_as_neftune_has_it():
    starts = torch.tensor([0, 100, 110, 10_110], dtype=torch.int32)
    torch.manual_seed(0)
    noise = neftune(torch.zeros(1, 10_110, 64), starts)[0]
    for first, last in ((0, 100), (100, 110), (110, 10_110)):
        bound = ((last - first) * 64) ** -0.5
        part = noise[first:last]
        assert part.abs().max() <= bound
        assert part.abs().max() > 0.98 * bound
        assert part.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_noise_is_added_in_training_only():
    model: Any = tiny_model(packed=True)
    sequence = make([[0]], Path(), model=model).collate([{"items": [0, 1]}])
    names = (
        "input_ids",
        "position_ids",
        "cu_seq_lens_q",
        "max_length_q",
        "logit_positions",
        "targets",
    )
    inputs = {name: sequence[name] for name in names}
    plain = model(**inputs)
    model.noise = 5.0
    assert torch.equal(model(**inputs), plain)
    assert not torch.allclose(model.train()(**inputs), plain)
