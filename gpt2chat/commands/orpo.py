"""`gpt2chat orpo`."""

from dataclasses import replace
from functools import partial

from gpt2chat import options
from gpt2chat.core.config.training import OrpoConfig
from gpt2chat.environment import prepare_for_training


def orpo(settings: OrpoConfig, given: options.Given, json: options.Json = False) -> None:
    """Align a chat model with preference pairs, by ORPO."""
    from gpt2chat.core.model.names import pick_model
    from gpt2chat.core.runs import open_run
    from gpt2chat.core.training.checks import check_inputs
    from gpt2chat.report import (
        note,
        note_positions,
        show_plan,
        show_training,
        training_progress,
    )

    with open_run(settings, "orpo", given) as start:
        name, why = pick_model(start.settings.model, ("sft",))
        start = replace(start, settings=replace(start.settings, model=name))
        settings = start.settings
        note(f"{why}; data: {settings.data}; run folder: {settings.out}")
        note_positions(settings.data, settings.max_length)
        check_inputs(settings)
        prepare_for_training()
        with training_progress("orpo") as (on_step, on_interrupt):
            # From here on torch is loaded: the settings are sound, so the wait is worth it.
            if settings.dry_run:
                from gpt2chat.core.training.plan import plan

                show = partial(show_plan, plan(settings))
            else:
                from gpt2chat.core.training.train import train_opened

                show = partial(show_training, train_opened(start, on_step, on_interrupt))
    show(json=json)
