"""`gpt2chat prepare`."""

from typing import Annotated

import typer

from gpt2chat import options
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.limits import require_address_space

Show = Annotated[
    int,
    typer.Option(
        "--show",
        metavar="INTEGER",
        help="Print this many samples, with the tokens that are trained in colour.",
        rich_help_panel="Output",
    ),
]


Pick = Annotated[
    list[str] | None,
    typer.Option(
        "--pick",
        metavar="NAME=VALUE|TEXT",
        help="Of these, print only samples with this source=NAME, split=validation, id=ID, or with "
        "this text.",
        rich_help_panel="Output",
    ),
]


def prepare(
    settings: PrepareConfig, show: Show = 0, pick: Pick = None, json: options.Json = False
) -> None:
    """Turn conversations and preference pairs into training shards.

    Reads OASST1, Alpaca and UltraFeedback from the Hugging Face Hub by default.
    """
    if show < 0:
        raise ConfigError(f"--show must be at least 0, not {show}.")
    # Measured with the bundled sample: 0.95 GiB is enough, and with 0.6 a library aborts.
    require_address_space(2**30 * 9 // 10)
    from gpt2chat.report import note, prepare_progress, show_prepare, show_samples, show_stats

    with prepare_progress() as on_progress:
        # The tokenizer takes a while to load, so it waits until the settings are known to be valid.
        from gpt2chat.core.data.prepare import prepare as write_shards
        from gpt2chat.core.data.shards import PICTURE
        from gpt2chat.core.data.show import pick_samples

        result = write_shards(settings, on_progress)
    if settings.stats and not json:
        show_stats(result.manifest.lengths, result.manifest.window, settings.out / PICTURE)
    show_prepare(result, json=json)
    samples = pick_samples(settings.out, show, pick or ()) if show else []
    show_samples(samples, json=json)
    if show and not samples:
        note("No sample matches --pick. The sources are in the table above.")
