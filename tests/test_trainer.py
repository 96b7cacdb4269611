"""The trainers' losses: against slow ones, against TRL's, packed or not, accumulated or not."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from gpt2chat.core.config.training import SftConfig, TrainConfig
from gpt2chat.core.errors import DataError
from gpt2chat.core.model.checkpoint import chat_tokenizer
from gpt2chat.core.text.conversations import Preference
from gpt2chat.core.text.template import render, to_text
from gpt2chat.core.text.tokens import EOT_ID, GPT2_VOCAB, WINDOW, encode_conversation
from gpt2chat.core.training.arguments import arguments
from gpt2chat.core.training.callbacks import FasterTokens, embedding_rows
from gpt2chat.core.training.job import sequence_lengths
from gpt2chat.core.training.objectives import Objective, OrpoObjective, SftObjective, shape_for
from gpt2chat.core.training.tokenized import Tokenized
from gpt2chat.core.training.trainer import PackedTrainer
from tests.helpers import talk, tiny_model

TALKS = [
    talk("What is a comet?", "A ball of ice and dust that circles the Sun."),
    talk("Hi!", "Hello.", "Name a colour.", "Blue, the colour of the sea."),
    talk("2 + 2?", "4"),
]
PAIRS = [
    Preference(talk("What is a comet?"), "A ball of ice and dust.", "No idea, sorry to say."),
    Preference(talk("Hi!", "Hello.", "Name a colour."), "Blue.", "A colour is a thing."),
]
SFT = SftObjective()
CHOSEN_ONLY = OrpoObjective(beta=0.0, nll_scope="response")
ORPO = OrpoObjective(beta=0.1, nll_scope="response")

TOKENS = Tokenized.of(map(encode_conversation, TALKS), ["talk-0", "talk-1", "talk-2"], 1)
PAIR_TOKENS = Tokenized.of(
    [
        encode_conversation(pair.prompt.with_reply(reply))
        for pair in PAIRS
        for reply in (pair.chosen, pair.rejected)
    ],
    ["pair-0", "pair-1"],
    2,
)
CHOSEN_TOKENS = Tokenized.of(
    [encode_conversation(pair.prompt.with_reply(pair.chosen)) for pair in PAIRS], ["0", "1"], 1
)


def make(
    sequences: Sequence[Sequence[int]],
    folder: Path,
    settings: TrainConfig | None = None,
    objective: Objective = SFT,
    tokens: Tokenized = TOKENS,
    model: Any = None,
    *,
    padded: bool = False,
    **extra: Any,
) -> PackedTrainer:
    settings = settings or SftConfig(out=folder, epochs=1, lr=1e-3, warmup=0.0)
    trainer = PackedTrainer(
        model=model or tiny_model(packed=True),
        args=arguments(settings, validated=False, device=torch.device("cpu")),
        objective=objective,
        tokens=tokens,
        sequences=sequences,
        processing_class=chat_tokenizer(WINDOW),
        autocast=False,
        **extra,
    )
    if padded:
        trainer.shape = shape_for(objective, sequence_lengths(tokens, sequences))
    return trainer


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
    loss = first_loss(make([[0, 1, 2]], tmp_path))["loss"]
    assert loss == pytest.approx(total / count, rel=1e-6)


def test_accumulated_sequences_give_the_loss_and_gradient_of_one_sequence(tmp_path: Path):
    settings = SftConfig(out=tmp_path / "b", epochs=1, lr=1e-3, grad_accum=3)
    one = first_loss(make([[0, 1, 2]], tmp_path / "a"))
    three = first_loss(make([[0], [1], [2]], tmp_path / "b", settings))
    assert three["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert three["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)


def test_the_validation_loss_is_a_mean_over_tokens_not_sequences(tmp_path: Path):
    trainer = make([[0]], tmp_path, held_out=TOKENS, held_out_sequences=[[0, 1, 2]])
    together = trainer.evaluate()["eval_loss"]
    trainer.held_out_sequences = [[0], [1, 2]]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(together, rel=1e-6)


def test_one_step_makes_its_reply_more_likely(tmp_path: Path):
    settings = SftConfig(out=tmp_path, epochs=8, lr=1e-2, warmup=0.0)
    trainer = make([[0, 1, 2]], tmp_path, settings)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 1


def test_the_rows_of_the_templates_tokens_move_faster_and_no_others(tmp_path: Path):
    start = tiny_model(packed=True).transformer.wte.weight.detach().clone()
    moved: list[torch.Tensor] = []
    for times in (1.0, 10.0):
        model = tiny_model(packed=True)
        trainer = make([[0, 1]], tmp_path / str(times), model=model)
        trainer.add_callback(FasterTokens(times, embedding_rows))
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
    sequences = {
        "prompt": prompts,
        "chosen": [f"{pair.chosen}<|eot_id|>" for pair in PAIRS],
        "rejected": [f"{pair.rejected}<|eot_id|>" for pair in PAIRS],
    }
    with warnings.catch_warnings():
        # transformers 5.23 renames gradient_checkpointing; 5.17 has one name.
        warnings.filterwarnings("ignore", "`gradient_checkpointing`", FutureWarning)
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
        train_dataset=Dataset.from_dict(sequences),
        processing_class=chat_tokenizer(WINDOW),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    loss, metrics = trainer.get_batch_loss_metrics(model.eval(), batch)
    return loss.item(), metrics


def test_the_orpo_loss_equals_trls_on_one_batch(
    tmp_path: Path, trl_loss: tuple[float, dict[str, float]]
):
    loss, metrics = trl_loss
    objective = OrpoObjective(beta=0.1, nll_scope="full")
    ours = first_loss(make([[0, 1]], tmp_path, objective=objective, tokens=PAIR_TOKENS))
    assert ours["loss"] == pytest.approx(loss, rel=1e-5)
    assert ours["nll"] == pytest.approx(metrics["nll_loss"], rel=1e-5)
    assert ours["odds_ratio_loss"] == pytest.approx(-metrics["log_odds_ratio"], rel=1e-4)
    assert ours["log_odds_ratio"] == pytest.approx(metrics["log_odds_chosen"], rel=1e-3)
    assert ours["chosen_logp"] == pytest.approx(metrics["logps/chosen"], rel=1e-5)
    assert ours["rejected_logp"] == pytest.approx(metrics["logps/rejected"], rel=1e-5)
    assert ours["accuracy"] == metrics["rewards/accuracies"]


def test_the_likelihood_covers_the_chosen_reply_alone_by_default(tmp_path: Path):
    orpo = first_loss(make([[0, 1]], tmp_path / "a", objective=ORPO, tokens=PAIR_TOKENS))
    sft = first_loss(make([[0, 1]], tmp_path / "b", tokens=CHOSEN_TOKENS))
    assert orpo["nll"] == pytest.approx(sft["loss"], rel=1e-6)


def test_without_odds_ratio_term_orpo_is_sft_on_the_chosen_replies(tmp_path: Path):
    orpo = first_loss(make([[0, 1]], tmp_path / "a", objective=CHOSEN_ONLY, tokens=PAIR_TOKENS))
    sft = first_loss(make([[0, 1]], tmp_path / "b", tokens=CHOSEN_TOKENS))
    assert orpo["grad_norm"] == pytest.approx(sft["grad_norm"], rel=1e-5)


@pytest.mark.parametrize(("objective", "tokens"), [(SFT, TOKENS), (ORPO, PAIR_TOKENS)])
def test_padded_sequences_give_the_same_losses_as_unpadded_ones(
    objective: Objective, tokens: Tokenized, tmp_path: Path
):
    settings = SftConfig(out=tmp_path, epochs=3, lr=1e-2, warmup=0.0)
    logs: list[list[dict[str, float]]] = []
    operations: list[float] = []
    for padded in (False, True):
        trainer = make(
            [[0, 1], []], tmp_path, settings, objective, tokens,
            model=tiny_model(packed=True).double(), padded=padded,
        )  # fmt: skip
        trainer.args.gradient_accumulation_steps = 2
        trainer.train()
        logs.append([line for line in trainer.state.log_history if "loss" in line])
        operations.append(trainer.flops_seen)
    assert operations[0] == operations[1] > 0  # padding needs none
    assert len(logs[0]) == 3
    for plain, padded in zip(*logs, strict=True):
        assert padded == pytest.approx(plain, rel=1e-9)


def test_training_on_all_tokens_is_validated_on_the_replies(tmp_path: Path):
    whole = SftObjective("all")
    held: dict[str, Any] = {"held_out": TOKENS, "held_out_sequences": [[0, 1, 2]]}
    reply, everything = (
        make([[0, 1, 2]], tmp_path, objective=objective, **held) for objective in (SFT, whole)
    )
    assert everything.evaluate() == pytest.approx(reply.evaluate(), rel=1e-6)
    trained = [trainer.collate([{"items": [0, 1, 2]}])["counts"] for trainer in (reply, everything)]
    total = int(TOKENS.lengths.sum())
    assert [int(count) for count in trained] == [
        total - int(TOKENS.prompt_lengths.sum()),
        total - len(TOKENS),
    ]


def test_a_nan_loss_ends_the_run_before_the_weights_change_and_names_the_samples(tmp_path: Path):
    model = tiny_model(packed=True)
    with torch.no_grad():
        # A position that talk-1 alone is long enough to have.
        model.transformer.wpe.weight[int(TOKENS.lengths[1]) - 2] = torch.inf
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(DataError, match=r"step 1\b.* talk-1\.$"):
        make([[0, 1, 2]], tmp_path, model=model).train()
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def spoil(gradient: torch.Tensor) -> torch.Tensor:
    return gradient * torch.nan


def test_a_nan_gradient_ends_the_run_before_the_weights_change(tmp_path: Path):
    model = tiny_model(packed=True)
    model.transformer.ln_f.weight.register_hook(spoil)
    before = model.transformer.wte.weight.clone()
    with pytest.raises(DataError, match=r"gradient.* step 1\b.*talk-0, talk-2"):
        make([[0, 2]], tmp_path, model=model).train()
    assert torch.equal(before, model.transformer.wte.weight)


def test_a_bad_step_that_is_detected_later_has_changed_no_weight(tmp_path: Path):
    """As on a GPU: nothing waits for the loss, and AdamW is told on the device to do nothing."""
    model: Any = tiny_model(packed=True)
    settings = SftConfig(out=tmp_path, epochs=6, lr=1e-2, warmup=0.0)
    trainer = make([[0]], tmp_path, settings, model=model, lag=True)
    trainer.args.logging_steps = trainer.state.logging_steps = 5
    weights: list[torch.Tensor] = []

    class Spoil(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            weights.append(model.transformer.ln_f.weight.detach().clone())
            if state.global_step == 2:
                model.transformer.h[0].ln_1.weight.register_hook(spoil)

    trainer.add_callback(Spoil())
    with pytest.raises(DataError, match=r"gradient.* step 3\b.*talk-0"):
        trainer.train()
    assert len(weights) == 5
    assert not torch.equal(weights[1], weights[2])
    assert torch.equal(weights[2], weights[4])
    assert torch.equal(weights[2], model.transformer.ln_f.weight)
