"""Translate our settings into TRL's, and read which process of a run this is."""

import os
import warnings
from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig

from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.runs import CHECKPOINTS

GPU_LOGGING = 20
"""Steps between two lines of metrics on a GPU: reading a number from it waits for all its work, by
estimate half a step's time. Of GPT-2 124M, 20 steps of 32,768 tokens take 1.4 s on an H100."""


def process_count() -> int:
    """Return the number of processes that share the run, as torchrun and accelerate launch set it.

    Read from the environment, because accelerate's own state would start the process group with
    its defaults as soon as it was asked.
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_leader() -> bool:
    """Say whether this is the process of the run that writes files and prints."""
    return os.environ.get("RANK", "0") == "0"


def is_sharded() -> bool:
    """Say whether FSDP gives each process a part of the weights, as `accelerate launch` sets it."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def arguments(
    settings: TrainConfig, validated: bool, device: torch.device, max_steps: int = -1
) -> SFTConfig:
    """Return TRL's settings for a run on packed rows.

    Args:
        validated: Whether there are rows to validate on.
        max_steps: End after this many steps and save nothing, for a trial; -1 for a whole run.
    """
    # Our name and transformers' name, where they differ.
    schedule = {"constant": "constant_with_warmup", "inverse-sqrt": "inverse_sqrt"}.get(
        settings.schedule, settings.schedule
    )
    values: dict[str, Any] = {
        "output_dir": str(settings.out / CHECKPOINTS),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        "lr_scheduler_type": schedule,
        # Below 1 a share of the steps, else their number.
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        # A batch is one packed row.
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": settings.grad_accum,
        # TRL turns it on. It computes each layer twice to save memory.
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        # Autocast is ours, around the forward: the trainer's would copy the logits to float32.
        "bf16": False,
        "use_cpu": device.type == "cpu",
        # The samples are encoded and packed: TRL must neither cut nor encode them.
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        # A row has the items of a sequence, which the model's forward does not take by that name.
        "remove_unused_columns": False,
        # Copy a row to the GPU while it still works on the one before.
        "accelerator_config": {"non_blocking": device.type == "cuda"},
        # Every weight takes part in every step, so DDP need not search for others.
        "ddp_find_unused_parameters": False,
        # Watch (callbacks.py) decides when to validate and save: these intervals never come.
        "eval_strategy": "steps" if validated else "no",
        "eval_steps": 10**9,
        "save_strategy": "steps",
        "save_steps": 10**9,
        # Old checkpoints are removed once the new one is sealed (trainer.py), not before.
        "save_total_limit": None,
        "load_best_model_at_end": validated,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "logging_steps": GPU_LOGGING if device.type == "cuda" else 1,
        # The filter would put a mean of other steps in place of a loss that is not finite.
        "logging_nan_inf_filter": False,
        # Trackers are callbacks of ours (trackers.py).
        "report_to": "none",
        "run_name": settings.out.name,
        "project": "gpt2chat",
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
        "seed": settings.seed,
    }
    if settings.cycles > 1:
        values["lr_scheduler_type"] = "cosine_with_restarts"
        values["lr_scheduler_kwargs"] = {"num_cycles": settings.cycles}
    if max_steps > 0:
        values |= {"max_steps": max_steps, "save_strategy": "no"}
    with warnings.catch_warnings():
        # transformers 5.23 renames gradient_checkpointing, which TRL turns on; 5.17 has one name.
        warnings.filterwarnings("ignore", "`gradient_checkpointing`", FutureWarning)
        made = SFTConfig(**values)
    # One process trains on one device; transformers would split a row over all GPUs it sees.
    if made.n_gpu > 1:
        made._n_gpu = 1  # pyright: ignore[reportPrivateUsage]
    return made
