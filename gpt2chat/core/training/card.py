"""Write the model card of a run, a README.md in the form that the Hub expects."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gpt2chat import __version__
from gpt2chat.core.config.settings import to_toml
from gpt2chat.core.config.training import OrpoConfig, SftConfig, TrainConfig
from gpt2chat.core.data.shards import Manifest
from gpt2chat.core.model.names import adapter_base
from gpt2chat.core.text.wording import plural
from gpt2chat.core.training.lineage import hub_base, licence

CARD_TEMPLATE = Path(__file__).with_name("card.md")


def model_card(settings: TrainConfig, result: dict[str, Any], manifest: Manifest) -> str:
    """Return the card of a finished run.

    Args:
        result: The fields of its TrainResult.
        manifest: The manifest of the data that it was trained on.
    """
    command: str = result["command"]
    figures: dict[str, float] = result["validation"]
    if isinstance(settings, SftConfig):
        trained = {"reply": "the reply only", "all": "prompts and replies"}[settings.train_on]
        replies = " on the chosen replies of preference pairs" * settings.chosen
        method = f"instruction fine-tuning (SFT){replies}, the loss on the tokens of {trained}"
        pairs = "preference pairs (the rejected replies left out)"
        unit = pairs if settings.chosen else "conversations"
        kind = "preference" if settings.chosen else "sft"
        loss_unit, validation = "nats per token", ""
    else:
        assert isinstance(settings, OrpoConfig)
        paper = "[arXiv:2403.07691](https://arxiv.org/abs/2403.07691)"
        method = f"preference alignment with ORPO ({paper})"
        unit, kind = "preference pairs", "preference"
        loss_unit = f"(negative log-likelihood + {settings.beta:g} · odds ratio loss)"
        validation = (
            f", negative log-likelihood {figures['nll']:.4f} nats per token"
            f", reward accuracy {figures['accuracy']:.3f}"
            f", margin {figures['margin']:+.3f} nats per token"
        ) if figures else ""  # fmt: skip
    loss: float | None = result["validation_loss"]
    names = ("model", "samples", "steps", "best_step", "loss", "device", "precision", "seconds")
    names += ("tokens", "tokens_per_second", "utilisation", "finished")
    card = CARD_TEMPLATE.read_text("utf-8").format(
        **{name: result[name] for name in names},
        command=command,
        metadata=_metadata(settings, command, result, manifest),
        name=settings.out.name,
        version=__version__,
        method=method,
        unit=unit,
        passes=plural(result["epochs"], "epoch"),
        shared="1 process" if result["processes"] == 1 else f"{result['processes']} processes",
        sources=", ".join(sorted(manifest.counts.get(kind, {}))),
        loss_unit=loss_unit,
        validation="not measured" if loss is None else f"loss {loss:.4f} {loss_unit}{validation}",
        loading=loading(settings),
        settings=to_toml(settings),
    )
    # File names may contain control characters, which act on a terminal, or invalid UTF-8.
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in card)


def loading(settings: TrainConfig) -> str:
    """Return the lines of Python that load a run; an adapter is loaded with peft onto its base."""
    name = json.dumps(settings.out.name)
    tokenizer = f"tokenizer = AutoTokenizer.from_pretrained({name})"
    if settings.merge:
        model = f"model = AutoModelForCausalLM.from_pretrained({name})"
        imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
        return f"{imports}\n\n{tokenizer}\n{model}"
    base, adapters = settings.model, list[str]()
    while Path(base).is_dir() and (below := adapter_base(Path(base))):
        adapters.insert(0, base)
        base = below
    bundled = "from gpt2chat.core.files import STARTER\n" * (base == "starter")
    place = "STARTER" if base == "starter" else json.dumps(base)
    merges = [
        f"model = PeftModel.from_pretrained(model, {json.dumps(adapter)}).merge_and_unload()\n"
        for adapter in adapters
    ]
    return (
        f"{bundled}from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"{tokenizer}\n"
        f'model = AutoModelForCausalLM.from_pretrained({place}, dtype="float32")\n'
        "model.resize_token_embeddings(len(tokenizer))\n"
        f"{''.join(merges)}model = PeftModel.from_pretrained(model, {name})"
    )


def _metadata(
    settings: TrainConfig, command: str, result: dict[str, Any], manifest: Manifest
) -> str:
    """Return the card's metadata in YAML, as the Hub reads it."""
    hub = {entry.name.partition(":")[0] for entry in manifest.inputs if entry.revision}
    names = [entry.name.partition(":")[0] for entry in manifest.inputs]
    # Without validation there are no figures, and the Hub shows none.
    measured = result["validation"] if result["validation_loss"] is not None else {}
    figures = [
        EvalResult(
            task_type="text-generation",
            dataset_type="gpt2chat",
            dataset_name="held-out rows of the training data",
            metric_type=name,
            metric_name=f"validation {name}",
            metric_value=round(measured[name], 4),
        )
        for name in ("loss", "accuracy", "margin")
        if name in measured
    ]
    data = ModelCardData(
        library_name="transformers" if settings.merge else "peft",
        pipeline_tag="text-generation",
        language="en",
        license=licence(settings.model, settings.data, names),
        tags=["gpt2", "chat", command, "trl", "gpt2chat"],
        # Only a name on the Hub, which another reader can find; not a folder.
        base_model=hub_base(settings.model),
        datasets=sorted(hub) or None,
        model_name=settings.out.resolve().name or "model",
        eval_results=figures or None,
    )
    return data.to_yaml()
