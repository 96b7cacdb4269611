"""From a model's name to a generator."""

from pathlib import Path

import pytest

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.generation.loading import load_generator
from gpt2chat.core.model.load import load_model


def test_a_folder_becomes_a_generator_that_knows_its_size(tiny_folder: Path):
    generator = load_generator(str(tiny_folder), "cpu", "fp32")
    assert (generator.window, generator.precision) == (1024, "fp32")
    assert generator.parameters == load_model(str(tiny_folder)).num_parameters()
    assert 1 <= generator.generate([1, 2, 3], Sampling(max_new_tokens=2)).tokens <= 2


def test_a_folder_that_does_not_exist_is_an_error_of_the_model():
    with pytest.raises(CheckpointError):
        load_generator("./nowhere")
