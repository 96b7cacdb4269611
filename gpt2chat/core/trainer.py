"""TRL's SFTTrainer on packed rows, for SFT and for ORPO. The one module that imports trl.

Optimizer, schedule, accumulation, data order, checkpoints, resuming and several processes are
TRL's and transformers' own. What is ours: the batch is one packed row, logits are computed where
a token is trained only, and a step whose loss or gradient is not finite never reaches the weights.
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from gpt2chat.core.config import NllScope, TrainConfig
from gpt2chat.core.errors import DataError
from gpt2chat.core.losses import log_odds, odds_ratio_losses, segment_means
from gpt2chat.core.packing import pack_row
from gpt2chat.core.runs import CHECKPOINTS
from gpt2chat.core.tokens import GPT2_VOCAB, Encoded

# trl reports each start to its authors; a tool that works on private chats does not.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer


def to_dataset(rows: Iterable[Sequence[tuple[str, Encoded]]]) -> Dataset:
    """Return packed rows, each a list of (sample id, encoded sample), as a data set for TRL."""
    return Dataset.from_list(
        [
            {
                "names": [name for name, _ in row],
                "ids": [sample.ids for _, sample in row],
                "prompt_lengths": [sample.prompt_length for _, sample in row],
            }
            for row in rows
        ]
    )


def arguments(settings: TrainConfig, validated: bool, device: torch.device) -> SFTConfig:
    """Return TRL's settings for a run on packed rows."""
    with warnings.catch_warnings():
        # transformers 5.23 renames gradient_checkpointing, which TRL turns on; 5.17 has one name.
        warnings.filterwarnings("ignore", "`gradient_checkpointing`", FutureWarning)
        return _arguments(settings, validated, device)


def _arguments(settings: TrainConfig, validated: bool, device: torch.device) -> SFTConfig:
    return SFTConfig(
        output_dir=str(settings.out / CHECKPOINTS),
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        # A batch is one packed row.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.grad_accum,
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        # Autocast is ours, around the forward: the trainer's would copy the logits to float32.
        bf16=False,
        use_cpu=device.type == "cpu",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        # The callback says when to validate and save.
        eval_strategy="steps" if validated else "no",
        eval_steps=10**9,
        save_strategy="steps",
        save_steps=10**9,
        save_total_limit=2,
        load_best_model_at_end=validated,
        metric_for_best_model="loss",
        greater_is_better=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
    )


class FasterTokens(TrainerCallback):
    """Lets the rows of the template's tokens move `times` as far in each step as AdamW says.

    AdamW moves a number by about the learning rate, however large its gradient. The rows begin at
    the mean of all others, and a short run ends before they are far from it: after 64 steps at
    2e-4 the starter model still gave the end of a turn, where it stood, e⁻¹³. They are part of
    the embedding matrix, so no parameter group can hold them.
    """

    def __init__(self, times: float):
        self.times = times
        self.before = torch.empty(0)

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.before = self._rows(model).clone()

    def on_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        rows = self._rows(model)
        rows.copy_(self.before + self.times * (rows - self.before))

    def _rows(self, model: Any) -> Tensor:
        weight: Tensor = model.get_input_embeddings().weight
        return weight.detach()[GPT2_VOCAB:]


class PackedTrainer(SFTTrainer):
    """Trains on the replies of packed samples.

    L = -Σ log p(token) / (trained tokens of the whole step, over all rows and processes)
    """

    # `compute_loss` divides by the counts of the whole optimizer step.
    loss_is_scaled_for_ga = True

    def __init__(self, *, autocast: bool, **kwargs: Any):
        self.autocast = autocast
        self.tokens_seen = 0
        """Tokens that this process has trained on since it started."""
        self._sums: dict[str, Tensor] = {}
        super().__init__(data_collator=self.collate, **kwargs)
        self.remove_callback(PrinterCallback)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the tensors of one packed row, its sample ids, and what it adds to `counts`."""
        (row,) = rows
        samples = [Encoded(*pair) for pair in zip(row["ids"], row["prompt_lengths"], strict=True)]
        packed = pack_row(samples)
        return {**asdict(packed), "names": row["names"], "counts": torch.tensor([len(packed.kept)])}

    def objective(
        self, logps: Tensor, inputs: dict[str, Any], counts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a row's share of the step's loss, and its shares of what is logged beside it.

        Args:
            logps: Log-probabilities of the row's trained tokens, float32. Shape (tokens,).
            counts: Sum of the rows' `counts` over the step; shares of all rows add up to means.
        """
        return -logps.sum() / counts[0], {}

    def logps(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return the log-probabilities of a row's trained tokens, float32. Shape (tokens,)."""
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.autocast):
            return model(
                input_ids=inputs["input_ids"],
                position_ids=inputs["position_ids"],
                cu_seq_lens_q=inputs["cu_seq_lens_q"],
                max_length_q=inputs["max_length_q"],
                kept=inputs["kept"],
                targets=inputs["targets"],
            )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss, shares = self.objective(self.logps(model, inputs), inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise DataError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}; the weights are "
                f"as they were. Samples in that row: {', '.join(inputs['names'])}."
            )
        self.tokens_seen += inputs["input_ids"].shape[1]
        for name, share in shares.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(share)) + share.detach()
        # DDP averages gradients over the processes; the divisor counts all of them already.
        return loss * self.accelerator.num_processes

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        counts = torch.stack([batch["counts"] for batch in batch_samples]).sum(0)
        return self._over_processes(counts.to(device))

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if not torch.isfinite(torch.as_tensor(norm)):
            raise DataError(
                f"The gradient is not finite at step {self.state.global_step + 1}; the weights are "
                "as they were. Try a lower --lr, or --precision fp32."
            )
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what the objective logs, over rows and processes."""
        if "loss" in logs and self._sums:
            sums = self._over_processes(torch.stack(list(self._sums.values())))
            steps = max(1, self.state.global_step - self._logged_step)
            logs.update(zip(self._sums, (sums / steps).tolist(), strict=True))
            self._sums.clear()
        self._logged_step = self.state.global_step
        super().log(logs, start_time)

    _logged_step = 0

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the loss, and what is logged beside it, as means over the held-out rows."""
        model: Any = self.accelerator.unwrap_model(self.model)
        model.eval()
        held_out: Any = self.eval_dataset
        rows = [self.collate([row]) for row in held_out]
        counts = torch.stack([row["counts"] for row in rows]).sum(0).to(self.args.device)
        sums: dict[str, Tensor] = {"loss": torch.zeros((), device=self.args.device)}
        for row in rows[self.args.process_index :: self.args.world_size]:
            inputs = self._prepare_inputs(row)
            loss, shares = self.objective(self.logps(model, inputs), inputs, counts)
            for name, share in {"loss": loss, **shares}.items():
                sums[name] = sums.get(name, torch.zeros_like(share)) + share
        means: list[float] = self._over_processes(torch.stack(list(sums.values()))).tolist()
        metrics = {f"eval_{name}": mean for name, mean in zip(sums, means, strict=True)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none beside a checkpoint: the run folder gets one of ours (core/card.py)."""

    def _over_processes(self, value: Tensor) -> Tensor:
        reduced: Any = self.accelerator.reduce(value, "sum")
        return reduced


class OrpoTrainer(PackedTrainer):
    """Trains on packed pairs: samples 2i and 2i + 1 of a row are chosen and rejected.

        L = NLL(chosen) + β · mean over pairs of -log σ(log odds(chosen) - log odds(rejected))

    Source:
        Hong, Lee and Thorne (2024), ORPO, arXiv:2403.07691, equation 6.
    """

    def __init__(self, *, beta: float, nll_scope: NllScope, **kwargs: Any):
        self.beta = beta
        self.nll_scope = nll_scope
        super().__init__(**kwargs)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the same as for SFT, with `replies` marking the trained tokens of replies."""
        (row,) = rows
        lengths = torch.tensor(row["prompt_lengths"])
        counted = lengths.clone()
        if self.nll_scope == "full":
            counted[0::2] = 1
        packed = pack_row(
            [Encoded(*pair) for pair in zip(row["ids"], counted.tolist(), strict=True)]
        )
        positions = packed.position_ids[0, packed.kept] + 1
        chosen_tokens = (packed.segments % 2 == 0).sum()
        return {
            **asdict(packed),
            "replies": positions >= lengths[packed.segments],
            "names": row["names"],
            "counts": torch.stack([chosen_tokens, torch.tensor(len(lengths) // 2)]),
        }

    def objective(
        self, logps: Tensor, inputs: dict[str, Any], counts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        segments, replies = inputs["segments"], inputs["replies"]
        means = segment_means(logps[replies], segments[replies], len(inputs["names"]))
        chosen, rejected = means[0::2], means[1::2]
        nll = -logps[segments % 2 == 0].sum() / counts[0]
        odds = odds_ratio_losses(chosen, rejected).sum() / counts[1]
        return nll + self.beta * odds, {
            "nll": nll,
            "odds_ratio_loss": odds,
            "log_odds_ratio": (log_odds(chosen) - log_odds(rejected)).sum() / counts[1],
            "chosen_logp": chosen.sum() / counts[1],
            "rejected_logp": rejected.sum() / counts[1],
            "accuracy": (chosen > rejected).float().sum() / counts[1],
            "margin": (chosen - rejected).sum() / counts[1],
        }
