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


def prepare(settings: PrepareConfig, show: Show = 0, json: options.Json = False) -> None:
    """Turn conversations and preference pairs into training shards.

    Reads OASST1, Alpaca and UltraFeedback from the Hugging Face Hub by default.
    """
    if show < 0:
        raise ConfigError(f"--show must be at least 0, not {show}.")
    # Measured with the bundled sample: 0.95 GiB is enough, and with 0.6 a library aborts.
    require_address_space(2**30 * 9 // 10)
    from gpt2chat.report import prepare_progress, show_prepare, show_samples, show_stats

    with prepare_progress() as on_progress:
        # The tokenizer takes a while to load, so it waits until the settings are known to be valid.
        from gpt2chat.core.data.prepare import first_samples
        from gpt2chat.core.data.prepare import prepare as write_shards
        from gpt2chat.core.data.shards import PICTURE

        result = write_shards(settings, on_progress)
    if settings.stats and not json:
        show_stats(result.manifest.lengths, result.manifest.window, settings.out / PICTURE)
    show_prepare(result, json=json)
    show_samples(first_samples(result, show), json=json)
