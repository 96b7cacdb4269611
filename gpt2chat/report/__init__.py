"""All that is printed, by what it is about; the only importer of rich.

stdout has the result, nothing else; stderr has notes, progress and errors.
"""

from gpt2chat.report.chat import (
    show_commands,
    show_prompt,
    show_reply,
    show_speed,
    show_text,
    visible,
)
from gpt2chat.report.console import note, show_error, show_json
from gpt2chat.report.evaluation import evaluation_progress, show_evaluation
from gpt2chat.report.prepare import show_prepare
from gpt2chat.report.progress import prepare_progress
from gpt2chat.report.samples import show_samples
from gpt2chat.report.stats import show_stats
from gpt2chat.report.training import show_plan, show_training, step_line, training_progress

__all__ = [
    "evaluation_progress",
    "note",
    "prepare_progress",
    "show_commands",
    "show_error",
    "show_evaluation",
    "show_json",
    "show_plan",
    "show_prepare",
    "show_prompt",
    "show_reply",
    "show_samples",
    "show_speed",
    "show_stats",
    "show_text",
    "show_training",
    "step_line",
    "training_progress",
    "visible",
]
