"""Write the model card of an upload: an example, the evaluation, the data with its licences."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from gpt2chat import __version__
from gpt2chat.core.data.shards import read_manifest
from gpt2chat.core.errors import DataError
from gpt2chat.core.evaluation.figures import FIGURES
from gpt2chat.core.evaluation.results import RESULT_FILE, read_results
from gpt2chat.core.export.proof import Proof, proof_rows
from gpt2chat.core.files import STARTER, reading
from gpt2chat.core.training.lineage import ancestors

TEMPLATE = Path(__file__).with_name("card.md")
LICENCES = {
    "OpenAssistant/oasst1": "Apache-2.0",
    "tatsu-lab/alpaca": "CC BY-NC 4.0: not for commercial use, nor are models trained on it",
    "trl-lib/ultrafeedback_binarized": "MIT",
}
"""Licences of the default data sets."""
BUNDLED = {
    "oasst1.validation.jsonl.gz": ("OpenAssistant/oasst1, validation split", "Apache-2.0"),
    "oasst1.train.chat.jsonl.gz": ("OpenAssistant/oasst1, 388 conversations", "Apache-2.0"),
    "instructions.train.jsonl.gz": ("instructions of rasbt/LLMs-from-scratch", "Apache-2.0"),
    "ultrafeedback.jsonl.gz": ("trl-lib/ultrafeedback_binarized, 994 pairs", "MIT"),
}
"""The data sets that the files of the bundled sample are from, with their licences."""


def hub_card(model: str, repo: str, parameters: int, window: int, proofs: Sequence[Proof]) -> str:
    """Return the card of a model that is uploaded to a repository.

    Args:
        model: The model's name: a run, a folder or a name on the Hub.
    """
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")',
        f'model = AutoModelForCausalLM.from_pretrained("{repo}")',
    ]
    # The file has the newest result first, and in each the models that were compared.
    newest = next(
        (
            (entry, result)
            for entry in read_results(Path(model) / RESULT_FILE)
            for result in entry["models"]
            if result["model"] == model and result["figures"]
        ),
        None,
    )
    evaluation = "Not measured."
    if newest is not None:
        entry, result = newest
        rows = [["", f"{entry['split']} split, {entry['precision']}", "95 % interval"]]
        for name, figure in FIGURES.items():
            if name in result["figures"]:
                each = result["figures"][name]
                style = f",.{figure.digits}f"
                ends = [each["low"], each["high"]]
                interval = " to ".join(f"{end:{style}}" for end in ends if end is not None)
                rows.append([figure.label, f"{each['value']:{style}}", interval])
        evaluation = f"{_table(rows)}\n\nMeasured with gpt2chat on {entry['finished'][:10]}."
    return TEMPLATE.read_text("utf-8").format(
        metadata=_metadata(model, repo).to_yaml(),
        name=repo.rpartition("/")[2],
        repo=repo,
        parameters=parameters,
        window=window,
        version=__version__,
        loading="\n".join(lines),
        evaluation=evaluation,
        data=_data(model),
        proof=_table(proof_rows(proofs)),
    )


def card_data(model: str) -> ModelCardData | None:
    """Return the metadata of a model folder's card; None if it has no card.

    Raises:
        CheckpointError: The card is damaged.
    """
    card = Path(model) / "README.md"
    if not card.exists():
        return None
    with reading(card):
        data: Any = ModelCard.load(card).data
        return data


def _metadata(model: str, repo: str) -> ModelCardData:
    """Return the metadata of the model's own card, as far as it holds for the upload."""
    known: Any = card_data(model)
    fields = ("license", "base_model", "datasets", "tags", "eval_results")
    values = {name: getattr(known, name, None) for name in fields}
    return ModelCardData(
        **{name: value for name, value in values.items() if value},
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        model_name=repo.rpartition("/")[2],
    )


def _data(model: str) -> str:
    """Return the data sets of the model and of those it was made from, with their licences."""
    rows = [["data", "licence"]]
    for ancestor in ancestors(model):
        if not ancestor.data:
            continue
        try:
            inputs = read_manifest(Path(ancestor.data)).inputs
        except DataError:
            gone = f"the data folder of {Path(ancestor.model).name}, which is gone"
            rows.append([gone, "unknown"])
            continue
        for entry in inputs:
            bundled = STARTER / "sample" / entry.name
            if entry.revision:
                name = entry.name.partition(":")[0]
                rows.append([name, LICENCES.get(name, "see its page")])
            elif entry.name in BUNDLED and sha256(bundled.read_bytes()).hexdigest() == entry.sha256:
                rows.append(list(BUNDLED[entry.name]))
            else:
                # The name of a local file is nobody else's business.
                rows.append(["files of its own", "unknown"])
    return (
        _table(rows) if len(rows) > 1 else "The data that this model was trained on is not known."
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table, without repeated ones."""
    lines = [f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows]
    rule = f"|{'---|' * len(rows[0])}"
    return "\n".join([lines[0], rule, *dict.fromkeys(lines[1:])])
