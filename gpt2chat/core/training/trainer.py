"""Train on packed sequences with transformers' Trainer, by way of TRL's SFTTrainer.

Optimizer, accumulation, checkpoints, resuming and several processes are transformers' own. This
module adds the rest: a batch is one sequence, logits are computed only where a token is trained,
and a step whose loss or gradient is not finite never reaches the weights.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import GPT2Config
from transformers.optimization import get_scheduler
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_trainer import SFTTrainer

from gpt2chat.core.errors import DataError, Interrupted
from gpt2chat.core.files import reading
from gpt2chat.core.model.flops import row_flops
from gpt2chat.core.model.packing import SequenceShape
from gpt2chat.core.runs import Run
from gpt2chat.core.training.guard import Guard
from gpt2chat.core.training.objectives import Objective, lay_out_for
from gpt2chat.core.training.tokenized import Tokenized

Sequences = Sequence[Sequence[int]]
"""The numbers of the items of a Tokenized that each packed sequence holds."""


SHORT_RUN = 20
"""Up to this number of steps, a run cannot afford a step that trains nothing. With the default
warm-up, a share of 0.05 rounded up, these are the runs whose warm-up is a single step."""


class SequenceSampler(Sampler[int]):
    """Draws the order of the sequences in an epoch.

    The order depends only on the seed and the epoch, not on the number of processes or the step a
    run resumes from. Empty sequences come last.

    Args:
        epoch: Returns the number of the epoch that begins.
    """

    def __init__(self, sequences: Sequences, seed: int, epoch: Callable[[], int]):
        self.sequences, self.seed, self.epoch = sequences, seed, epoch

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[int]:
        full = [index for index, sequence in enumerate(self.sequences) if sequence]
        # Both numbers, so that a resumed run draws the order of its epoch without those before it.
        random.Random(f"{self.seed} {self.epoch()}").shuffle(full)
        yield from full
        yield from (index for index, sequence in enumerate(self.sequences) if not sequence)


class Votes:
    """Lets all processes of a run stop, or save, after the same step.

    A process that stopped by itself would leave the others waiting for it. So each adds its wishes
    to the token counts that the processes exchange before a step anyway, and acts on the sums.

    Args:
        wishes: Returns 1.0 for each thing this process wants now, and 0.0 for the others. Fixed
            length.
    """

    def __init__(self, wishes: Callable[[], list[float]]):
        self.wishes = wishes
        self.totals: Tensor | None = None
        """Number of processes with each wish before the current step; None before the first."""


class PackedTrainer(SFTTrainer):
    """Trains on packed samples by an objective.

    Args:
        objective: The loss: SFT's or ORPO's.
        tokens: The training samples.
        sequences: The items of `tokens` in each sequence. The number of sequences is a multiple of
            the number of processes.
        held_out, held_out_sequences: The same for validation.
        autocast: Compute in bf16.
        shape: Pad every sequence of training to these sizes, and compile transformer, head and
            log-softmax into one graph for them.
        lag: Check for bad steps only at the next line of metrics, so that no step waits for the
            device. Default: on a GPU.
    """

    # `compute_loss` divides by the counts of the whole optimizer step.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        objective: Objective,
        tokens: Tokenized,
        sequences: Sequences,
        held_out: Tokenized | None = None,
        held_out_sequences: Sequences = (),
        autocast: bool,
        shape: SequenceShape | None = None,
        lag: bool | None = None,
        **kwargs: Any,
    ):
        self.objective = objective
        self.sequences = sequences
        self.tokens, self.held_out, self.held_out_sequences = tokens, held_out, held_out_sequences
        self.autocast = autocast
        self.shape = shape
        self.tokens_seen = 0
        """Tokens that this process has trained on since it started."""
        self.flops_seen = 0.0
        """Floating-point operations that these tokens needed, forward and backward."""
        self.votes: Votes | None = None
        self.on_validate: Callable[[], None] | None = None
        """Called before each validation, by the first process."""
        self._sums: dict[str, Tensor] = {}
        self._summed_after = 0
        """The step after which the sums begin."""
        if shape is not None:
            # A break of the graph, or another shape, would cost more than compiling gains: it is an
            # error, not a second graph.
            kwargs["model"].compile(fullgraph=True, dynamic=False)
        super().__init__(
            data_collator=self.collate,
            train_dataset=Dataset.from_dict({"items": [list(sequence) for sequence in sequences]}),
            # transformers requires an evaluation set; `evaluate` below does not read it.
            eval_dataset=Dataset.from_dict({"items": [[0]]}) if len(held_out_sequences) else None,
            **kwargs,
        )
        self.lag = self.args.device.type == "cuda" if lag is None else lag
        self.guard = Guard(self._blame, self._names, self._over_processes, gather_object)
        self.remove_callback(PrinterCallback)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return transformers' schedule, in which every step of a short run trains.

        A warm-up starts at a rate of 0: its first step fills AdamW's moments and changes no weight.
        In a long run that hardly matters, but a run of one step would train nothing. So in a run of
        up to SHORT_RUN steps the first one gets half the rate of the second, and the warm-up ends
        before the last one.
        """
        if num_training_steps > SHORT_RUN:
            return super().create_scheduler(num_training_steps, optimizer)
        args: Any = self.args
        optimizer = optimizer or self.optimizer
        warmup = min(args.get_warmup_steps(num_training_steps), num_training_steps - 1)
        planned: Any = get_scheduler(
            args.lr_scheduler_type, optimizer, warmup, num_training_steps,
            args.lr_scheduler_kwargs,
        )  # fmt: skip
        # All groups of weights share one schedule.
        shared: Callable[[int], float] = planned.lr_lambdas[0]

        def rate(step: int) -> float:
            return shared(step) if step else shared(0) or shared(1) / 2

        self.lr_scheduler = LambdaLR(optimizer, rate)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _send_telemetry(self) -> None:
        """Report nothing: TRL reports every start to its authors, and data here may be private."""

    def train(self, *given: Any, **named: Any) -> Any:
        """Train as transformers does, and leave PyTorch the threads that it had (cores.py)."""
        threads = torch.get_num_threads()
        try:
            return super().train(*given, **named)
        finally:
            torch.set_num_threads(threads)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # At the end of an epoch `epoch` is a whole number, except for rounding.
        return SequenceSampler(
            self.sequences, self.args.seed, lambda: int((self.state.epoch or 0.0) + 1e-6)
        )

    def collate(self, sequences: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the tensors of one sequence to train on; see `sequence`."""
        (sequence,) = sequences  # the batch size is 1: packing has filled it
        return self.sequence(self.tokens, sequence["items"], training=True)

    def sequence(
        self, tokens: Tokenized, items: Sequence[int], *, training: bool
    ) -> dict[str, Any]:
        """Return the tensors of one packed sequence, its items, its `counts`, and the lengths and
        number of trained tokens from which its operations are counted."""
        samples = tokens.samples_of(items)
        lengths, prompts = tokens.lengths[samples], tokens.prompt_lengths[samples]
        laid = lay_out_for(
            self.objective,
            tokens.tokens_of(samples),
            lengths,
            prompts,
            self.shape if training else None,
            training=training,
        )
        trained = int(laid["weights"].sum())
        return {**laid, "items": items, "lengths": lengths.tolist(), "trained": trained}

    def logps(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Return the log-probabilities of a sequence's trained tokens, float32. Shape (tokens,)."""
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.autocast):
            return model(
                input_ids=inputs["input_ids"],
                position_ids=inputs["position_ids"],
                cu_seq_lens_q=inputs["cu_seq_lens_q"],
                max_length_q=inputs["max_length_q"],
                logit_positions=inputs["logit_positions"],
                targets=inputs["targets"],
            )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        logps = self.logps(model, inputs)
        loss, shares = self.objective.loss(logps, inputs, num_items_in_batch)
        self.guard.add_loss(self.state.global_step + 1, loss, inputs["items"])
        self.tokens_seen += sum(inputs["lengths"])
        self.flops_seen += row_flops(self._config, inputs["lengths"], inputs["trained"])
        if not self._sums:
            self._summed_after = self.state.global_step
        for name, share in shares.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(share)) + share.detach()
        # DDP averages gradients over the processes; the divisor counts all of them already.
        return loss * self.accelerator.num_processes

    @property
    def _config(self) -> Any:
        return self.accelerator.unwrap_model(self.model).config

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        counts = torch.stack([batch["counts"] for batch in batch_samples]).sum(0).to(device)
        # A single process needs no vote, and copying its wishes to a GPU would wait for the
        # previous step.
        if self.args.world_size == 1:
            return counts
        wishes = self.votes.wishes() if self.votes else []
        cast = torch.tensor(wishes, dtype=counts.dtype, pin_memory=device.type == "cuda")
        totals = self._over_processes(torch.cat([counts, cast.to(device, non_blocking=True)]))
        if self.votes:
            self.votes.totals = totals[len(counts) :]
        return totals[: len(counts)]

    def _clip_grad_norm(self, model: Any) -> Any:
        norm: Any = super()._clip_grad_norm(model)
        wrapped: Any = self.optimizer
        # With FSDP the norm is a DTensor, of which each process holds a part.
        whole = norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)
        self.guard.stop(whole, wrapped.optimizer)
        if not self.lag:
            self.guard.check()
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the objective's metrics: means over the steps since the last line of metrics."""
        # A line of metrics waits for the device anyway.
        self.guard.check()
        if "loss" in logs and self._sums:
            sums = self._over_processes(torch.stack(list(self._sums.values())))
            steps = max(1, self.state.global_step - self._summed_after)
            logs.update(zip(self._sums, (sums / steps).tolist(), strict=True))
            self._sums.clear()
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.guard.check()
        super()._save_checkpoint(model, trial)
        # Each process writes its own state of the random numbers, and the seal covers all files.
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            run = Run(folder.parent)
            run.seal(folder / f"checkpoint-{self.state.global_step}")
            run.prune(self.state.best_global_step)

    # The methods below name the file when a checkpoint is damaged; what transformers raises does
    # not. All of them load with torch.load(weights_only=True) or safetensors, which run no code.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        config = Path(resume_from_checkpoint) / "config.json"
        if config.exists():
            with reading(config):
                GPT2Config.from_json_file(config)
        with reading(_weights_of(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        with reading(_weights_of(str(self.state.best_model_checkpoint))):
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise where transformers only logs: a resumed run must not train without its weights."""
        tied: Any = getattr(self.model, "all_tied_weights_keys", {})
        wrong = {*load_result.missing_keys, *load_result.unexpected_keys} - set(tied)
        if wrong:
            raise ValueError(f"its tensors are not the model's: {min(wrong)}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        scheduler = Path(checkpoint) / "scheduler.pt"
        with reading(scheduler):
            torch.load(scheduler, weights_only=True)
        with reading(Path(checkpoint) / "optimizer.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)
            # PyTorch takes moments of any shape, and fails in the middle of the first step.
            optimizer: Any = self.optimizer
            for weight, state in optimizer.state.items():
                shapes = {name: value.shape for name, value in state.items() if name != "step"}
                if any(shape != weight.shape for shape in shapes.values()):
                    raise ValueError("its shapes are not the model's")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        one = self.args.world_size == 1
        name = "rng_state.pth" if one else f"rng_state_{self.args.process_index}.pth"
        with reading(Path(checkpoint or "") / name):
            super()._load_rng_state(checkpoint)

    def save_model(self, *given: Any, **named: Any) -> None:
        """Write the weights of a checkpoint.

        Raises:
            DataError: A step has moved them too far.
        """
        self._check_weights()
        super().save_model(*given, **named)

    @torch.no_grad()
    def _check_weights(self) -> None:
        """Run a sequence: a step with a finite gradient may still move the weights too far."""
        model: Any = self.model_wrapped
        model.eval()
        items = self.sequences[self.args.process_index]
        sequence = self._prepare_inputs(self.sequence(self.tokens, items, training=False))
        finite = torch.isfinite(self.logps(self._uncompiled(), sequence)).all()
        if self._over_processes((~finite).float()) > 0:
            raise self._spoiled("not finite")

    def _spoiled(self, loss: float | str) -> DataError:
        if self.state.global_step == 0:
            return DataError(
                f"The loss of the validation samples is {loss} before the first step: the model "
                "itself is damaged. Load it again, or choose another `model`.",
                setting="model",
            )
        return DataError(
            f"The loss is {loss} after step {self.state.global_step}: the weights went too far and "
            "are not saved. Start over with a lower `lr` and `overwrite=True`.",
            setting="lr",
        )

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the loss and the objective's other metrics, as means over the held-out sequences.

        Raises:
            DataError: One of them is not finite, because of an earlier step or because the model
                was damaged from the start.
            Interrupted: A signal came before the first step, so there is nothing to save.
        """
        assert self.held_out is not None
        if self.on_validate is not None and self.is_world_process_zero():
            self.on_validate()
        # Only before the first step: later, the step that follows is saved.
        votes = self.votes if self.state.global_step == 0 else None
        model: Any = self.model_wrapped
        model.eval()
        sequences = [
            self.sequence(self.held_out, items, training=False) for items in self.held_out_sequences
        ]
        counts = (
            torch.stack([sequence["counts"] for sequence in sequences]).sum(0).to(self.args.device)
        )
        sums: dict[str, Tensor] = {"loss": torch.zeros((), device=self.args.device)}
        for sequence in sequences[self.args.process_index :: self.args.world_size]:
            # Under FSDP a sequence needs all processes.
            if votes is not None and votes.wishes()[0] and not self.is_fsdp_enabled:
                break
            inputs = self._prepare_inputs(sequence)
            logps = self.logps(self._uncompiled(), inputs)
            loss, shares = self.objective.loss(logps, inputs, counts)
            for name, share in {"loss": loss, **shares}.items():
                sums[name] = sums.get(name, torch.zeros_like(share)) + share
        if votes is not None:
            wishes = torch.tensor(votes.wishes(), device=self.args.device)
            if self._over_processes(wishes)[0] > 0:
                raise Interrupted(
                    "Stopped before the first step: nothing is saved. Start the run again."
                )
        means: list[float] = self._over_processes(torch.stack(list(sums.values()))).tolist()
        if not all(map(math.isfinite, means)):
            raise self._spoiled(means[0])
        # transformers picks the best checkpoint by eval_loss.
        metrics = {f"eval_{name}": mean for name, mean in zip(sums, means, strict=True)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _uncompiled(self) -> Any:
        """Return a function that runs a sequence of any shape, without compiling a graph for it."""
        # FSDP gathers the weights in the model's own call and nowhere else.
        sharded: Any = self.model_wrapped
        return (
            sharded if self.is_fsdp_enabled else self.accelerator.unwrap_model(self.model).forward
        )

    def tokens_of_all(self) -> int:
        """Return the tokens that all processes have trained on since they started."""
        seen = torch.tensor(self.tokens_seen, device=self.args.device)
        return int(self._over_processes(seen).item())

    def _names(self, items: Sequence[int]) -> list[str]:
        return [self.tokens.names[item] for item in items]

    @torch.no_grad()
    def _blame(self, items: Sequence[int]) -> list[str]:
        """Run each sample of a sequence; return those whose log-probabilities are not finite."""
        names: list[str] = []
        if self.is_fsdp_enabled:
            # A forward pass needs all processes, and the others' sequences may have no bad sample.
            return names
        for item in items:
            sequence = self._prepare_inputs(self.sequence(self.tokens, [item], training=False))
            finite = torch.isfinite(self.logps(self._uncompiled(), sequence))
            sides = sequence["segments"][~finite].unique().tolist()
            ends = [f" ({('chosen', 'rejected')[side]})" for side in sides]
            names += [self.tokens.names[item] + end * (self.tokens.sides == 2) for end in ends]
        return names

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card into a checkpoint; the run folder gets its own (card.py)."""

    def _over_processes(self, value: Tensor) -> Tensor:
        reduced: Any = self.accelerator.reduce(value, "sum")
        return reduced


def _weights_of(checkpoint: str) -> Path:
    adapter = Path(checkpoint) / "adapter_model.safetensors"
    return adapter if adapter.exists() else adapter.with_name("model.safetensors")
