"""The model card of a run: a README.md that a reader on the Hub expects."""

from typing import Any

from gpt2chat import __version__
from gpt2chat.core.config import TrainConfig, to_toml

_METHOD = {
    "sft": "instruction fine-tuning (SFT), the loss on the tokens of the reply only",
    "orpo": "preference alignment with ORPO ([arXiv:2403.07691](https://arxiv.org/abs/2403.07691))",
}

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [gpt2, chat, {command}, trl, gpt2chat]
---

# {name}

A chat model of GPT-2's architecture, made from `{model}` with gpt2chat {version} by {method}.

| | |
|---|---|
| training data | {samples:,} {unit}, {epochs:g} epochs |
| optimizer steps | {steps:,}; the weights are those of step {best_step:,} |
| training loss | {loss:.4f} nats per token (mean of the last tenth of the steps) |
| validation loss | {validation} |
| device | {device}, {precision}, {seconds:,.0f} s |
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

![loss curve](loss.png)
"""


def model_card(settings: TrainConfig, result: dict[str, Any]) -> str:
    """Return the card of a finished run.

    Args:
        result: The fields of its TrainResult.
    """
    command: str = result["command"]
    loss: float | None = result["validation_loss"]
    return _CARD.format(
        **{name: result[name] for name in ("command", "model", "samples", "epochs", "steps")},
        **{name: result[name] for name in ("best_step", "loss", "device", "precision", "seconds")},
        finished=result["finished"],
        out=settings.out,
        name=settings.out.name,
        version=__version__,
        method=_METHOD[command],
        unit="conversations" if command == "sft" else "preference pairs",
        validation="not measured" if loss is None else f"{loss:.4f} nats per token",
        licences=(
            "Which licence the weights may carry depends on the training data: Stanford Alpaca, "
            "for one, is CC BY-NC 4.0."
        ),
        settings=to_toml(settings),
    )
