"""`gpt2chat sft` and `gpt2chat orpo`."""

from functools import partial

from gpt2chat.core.config.training import OrpoConfig, SftConfig, TrainConfig
from gpt2chat.environment import prepare_for_training
from gpt2chat.options import Given, Json


def sft(settings: SftConfig, given: Given, json: Json = False) -> None:
    """Fine-tune GPT-2 on conversations.

    Only the tokens of the replies count in the loss. Samples are packed into sequences without
    padding, and no sample sees another.
    """
    train(settings, given, json=json)


def orpo(settings: OrpoConfig, given: Given, json: Json = False) -> None:
    """Align a chat model with preference pairs, by ORPO."""
    train(settings, given, json=json)


def train(settings: TrainConfig, given: Given, *, json: bool) -> None:
    """Train, or plan a training run with `--dry-run`, and print the result."""
    from gpt2chat.core.runs import open_run
    from gpt2chat.core.training.checks import check_inputs, choose_model
    from gpt2chat.report import (
        note,
        note_positions,
        show_plan,
        show_training,
        training_progress,
    )

    with open_run(settings, settings.command, given) as start:
        start, why = choose_model(start)
        settings = start.settings
        note(f"{why}; data: {settings.data}; run folder: {settings.out}")
        note_positions(settings.data, settings.max_length)
        check_inputs(settings)
        prepare_for_training()
        with training_progress(settings.command) as (on_step, on_interrupt, on_validate):
            # torch takes seconds to import, so it waits until the settings are known to be valid.
            if settings.dry_run:
                from gpt2chat.core.training.plan import plan

                show = partial(show_plan, plan(settings))
            else:
                from gpt2chat.core.training.train import train_opened

                result = train_opened(start, on_step, on_interrupt, on_validate)
                show = partial(show_training, result)
    show(json=json)
