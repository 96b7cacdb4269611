"""`gpt2chat orpo`."""

from dataclasses import replace
from functools import partial

from gpt2chat import options
from gpt2chat.core.config.training import OrpoConfig


def orpo(settings: OrpoConfig, given: options.Given, json: options.Json = False) -> None:
    """Align a chat model with preference pairs, by ORPO."""
    from gpt2chat.core.model.names import pick_model
    from gpt2chat.core.runs import open_run
    from gpt2chat.report import (
        note,
        note_positions,
        show_plan,
        show_training,
        training_progress,
    )

    with open_run(settings, "orpo", given) as start:
        name, why = pick_model(start.settings.model, ("sft",))
        settings = replace(start.settings, model=name)
        note(f"{why}; data: {settings.data}; run folder: {settings.out}")
        note_positions(settings.data, settings.max_length)
        with training_progress("orpo") as on_step:
            # From here on torch is loaded: the settings are sound, so the wait is worth it.
            if settings.dry_run:
                from gpt2chat.core.training.plan import plan_orpo

                show = partial(show_plan, plan_orpo(settings))
            else:
                from gpt2chat.core.training.train import train

                start = replace(start, settings=settings)
                show = partial(show_training, train(start, on_step))
    show(json=json)
