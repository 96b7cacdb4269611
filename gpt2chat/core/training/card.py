"""The model card of a run: a README.md that a reader on the Hub expects."""

import json
from pathlib import Path
from typing import Any

from gpt2chat import __version__
from gpt2chat.core.config.settings import to_toml
from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.data.shards import Manifest

_METHOD = {
    "sft": "instruction fine-tuning (SFT), the loss on the tokens of the reply only",
    "orpo": "preference alignment with ORPO ([arXiv:2403.07691](https://arxiv.org/abs/2403.07691))",
}

_CARD = """\
---
{metadata}
---

# {name}

A chat model of GPT-2's architecture, made from `{model}` with gpt2chat {version} by {method}.

| | |
|---|---|
| training data | {samples:,} {unit}, {epochs:g} epochs, {tokens:,} tokens, of {sources} |
| optimizer steps | {steps:,}; the weights are those of step {best_step:,} |
| training loss | {loss:.4f} nats per token (mean of the last tenth of the steps) |
| validation | {validation} |
| device | {device}, {processes} process(es), {precision}, {seconds:,.0f} s |
| speed | {tokens_per_second:,.0f} tokens/s, {utilisation:.0%} of what a matrix product reaches |
| finished | {finished} |

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{out}")
model = AutoModelForCausalLM.from_pretrained("{out}")
messages = [{{"role": "user", "content": "What is a comet?"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
reply = model.generate(**inputs, max_new_tokens=200, do_sample=True, temperature=0.72, top_k=36)
print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

In the terminal: `gpt2chat chat --model {out}`.

The template is Llama 3's instruct template with the earlier turns between `<|start_context|>` and
`<|end_context|>`; a reply ends with `<|eot_id|>`.

## Limits

A model of this size states false things fluently, repeats itself, cannot calculate, and has what
its data has of bias and offence. Do not let it decide or advise. {licences}

## Settings

`gpt2chat {command} --config run.toml` repeats the run.

```toml
{settings}```

![curves of the run](loss.png)
"""


def model_card(settings: TrainConfig, result: dict[str, Any], manifest: Manifest) -> str:
    """Return the card of a finished run.

    Args:
        result: The fields of its TrainResult.
        manifest: Of the data it was trained on.
    """
    command: str = result["command"]
    names = ("model", "samples", "epochs", "steps", "best_step", "loss", "device", "precision")
    names += ("seconds", "tokens", "processes", "tokens_per_second", "utilisation", "finished")
    kind = "preference" if command == "orpo" or getattr(settings, "chosen", False) else "sft"
    sources = sorted(manifest.counts.get(kind, {}))
    return _CARD.format(
        **{name: result[name] for name in names},
        command=command,
        metadata=_metadata(settings, command, result, manifest),
        out=settings.out,
        name=settings.out.name,
        version=__version__,
        method=_METHOD[command],
        unit="preference pairs" if kind == "preference" else "conversations",
        sources=", ".join(sources),
        validation=_validation(result),
        licences=(
            "Which licence the weights may carry depends on the training data: Stanford Alpaca, "
            "for one, is CC BY-NC 4.0."
        ),
        settings=to_toml(settings),
    )


def _validation(result: dict[str, Any]) -> str:
    loss: float | None = result["validation_loss"]
    if loss is None:
        return "not measured"
    parts = [f"loss {loss:.4f} nats per token"]
    if "accuracy" in result["validation"]:
        parts.append(f"reward accuracy {result['validation']['accuracy']:.3f}")
        parts.append(f"margin {result['validation']['margin']:+.3f} nats per token")
    return ", ".join(parts)


def _metadata(
    settings: TrainConfig, command: str, result: dict[str, Any], manifest: Manifest
) -> str:
    """Return the card's head in YAML, of which JSON is a part."""
    hub = [entry.name.partition(":")[0] for entry in manifest.inputs if entry.revision]
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": "en",
        "tags": ["gpt2", "chat", command, "trl", "gpt2chat"],
        # Only what another reader can find: a name on the Hub, no folder.
        "base_model": None if Path(settings.model).exists() else settings.model,
        "datasets": sorted(set(hub)),
        "model-index": _index(settings, result) if result["validation_loss"] is not None else None,
    }
    if head["base_model"] == "starter":
        head["base_model"] = None
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items() if value)


def _index(settings: TrainConfig, result: dict[str, Any]) -> list[dict[str, Any]]:
    data = {"name": "held-out rows of the training data", "type": "gpt2chat"}
    metrics = [
        {"type": name, "name": f"validation {name}", "value": round(value, 4)}
        for name, value in result["validation"].items()
        if name in ("loss", "accuracy", "margin")
    ]
    task = {"type": "text-generation"}
    results = [{"task": task, "dataset": data, "metrics": metrics}]
    return [{"name": settings.out.name, "results": results}]
