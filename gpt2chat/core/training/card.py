"""The model card of a run: a README.md that a reader on the Hub expects."""

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

_CARD = """\
---
{metadata}
---

# {name}

A chat model of GPT-2's architecture, made from `{model}` with gpt2chat {version} by
{method}.

| | |
|---|---|
| training data | {samples:,} {unit}, {passes}, {tokens:,} tokens, of {sources} |
| optimizer steps | {steps:,}; the weights are those of step {best_step:,} |
| training loss | {loss:.4f} {loss_unit} (mean of the last tenth of the steps) |
| validation | {validation} |
| device | {device}, {shared}, {precision}, {seconds:,.0f} s |
| speed | {tokens_per_second:,.0f} tokens/s, {utilisation:.0%} of what a matrix product reaches |
| finished | {finished} |

## Use

`{name}` stands for this folder, wherever it is put, or for its name on the Hub.

```python
{loading}
messages = [{{"role": "user", "content": "What is a comet?"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
reply = model.generate(**inputs, max_new_tokens=200, do_sample=True, temperature=0.72, top_k=36)
print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

Loads in transformers 4.57 and 5. In the terminal: `gpt2chat chat --model {name}`.

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
    names = ("model", "samples", "steps", "best_step", "loss", "device", "precision", "seconds")
    names += ("tokens", "tokens_per_second", "utilisation", "finished")
    kind = "preference" if command == "orpo" or _chosen(settings) else "sft"
    sources = sorted(manifest.counts.get(kind, {}))
    card = _CARD.format(
        **{name: result[name] for name in names},
        command=command,
        metadata=_metadata(settings, command, result, manifest),
        name=settings.out.name,
        version=__version__,
        method=_method(settings),
        unit=_unit(settings),
        passes=plural(result["epochs"], "epoch"),
        shared="1 process" if result["processes"] == 1 else f"{result['processes']} processes",
        sources=", ".join(sources),
        loss_unit=_loss_unit(settings),
        validation=_validation(settings, result),
        loading=loading(settings),
        licences=(
            "Which licence the weights may carry depends on the training data: Stanford Alpaca, "
            "for one, is CC BY-NC 4.0."
        ),
        settings=to_toml(settings),
    )
    # Names of files may hold what acts on a terminal, or is not valid UTF-8.
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in card)


def _chosen(settings: TrainConfig) -> bool:
    return isinstance(settings, SftConfig) and settings.chosen


def _method(settings: TrainConfig) -> str:
    if not isinstance(settings, SftConfig):
        paper = "[arXiv:2403.07691](https://arxiv.org/abs/2403.07691)"
        return f"preference alignment with ORPO ({paper})"
    trained = {"reply": "the reply only", "all": "prompts and replies"}[settings.train_on]
    replies = " on the chosen replies of preference pairs" * settings.chosen
    return f"instruction fine-tuning (SFT){replies}, the loss on the tokens of {trained}"


def _unit(settings: TrainConfig) -> str:
    if _chosen(settings):
        return "preference pairs (the rejected replies left out)"
    return "conversations" if isinstance(settings, SftConfig) else "preference pairs"


def _loss_unit(settings: TrainConfig) -> str:
    if isinstance(settings, OrpoConfig):
        return f"(negative log-likelihood + {settings.beta:g} · odds ratio loss)"
    return "nats per token"


def _validation(settings: TrainConfig, result: dict[str, Any]) -> str:
    loss: float | None = result["validation_loss"]
    if loss is None:
        return "not measured"
    parts = [f"loss {loss:.4f} {_loss_unit(settings)}"]
    measured: dict[str, float] = result["validation"]
    if isinstance(settings, OrpoConfig):
        parts.append(f"negative log-likelihood {measured['nll']:.4f} nats per token")
        parts.append(f"reward accuracy {measured['accuracy']:.3f}")
        parts.append(f"margin {measured['margin']:+.3f} nats per token")
    return ", ".join(parts)


def loading(settings: TrainConfig) -> str:
    """Return the lines of Python that load a run, by peft on its base where it is an adapter."""
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
    """Return the card's head in YAML."""
    hub = {entry.name.partition(":")[0] for entry in manifest.inputs if entry.revision}
    names = [entry.name.partition(":")[0] for entry in manifest.inputs]
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
        # Only what another reader can find: a name on the Hub, not a folder.
        base_model=hub_base(settings.model),
        datasets=sorted(hub) or None,
        model_name=settings.out.resolve().name or "model",
        eval_results=figures or None,
    )
    return data.to_yaml()
