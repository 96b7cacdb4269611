"""LoRA and DoRA: what is trained, what is saved, and that both ways of saving are one model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.errors import CheckpointError, ConfigError, Interrupted
from gpt2chat.core.model.load import grow_positions, load_model
from gpt2chat.core.model.lora import add_lora, save_adapted
from gpt2chat.core.model.names import resolve_model
from gpt2chat.core.text.tokens import EOT_ID, GPT2_VOCAB
from gpt2chat.core.training.tokenized import load_tokenized
from gpt2chat.core.training.train import train
from tests.helpers import ignore, tiny_model
from tests.test_train import interrupt_in
from tests.test_trainer import TOKENS, make

LORA = SftConfig(model="starter", lora_r=4)


def settings(folder: Path, data: Path, out: Path, **changes: Any) -> SftConfig:
    values: dict[str, Any] = {
        "model": str(folder), "data": data, "out": out, "epochs": 1, "lr": 1e-2, "batch_size": 6,
        "evals": 2, "precision": "fp32", "device": "cpu", "lora_r": 4, **changes,
    }  # fmt: skip
    return SftConfig(**values)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[5, 6, EOT_ID, 7]])).logits


@pytest.mark.parametrize("dora", [False, True])
def test_the_matrices_of_the_blocks_and_the_templates_rows_are_trained_and_nothing_else(
    tmp_path: Path, dora: bool
):
    base = tiny_model(packed=True)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    adapted = add_lora(base, SftConfig(model="starter", lora_r=4, dora=dora))
    run = SftConfig(out=tmp_path, epochs=4, lr=1e-2, warmup=0.0)
    trainer = make([[0, 1, 2]], tmp_path, run, model=adapted)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    merged = adapted.merge_and_unload()
    for name, weight in merged.state_dict().items():
        if name.endswith(("wte.weight", "lm_head.weight")):
            assert torch.equal(weight[:GPT2_VOCAB], before[name][:GPT2_VOCAB])
            assert not torch.equal(weight[EOT_ID], before[name][EOT_ID])
        elif any(part in name for part in ("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            assert not torch.equal(weight, before[name])
        else:
            assert torch.equal(weight, before[name])
    assert merged.lm_head.weight is merged.transformer.wte.weight


def test_before_training_the_loss_is_that_of_the_model_without_lora(tmp_path: Path):
    first: list[float] = []
    for model in (tiny_model(packed=True), add_lora(tiny_model(packed=True), LORA)):
        trainer = make(
            [[0]], tmp_path, model=model, held_out=TOKENS, held_out_sequences=[[0, 1, 2]]
        )
        first.append(trainer.evaluate()["eval_loss"])
    assert first[0] == pytest.approx(first[1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_a_merged_run_is_a_plain_model_and_the_adapter_alone_is_the_same(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    merged = train(settings(tiny_folder, tiny_data, tmp_path / "merged"))
    alone = train(settings(tiny_folder, tiny_data, tmp_path / "alone", merge=False))
    assert not (alone.out / "model.safetensors").exists()
    assert (alone.out / "adapter_model.safetensors").stat().st_size < 200_000
    plain = AutoModelForCausalLM.from_pretrained(merged.out)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    by_peft = PeftModel.from_pretrained(base, str(alone.out))
    expected = logits(plain)
    torch.testing.assert_close(logits(load_model(str(alone.out))), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(by_peft), expected, rtol=0, atol=1e-5)
    assert resolve_model(str(alone.out)).window == 1024


@pytest.mark.slow
def test_a_run_that_is_an_adapter_alone_can_be_trained_on(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    adapter = train(settings(tiny_folder, tiny_data, tmp_path / "sft", merge=False))
    settings_of_orpo = OrpoConfig(
        model=str(adapter.out), data=tiny_data, out=tmp_path / "orpo", precision="fp32",
        device="cpu", limit=6, warmup=0.0,
    )  # fmt: skip
    aligned = train(settings_of_orpo)
    before, after = load_model(str(adapter.out)), load_model(str(aligned.out))
    changed = zip(before.parameters(), after.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in changed)


def by_card(run: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the Python of a run's card beside the run; return its names."""
    code = (run / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(run.parent)
    names: dict[str, Any] = {}
    exec(code.replace("max_new_tokens=200", "max_new_tokens=2"), names)
    return names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
@pytest.mark.parametrize("merge", [True, False])
def test_the_code_of_a_runs_card_loads_it(
    merge: bool, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With a base whose vocabulary has to grow."""
    small = {"limit": 6, "eval_samples": 0, "warmup": 0.0, "merge": merge}
    run = train(settings(Path("starter"), tiny_data, tmp_path / "sft", **small))
    loaded = by_card(run.out, monkeypatch)["model"]
    expected = logits(load_model(str(run.out)))
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-4)
    head = (run.out / "README.md").read_text()
    assert f"library_name: {'transformers' if merge else 'peft'}\n" in head


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_the_code_of_a_card_loads_an_adapter_on_an_adapter(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small = {"limit": 6, "eval_samples": 0, "warmup": 0.0, "merge": False}
    first = train(settings(tiny_folder, tiny_data, tmp_path / "first", **small))
    second = train(settings(first.out, tiny_data, tmp_path / "second", **small))
    loaded = by_card(second.out, monkeypatch)["model"]
    expected = logits(load_model(str(second.out)))
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_losses_of_an_unbroken_one(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    whole = settings(tiny_folder, tiny_data, tmp_path / "whole")
    train(whole)
    broken = settings(tiny_folder, tiny_data, tmp_path / "broken")
    with pytest.raises(Interrupted):
        train(broken, interrupt_in(3), ignore)
    train(settings(tiny_folder, tiny_data, broken.out, resume="on"))
    texts = [(run.out / "metrics.jsonl").read_text() for run in (whole, broken)]
    steps = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert [line.get("loss") for line in steps[0]] == [line.get("loss") for line in steps[1]]


def adapter(folder: Path, base: Path, **changes: Any) -> Path:
    """Save an untrained adapter of a base, with other settings than it has."""
    model = add_lora(tiny_model(packed=True), replace(LORA, model=str(base)))
    save_adapted(model, folder, merge=False)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize("content", ["[1]", "{}", "{"])
def test_an_adapter_without_its_settings_is_named(tmp_path: Path, content: str):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        load_model(str(tmp_path))


def test_an_adapter_with_damaged_weights_is_named(tiny_folder: Path, tmp_path: Path):
    folder = adapter(tmp_path / "run", tiny_folder)
    (folder / "adapter_model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is damaged"):
        load_model(str(folder))


@pytest.mark.parametrize("change", ["lacks", "unknown"])
def test_an_adapter_with_other_tensors_than_its_settings_say_is_refused(
    tiny_folder: Path, tmp_path: Path, change: str
):
    folder = adapter(tmp_path / "run", tiny_folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "lora_A" in name)
    tensors["base_model.model.other"] = tensors[name].clone()
    if change == "lacks":
        del tensors["base_model.model.other"], tensors[name]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=change):
        load_model(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "(a|a)*(a|a)*(a|a)*b"},
        {"target_modules": ["(a+)+$"]},
        {"exclude_modules": "(a+)+$"},
        {"rank_pattern": {"(a+)+$": 4}},
        {"layers_pattern": "(a+)+$", "layers_to_transform": [0]},
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"r": 10**9},
        {"r": True},
        {"init_lora_weights": "pissa"},
        {"peft_type": "IA3"},
    ],
)
def test_an_adapter_with_settings_that_peft_would_run_is_refused(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
):
    folder = adapter(tmp_path / "run", tiny_folder, **changes)
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        load_model(str(folder))


@pytest.mark.slow
def test_new_positions_are_trained_beside_an_adapter_and_go_on_with_it(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    whole = settings(tiny_folder, tiny_data, tmp_path / "whole", max_length=2047, epochs=2)
    broken = replace(whole, out=tmp_path / "broken")
    train(whole)
    with pytest.raises(Interrupted):
        train(broken, interrupt_in(3), ignore)
    train(replace(broken, resume="on"))
    ends: list[torch.Tensor] = [
        load_model(str(run.out)).transformer.wpe.weight for run in (whole, broken)
    ]
    assert torch.equal(*ends)
    longest = int(load_tokenized(tiny_data, "train", "reply").lengths.max())
    start = load_model(str(tiny_folder))
    grow_positions(start, 2047)
    moved = (ends[0] != start.transformer.wpe.weight).any(1)
    assert moved[: longest - 1].all()


def test_an_adapter_alone_cannot_hold_new_positions(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    longer = settings(tiny_folder, tiny_data, tmp_path / "run", merge=False, max_length=2048)
    with pytest.raises(ConfigError) as raised:
        train(longer)
    assert raised.value.setting == "merge"
