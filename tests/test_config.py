"""Settings: checked when made, from keywords and from TOML alike, and written as TOML."""

import dataclasses
import inspect
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2chat.core.config.chat import ChatConfig
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import (
    Settings,
    describe_settings,
    settings_from,
    settings_of,
    signature_of,
    to_toml,
)
from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.errors import ConfigError

CONFIGS: list[type[Settings]] = [PrepareConfig, SftConfig, OrpoConfig, EvalConfig, ChatConfig]


@pytest.mark.parametrize("config_type", CONFIGS)
def test_every_setting_has_a_help_text_of_whole_sentences(config_type: type[Settings]):
    for entry in settings_of(config_type).values():
        assert entry.help[0].isupper() or entry.help.startswith(("auto", "bf16", "float32"))
        assert entry.help.endswith(".")
        assert entry.section


@pytest.mark.parametrize(
    "values",
    [
        {"lr": ""},
        {"lr": "0.1"},
        {"model": []},
        {"model": 3},
        {"seed": {"a": 1}},
        {"seed": True},
        {"seed": 1.0},
        {"seed": None},
        {"epochs": "three"},
        {"epochs": True},
        {"merge": 1},
        {"merge": "true"},
        {"out": ""},
        {"out": "a\0b"},
        {"out": 1},
        {"data": None},
        {"device": "gpu"},
        {"device": 1},
        {"report_to": [1]},
        {"report_to": {"wandb": 1}},
        {"report_to": "excel"},
        {"model": "\ud83d"},
        {"lora_alpha": "many"},
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_its_setting(values: dict[str, Any]):
    with pytest.raises(ConfigError) as error:
        settings_from(SftConfig, values)
    (name,) = values
    assert error.value.setting == name
    assert f"`{name}` must be" in str(error.value)
    with pytest.raises(ConfigError):
        SftConfig(**values)


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("epochs", 3, 3.0),
        ("out", "runs/a", Path("runs/a")),
        ("model", Path("runs/a"), "runs/a"),
        ("report_to", "wandb", ("wandb",)),
        ("report_to", ["wandb", "trackio"], ("wandb", "trackio")),
        ("limit", None, None),
        ("lr", 10**18, 1e18),
    ],
)
def test_a_value_is_stored_in_the_type_of_its_setting(name: str, value: Any, stored: object):
    result = getattr(settings_from(SftConfig, {name: value}), name)
    assert (result, type(result)) == (stored, type(stored))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("epoch", "`epochs`"),
        ("learning_rate", "`lr`"),
        ("xyz", "grad_accum"),
        ("sampling", "model"),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(name: str, word: str):
    with pytest.raises(ConfigError, match=name) as error:
        settings_from(SftConfig, {name: 1})
    assert word in str(error.value)


def test_a_long_value_is_shortened_in_its_error():
    with pytest.raises(ConfigError) as error:
        settings_from(SftConfig, {"device": "x" * 10_000})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": -1}, "lr"),
        ({"lr": 10**400}, "lr"),
        ({"grad_accum": 0}, "grad_accum"),
        ({"batch_tokens": 512}, "batch_tokens"),
        ({"warmup": 1.5}, "warmup"),
        ({"dora": True}, "lora_r"),
        ({"cycles": 4, "schedule": "linear"}, "cycles"),
        ({"patience": 2, "eval_samples": 0}, "patience"),
        ({"dropout": 1.0}, "dropout"),
        ({"resume": "auto", "overwrite": True}, "resume"),
        ({"epochs": math.inf}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"limit": 2**63}, "limit"),
        ({"epochs": 1e300}, "epochs"),
        ({"seed": 2**32}, "seed"),
        ({"max_grad_norm": math.inf}, "max_grad_norm"),
        ({"dropout": math.nan}, "dropout"),
    ],
)
def test_a_value_out_of_range_names_its_setting(settings: dict[str, Any], name: str):
    with pytest.raises(ConfigError) as error:
        SftConfig(**settings)
    assert error.value.setting == name
    assert f"`{name}`" in str(error.value)


def test_a_sequence_must_hold_a_pair():
    assert SftConfig(batch_tokens=1024).batch_tokens == 1024
    with pytest.raises(ConfigError, match="hold a pair"):
        OrpoConfig(batch_tokens=1024)


@pytest.mark.parametrize("config_type", CONFIGS)
def test_a_seed_that_a_generator_would_refuse_is_refused_before(config_type: type[Settings]):
    for seed in (-1, 2**63):
        with pytest.raises(ConfigError) as error:
            settings_from(config_type, {"seed": seed})
        assert error.value.setting == "seed"


@pytest.mark.parametrize("value", [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}])
def test_sampling_out_of_range_is_refused(value: dict[str, Any]):
    with pytest.raises(ConfigError) as error:
        Sampling(**value)
    assert [error.value.setting] == list(value)


def test_the_settings_of_its_sampling_are_settings_of_a_chat():
    settings = settings_from(ChatConfig, {"system": "Be brief.", "temperature": 1, "stop": ["a"]})
    assert settings.system == "Be brief."
    assert settings.sampling == Sampling(temperature=1.0, stop=("a",))


def test_a_changed_copy_is_checked_too():
    with pytest.raises(ConfigError):
        dataclasses.replace(SftConfig(), lr=0.0)


@pytest.mark.parametrize("config_type", CONFIGS)
def test_a_signature_has_every_setting_with_its_default(config_type: type[Settings]):
    parameters = signature_of(config_type).parameters
    assert list(parameters) == list(settings_of(config_type))
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert settings_from(config_type, defaults) == config_type()
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    lines = describe_settings(config_type).splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(parameters)


# Surrogates that no file name has are refused, and U+0000 is in no path.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(
    text=TEXTS,
    lr=st.floats(min_value=0, exclude_min=True, max_value=1e18),
    trackers=st.lists(st.sampled_from(["tensorboard", "wandb"])),
)
def test_any_settings_are_read_back_from_their_toml(text: str, lr: float, trackers: list[str]):
    settings = OrpoConfig(model=text, out=Path(text), lr=lr, report_to=tuple(trackers))
    assert settings_from(OrpoConfig, tomllib.loads(to_toml(settings))) == settings


@pytest.mark.parametrize(
    "text", ["🤖", 'a "quoted" \\ name', "\x00\x1b[31m\x7f\x80\x9f", "\r\n\t", "\udcff", "\u2028"]
)
def test_a_strange_text_survives_a_file(tmp_path: Path, text: str):
    file = tmp_path / "run.toml"
    file.write_text(to_toml(SftConfig(model=text)), "utf-8", "surrogateescape", newline="")
    read = tomllib.loads(file.read_text("utf-8", "surrogateescape"))
    assert settings_from(SftConfig, read).model == text


def test_a_run_folder_whose_name_is_not_utf_8_is_refused():
    with pytest.raises(ConfigError) as error:
        SftConfig(out=Path("runs/\udcff"))
    assert error.value.setting == "out"
