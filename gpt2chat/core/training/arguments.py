"""TRL's settings for a run on packed rows, and the processes that share it."""

import os
import warnings
from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig

from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.runs import CHECKPOINTS

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
"""Of this run, as torchrun and accelerate launch say."""
LEADS = os.environ.get("RANK", "0") == "0"
"""This process is the one of the run that writes."""
SHARDED = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
"""Each process holds a part of the weights, as `accelerate launch` says."""

GPU_LOGGING = 10
"""Steps between two lines of metrics on a GPU: to ask it for a number is to wait for it."""


def arguments(
    settings: TrainConfig, validated: bool, device: torch.device, max_steps: int = -1
) -> SFTConfig:
    """Return TRL's settings for a run on packed rows.

    Args:
        validated: Whether there is anything to validate on.
        max_steps: End after so many and save nothing, for a trial; -1 for a whole run.
    """
    with warnings.catch_warnings():
        # transformers 5.23 renames gradient_checkpointing, which TRL turns on; 5.17 has one name.
        warnings.filterwarnings("ignore", "`gradient_checkpointing`", FutureWarning)
        values = _arguments(settings, validated, device)
        if max_steps > 0:
            values |= {"max_steps": max_steps, "save_strategy": "no"}
        made = SFTConfig(**values)
    # One process trains on one device; transformers would split a row over all GPUs it sees.
    if made.n_gpu > 1:
        made._n_gpu = 1  # pyright: ignore[reportPrivateUsage]
    return made


def _arguments(settings: TrainConfig, validated: bool, device: torch.device) -> dict[str, Any]:
    return {
        "output_dir": str(settings.out / CHECKPOINTS),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        **_schedule(settings),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        # A batch is one packed row.
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": settings.grad_accum,
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        # Autocast is ours, around the forward: the trainer's would copy the logits to float32.
        "bf16": False,
        "use_cpu": device.type == "cpu",
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        # Rows are copied to the GPU while it works on the one before.
        "accelerator_config": {"non_blocking": device.type == "cuda"},
        "ddp_find_unused_parameters": False,
        # The callback says when to validate and save.
        "eval_strategy": "steps" if validated else "no",
        "eval_steps": 10**9,
        "save_strategy": "steps",
        "save_steps": 10**9,
        # Older ones go when the new one is sealed (trainer.py), not before.
        "save_total_limit": None,
        "load_best_model_at_end": validated,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "logging_steps": GPU_LOGGING if device.type == "cuda" else 1,
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


def _schedule(settings: TrainConfig) -> dict[str, Any]:
    names = {"constant": "constant_with_warmup", "inverse-sqrt": "inverse_sqrt"}
    chosen: dict[str, Any] = {"lr_scheduler_type": names.get(settings.schedule, settings.schedule)}
    if settings.cycles > 1:
        chosen["lr_scheduler_type"] = "cosine_with_restarts"
        chosen["lr_scheduler_kwargs"] = {"num_cycles": settings.cycles}
    # Below 1 a share of the steps, else their number.
    return {**chosen, "warmup_steps": settings.warmup}


def wait_for_all(settings: TrainConfig, device: torch.device) -> bool:
    """Wait until every process of the run is here; return whether this one leads."""
    if PROCESSES == 1:
        return True
    state: Any = arguments(settings, False, device).distributed_state
    state.wait_for_everyone()
    return bool(state.is_main_process)
