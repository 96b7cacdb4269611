"""`gpt2chat export`."""

from dataclasses import replace

from gpt2chat import options
from gpt2chat.core.config.export import ExportConfig


def export(settings: ExportConfig, json: options.Json = False) -> None:
    """Write a model for another program, and prove that it talks like the original.

    Beyond the stated tolerance it fails and writes nothing.
    """
    from gpt2chat.core.model.names import pick_model
    from gpt2chat.report import note, show_export

    name, why = pick_model(settings.model, ("sft", "orpo"))
    note(why)
    # torch takes seconds to import, so it waits until the settings are known to be valid.
    from gpt2chat.core.export import export as exporting

    show_export(exporting.export(replace(settings, model=name), note), json=json)
