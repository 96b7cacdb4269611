"""The trainers' losses: against slow ones, against TRL's, packed or not, accumulated or not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from gpt2chat.core.checkpoint import chat_tokenizer
from gpt2chat.core.config import OrpoConfig, SftConfig, TrainConfig
from gpt2chat.core.conversations import Preference
from gpt2chat.core.errors import DataError
from gpt2chat.core.template import render, to_text
from gpt2chat.core.tokens import EOT_ID, GPT2_VOCAB, WINDOW, Encoded, encode_conversation
from gpt2chat.core.trainer import FasterTokens, OrpoTrainer, PackedTrainer, arguments, to_dataset
from tests.conftest import talk, tiny_model

TALKS = [
    talk("What is a comet?", "A ball of ice and dust that circles the Sun."),
    talk("Hi!", "Hello.", "Name a colour.", "Blue, the colour of the sea."),
    talk("2 + 2?", "4"),
]
PAIRS = [
    Preference(talk("What is a comet?"), "A ball of ice and dust.", "No idea, sorry to say."),
    Preference(talk("Hi!", "Hello.", "Name a colour."), "Blue.", "A colour is a thing."),
]
Rows = Sequence[Sequence[tuple[str, Encoded]]]


def sft_rows(*talks_of_rows: Sequence[int]) -> Rows:
    return [[(f"talk-{i}", encode_conversation(TALKS[i])) for i in row] for row in talks_of_rows]


def pair_rows() -> Rows:
    return [
        [
            (f"pair-{i}", encode_conversation(pair.prompt.with_reply(reply)))
            for i, pair in enumerate(PAIRS)
            for reply in (pair.chosen, pair.rejected)
        ]
    ]


def make(
    rows: Rows,
    folder: Path,
    settings: TrainConfig | None = None,
    kind: type[PackedTrainer] = PackedTrainer,
    model: Any = None,
    **extra: Any,
) -> PackedTrainer:
    settings = settings or SftConfig(out=folder, epochs=1, lr=1e-3, warmup=0.0)
    return kind(
        model=model or tiny_model(packed=True),
        args=arguments(settings, validated=False, device=torch.device("cpu")),
        train_dataset=to_dataset(rows),
        processing_class=chat_tokenizer(WINDOW),
        autocast=False,
        **extra,
    )


def first_loss(trainer: PackedTrainer) -> dict[str, float]:
    trainer.train()
    return trainer.state.log_history[0]


def test_the_loss_is_the_token_mean_over_the_replies_only(tmp_path: Path):
    total, count = 0.0, 0
    for conversation in TALKS:
        sample = encode_conversation(conversation)
        logits = tiny_model()(input_ids=torch.tensor([sample.ids])).logits[0, :-1]
        labels = torch.tensor(sample.labels[1:])
        total += cross_entropy(logits, labels, reduction="sum").item()
        count += int((labels != -100).sum())
    loss = first_loss(make(sft_rows([0, 1, 2]), tmp_path))["loss"]
    assert loss == pytest.approx(total / count, rel=1e-6)


def test_accumulated_rows_give_the_loss_and_gradient_of_one_row(tmp_path: Path):
    settings = SftConfig(out=tmp_path / "b", epochs=1, lr=1e-3, grad_accum=3)
    one = first_loss(make(sft_rows([0, 1, 2]), tmp_path / "a"))
    three = first_loss(make(sft_rows([0], [1], [2]), tmp_path / "b", settings))
    assert three["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert three["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)


def test_the_validation_loss_weighs_tokens_and_not_rows(tmp_path: Path):
    trainer = make(sft_rows([0]), tmp_path)
    trainer.eval_dataset = to_dataset(sft_rows([0, 1, 2]))
    together = trainer.evaluate()["eval_loss"]
    trainer.eval_dataset = to_dataset(sft_rows([0], [1, 2]))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(together, rel=1e-6)


def test_the_reply_of_one_step_gets_likelier(tmp_path: Path):
    settings = SftConfig(out=tmp_path, epochs=8, lr=1e-2, warmup=0.0)
    trainer = make(sft_rows([0, 1, 2]), tmp_path, settings)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 1


def test_the_rows_of_the_templates_tokens_move_faster_and_no_others(tmp_path: Path):
    start = tiny_model(packed=True).transformer.wte.weight.detach().clone()
    moved: list[torch.Tensor] = []
    for times in (1.0, 10.0):
        model = tiny_model(packed=True)
        trainer = make(sft_rows([0, 1]), tmp_path / str(times), model=model)
        trainer.add_callback(FasterTokens(times))
        trainer.train()
        moved.append(model.transformer.wte.weight.detach() - start)
    slow, fast = moved
    torch.testing.assert_close(fast[GPT2_VOCAB:], 10 * slow[GPT2_VOCAB:], rtol=1e-3, atol=1e-6)
    assert torch.equal(fast[:GPT2_VOCAB], slow[:GPT2_VOCAB])
    assert slow[EOT_ID].abs().max() > 0


@pytest.fixture
def trl_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, dict[str, float]]:
    """Loss and metrics of TRL's ORPOTrainer on PAIRS in one batch."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOConfig
    from trl.experimental.orpo import ORPOTrainer as TrlOrpoTrainer

    model = tiny_model()
    prompts = [to_text(render(pair.prompt)) for pair in PAIRS]
    rows = {
        "prompt": prompts,
        "chosen": [f"{pair.chosen}<|eot_id|>" for pair in PAIRS],
        "rejected": [f"{pair.rejected}<|eot_id|>" for pair in PAIRS],
    }
    with pytest.warns(FutureWarning, match="gradient_checkpointing"):
        args = ORPOConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=2,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
    trainer = TrlOrpoTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(rows),
        processing_class=chat_tokenizer(WINDOW),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    loss, metrics = trainer.get_batch_loss_metrics(model.eval(), batch)
    return loss.item(), metrics


def test_the_orpo_loss_equals_trls_on_one_batch(
    tmp_path: Path, trl_loss: tuple[float, dict[str, float]]
):
    loss, metrics = trl_loss
    settings = OrpoConfig(out=tmp_path, epochs=1, lr=1e-3)
    ours = first_loss(
        make(pair_rows(), tmp_path, settings, OrpoTrainer, beta=0.1, nll_scope="full")
    )
    assert ours["loss"] == pytest.approx(loss, rel=1e-5)
    assert ours["nll"] == pytest.approx(metrics["nll_loss"], rel=1e-5)
    assert ours["odds_ratio_loss"] == pytest.approx(-metrics["log_odds_ratio"], rel=1e-4)
    assert ours["log_odds_ratio"] == pytest.approx(metrics["log_odds_chosen"], rel=1e-3)
    assert ours["chosen_logp"] == pytest.approx(metrics["logps/chosen"], rel=1e-5)
    assert ours["rejected_logp"] == pytest.approx(metrics["logps/rejected"], rel=1e-5)
    assert ours["accuracy"] == metrics["rewards/accuracies"]


def test_the_likelihood_covers_the_chosen_reply_alone_by_default(tmp_path: Path):
    settings = OrpoConfig(out=tmp_path, epochs=1, lr=1e-3)
    rows = pair_rows()
    orpo = first_loss(
        make(rows, tmp_path / "a", settings, OrpoTrainer, beta=0.1, nll_scope="response")
    )
    sft = first_loss(make([list(rows[0])[0::2]], tmp_path / "b"))
    assert orpo["nll"] == pytest.approx(sft["loss"], rel=1e-6)


def test_without_odds_ratio_term_orpo_is_sft_on_the_chosen_replies(tmp_path: Path):
    settings = OrpoConfig(out=tmp_path, epochs=1, lr=1e-3)
    rows = pair_rows()
    orpo = first_loss(
        make(rows, tmp_path / "a", settings, OrpoTrainer, beta=0.0, nll_scope="response")
    )
    sft = first_loss(make([list(rows[0])[0::2]], tmp_path / "b"))
    assert orpo["grad_norm"] == pytest.approx(sft["grad_norm"], rel=1e-5)


def test_a_loss_that_is_no_number_stops_before_the_weights_and_names_the_samples(tmp_path: Path):
    model = tiny_model(packed=True)
    with torch.no_grad():
        model.transformer.wte.weight[encode_conversation(TALKS[1]).ids[-2]] = torch.inf
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(DataError, match="at step 1; the weights are as they were.*talk-1"):
        make(sft_rows([1]), tmp_path, model=model).train()
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_gradient_that_is_no_number_stops_before_the_weights(tmp_path: Path):
    model = tiny_model(packed=True)

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.nan

    model.transformer.ln_f.weight.register_hook(spoil)
    before = model.transformer.wte.weight.clone()
    with pytest.raises(DataError, match="gradient is not finite at step 1"):
        make(sft_rows([0]), tmp_path, model=model).train()
    assert torch.equal(before, model.transformer.wte.weight)
