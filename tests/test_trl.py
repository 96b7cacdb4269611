"""Shards and model folders in plain TRL: no code of ours between `prepare` and the batch."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer

from gpt2chat.core.data.shards import read_pairs, read_samples
from gpt2chat.core.text.template import END_OF_TURN, START_CONTEXT, render, to_text
from gpt2chat.core.text.tokens import EOT_ID, WINDOW, Encoded, encode_conversation
from tests.helpers import talk

# transformers 5.23 renames gradient_checkpointing, which TRL's settings turn on.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

SHORT: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}
"""Two steps on a CPU. Nothing here says how a row is read: those are TRL's defaults."""

TRLS = {
    *("messages", "conversations", "text", "input_ids", "labels", "completion_mask"),
    *("assistant_masks", "seq_lengths", "image", "images", "tools", "chat_template_kwargs"),
}
"""Columns to which TRL gives a meaning of its own, beside prompt, completion, chosen, rejected."""


def shards(data: Path, kind: str, cache: Path) -> Dataset:
    """Return the training rows as anyone would load them."""
    files = sorted(str(path) for path in (data / kind).glob("train-*.jsonl"))
    return load_dataset("json", data_files=files, split="train", cache_dir=str(cache))


def longest_and_first(rows: Dataset, number: int) -> Dataset:
    """Return the longest rows, which a limit would cut first, and the first ones."""
    replies = ("completion", "chosen", "rejected")
    sizes = [
        len(row["prompt"]) + max(len(row.get(reply, "")) for reply in replies)
        for row in map(dict, rows)
    ]
    longest = sorted(range(len(sizes)), key=lambda index: -sizes[index])[:number]
    return rows.select(sorted({*longest, *range(number)}))


def sft_trainer(rows: Dataset, model: Path, out: Path) -> Any:
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    return SFTTrainer(str(model), SFTConfig(output_dir=str(out), **SHORT), train_dataset=rows)


def orpo_trainer(rows: Dataset, model: Path, out: Path) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer(str(model), ORPOConfig(output_dir=str(out), **SHORT), train_dataset=rows)


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)


def samples(data: Path, rows: Dataset) -> list[Encoded]:
    """Return what we train on for each row."""
    known = {sample.id: sample.conversation for sample in read_samples(data, "train")}
    return [encode_conversation(known[name]) for name in rows["id"]]


def sides(data: Path, rows: Dataset) -> list[tuple[Encoded, Encoded]]:
    """Return the chosen and the rejected side that we train on for each row."""
    known = {pair.id: pair.preference for pair in read_pairs(data, "train")}
    wanted = [known[name] for name in rows["id"]]
    return [
        (
            encode_conversation(preference.prompt.with_reply(preference.chosen)),
            encode_conversation(preference.prompt.with_reply(preference.rejected)),
        )
        for preference in wanted
    ]


@pytest.mark.parametrize("kind", ["sft", "preference"])
def test_no_column_means_something_else_to_trl(kind: str, sample_data: Path, tmp_path: Path):
    rows = shards(sample_data, kind, tmp_path)
    replies = {"completion"} if kind == "sft" else {"chosen", "rejected"}
    assert {"prompt", *replies} <= set(rows.column_names)
    assert not TRLS & set(rows.column_names)
    for row in map(dict, rows):
        texts = [row["prompt"], *(row[reply] for reply in replies)]
        assert all(isinstance(text, str) for text in texts)
        # TRL adds its own end where a reply has none.
        assert all(text.endswith(END_OF_TURN) for text in texts[1:])


def test_trls_sft_sees_our_ids_and_trains_our_tokens(
    sample_data: Path, tiny_folder: Path, tmp_path: Path
):
    rows = longest_and_first(shards(sample_data, "sft", tmp_path), 100)
    assert any(START_CONTEXT in row["prompt"] for row in map(dict, rows))
    ours = samples(sample_data, rows)
    assert max(map(len, ours)) > WINDOW - 50
    seen = sft_trainer(rows, tiny_folder, tmp_path).train_dataset
    assert seen["input_ids"][:] == [encoded.ids for encoded in ours]
    assert seen["labels"][:] == [encoded.labels for encoded in ours]
    assert all(labels.count(EOT_ID) == 1 and labels[-1] == EOT_ID for labels in seen["labels"])


def test_trls_orpo_sees_our_ids_and_trains_our_tokens(
    sample_data: Path, tiny_folder: Path, tmp_path: Path
):
    rows = longest_and_first(shards(sample_data, "preference", tmp_path), 50)
    ours = sides(sample_data, rows)
    seen = orpo_trainer(rows, tiny_folder, tmp_path).train_dataset
    for side, name in enumerate(("chosen", "rejected")):
        assert seen[f"{name}_input_ids"][:] == [pair[side].ids for pair in ours]
        assert seen[f"{name}_labels"][:] == [pair[side].labels for pair in ours]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "make"), [("sft", sft_trainer), ("preference", orpo_trainer)], ids=["sft", "orpo"]
)
def test_two_steps_of_trl(kind: str, make: Any, tiny_data: Path, tiny_folder: Path, tmp_path: Path):
    trainer = make(shards(tiny_data, kind, tmp_path), tiny_folder, tmp_path)
    before = trainer.model.transformer.wte.weight.detach().clone()
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert not before.equal(trainer.model.transformer.wte.weight)


def test_a_typed_control_token_is_text_to_us_and_a_token_to_trl(tiny_folder: Path):
    typed = talk(f"What does {END_OF_TURN} mean?", "It ends a turn.")
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny_folder))
    theirs: list[int] = tokenizer(to_text(render(typed)))["input_ids"]
    ours = encode_conversation(typed).ids
    assert ours.count(EOT_ID) == 3
    assert theirs.count(EOT_ID) == 4


def test_the_tokenizers_marks_are_the_templates(tiny_folder: Path):
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny_folder))
    config = json.loads((tiny_folder / "config.json").read_text())
    assert tokenizer.eos_token == END_OF_TURN
    assert config["eos_token_id"] == tokenizer.eos_token_id == EOT_ID
    assert (
        config["bos_token_id"]
        == tokenizer.bos_token_id
        == tokenizer(to_text(render(talk("a"))))["input_ids"][0]
    )
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]
