"""`gpt2chat eval`."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gpt2chat import options
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.errors import Interrupted
from gpt2chat.core.kernelcache import keep_kernels

Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write the result as a page, with plots and all replies.",
        rich_help_panel="Output",
    ),
]


def evaluate(settings: EvalConfig, html: Html = None, json: options.Json = False) -> None:
    """Measure perplexity, preference accuracy and speed of models."""
    from gpt2chat.core.model.names import pick_model
    from gpt2chat.interrupts import ended_by_sigterm
    from gpt2chat.report import evaluation_progress, note, show_evaluation, write_page

    name, why = pick_model(settings.model, ("sft", "orpo"))
    settings = replace(settings, model=name)
    others = f"; against: {', '.join(settings.against)}" if settings.against else ""
    note(f"{why}{others}; data: {', '.join(settings.data)}")
    try:
        with ended_by_sigterm(), evaluation_progress() as on_progress:
            keep_kernels(32)  # as in a chat; torch reads it as it is imported
            # torch takes seconds to import, so it waits until the settings are known to be valid.
            from gpt2chat.core.evaluation import evaluate as evaluation

            result = evaluation.evaluate(settings, on_progress)
    except KeyboardInterrupt:
        raise Interrupted(
            "Interrupted. What was computed is kept: the same command continues from there."
        ) from None
    if html is not None:
        write_page(result, html, shlex.join(["gpt2chat", *sys.argv[1:]]))
        note(f"page: {html}")
    show_evaluation(result, json=json)
