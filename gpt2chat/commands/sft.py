"""`gpt2chat sft`."""

from functools import partial

from gpt2chat import options
from gpt2chat.core.config.training import SftConfig
from gpt2chat.environment import prepare_for_training


def sft(settings: SftConfig, given: options.Given, json: options.Json = False) -> None:
    """Fine-tune GPT-2 on conversations.

    Only the tokens of the replies count in the loss. Samples are packed into sequences without
    padding, and no sample sees another.
    """
    from gpt2chat.core.runs import open_run
    from gpt2chat.core.training.checks import check_inputs
    from gpt2chat.report import (
        note,
        note_positions,
        show_plan,
        show_training,
        training_progress,
    )

    with open_run(settings, "sft", given) as start:
        settings = start.settings
        note(f"model: {settings.model}; data: {settings.data}; run folder: {settings.out}")
        note_positions(settings.data, settings.max_length)
        check_inputs(settings)
        prepare_for_training()
        with training_progress("sft") as (on_step, on_interrupt):
            # From here on torch is loaded: the settings are sound, so the wait is worth it.
            if settings.dry_run:
                from gpt2chat.core.training.plan import plan

                show = partial(show_plan, plan(settings))
            else:
                from gpt2chat.core.training.train import train_opened

                show = partial(show_training, train_opened(start, on_step, on_interrupt))
    show(json=json)
