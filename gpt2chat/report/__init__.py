"""Print results, notes, progress and errors; only this folder imports rich.

stdout gets the result and nothing else; stderr gets notes, progress and errors.
"""

from gpt2chat.report.chat import (
    show_heading,
    show_json_line,
    show_reply,
    show_rows,
    show_speed,
    visible,
)
from gpt2chat.report.console import note, say, show_error, show_json, sign
from gpt2chat.report.context import show_context
from gpt2chat.report.evaluation import evaluation_progress, show_evaluation
from gpt2chat.report.evaluation_page import write_page
from gpt2chat.report.export import show_export
from gpt2chat.report.prepare import show_prepare
from gpt2chat.report.progress import prepare_progress
from gpt2chat.report.runs import show_runs
from gpt2chat.report.samples import show_samples
from gpt2chat.report.stats import show_stats
from gpt2chat.report.training import (
    note_positions,
    show_plan,
    show_training,
    step_line,
    training_progress,
)
from gpt2chat.report.typeahead import quiet_keys

__all__ = [
    "evaluation_progress",
    "note",
    "note_positions",
    "prepare_progress",
    "quiet_keys",
    "say",
    "show_context",
    "show_error",
    "show_evaluation",
    "show_heading",
    "show_export",
    "show_json",
    "show_json_line",
    "show_plan",
    "show_prepare",
    "show_reply",
    "show_rows",
    "show_runs",
    "show_samples",
    "show_speed",
    "show_stats",
    "show_training",
    "sign",
    "step_line",
    "training_progress",
    "visible",
    "write_page",
]
