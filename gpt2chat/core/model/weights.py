"""GPT-2's weights as plain tensors: all that decoding needs, without transformers.

Importing transformers takes longer than reading the weights, and a chat begins with it.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.runs import local_folder
from gpt2chat.core.text.tokens import VOCAB

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

PREFIX = "transformer."
"""What the names of GPT2LMHeadModel's tensors begin with."""
GELUS = ("gelu_new", "gelu_pytorch_tanh")
"""Names of the one function that GPT-2 has."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A GPT-2 with tied embeddings."""

    tensors: dict[str, Tensor]
    """By the names of transformers' GPT2Model, such as `h.0.attn.c_attn.weight`; float32."""
    heads: int
    eps: float
    scaled: bool
    """Scores of attention are divided by the square root of the heads' width."""
    scaled_by_layer: bool
    """They are divided by the number of the layer too."""
    activation: str
    """transformers' name of the function between a layer's two outer matrices."""

    @property
    def layers(self) -> int:
        """Number of layers."""
        return sum(name.endswith(".ln_1.weight") for name in self.tensors)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tensors["wte.weight"].device

    def to(self, device: torch.device) -> "Weights":
        """Return the weights on a device."""
        return replace(self, tensors={name: part.to(device) for name, part in self.tensors.items()})

    def num_parameters(self) -> int:
        """Return the number of weights; the tied head counts once."""
        return sum(part.numel() for part in self.tensors.values())


Model = Union["GPT2LMHeadModel", Weights]


def weights_of(model: Model) -> Weights:
    """Return a model's weights, not copied."""
    if isinstance(model, Weights):
        return model
    config: Any = model.config
    transformer: Any = model.transformer
    tensors = {name: part.detach() for name, part in transformer.state_dict().items()}
    return _weights(tensors, config.to_dict())


def read_weights(name: str) -> Weights | None:
    """Return the weights of a folder as `gpt2chat` writes it, in float32 on the CPU.

    None for all else: a name on the Hub, an adapter, a base model without the template's tokens,
    several files, and whatever is damaged. `load_model` takes these, or says what is wrong.

    Raises:
        CheckpointError: It looks like a folder, and there is none.
    """
    folder = local_folder(name)
    if folder is None:
        return None
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shapes = _shapes(config)
        tensors = _read(folder / "model.safetensors")
        if shapes is None or {name: tuple(part.shape) for name, part in tensors.items()} != shapes:
            return None
        return _weights({name: part.float() for name, part in tensors.items()}, config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None


def check_finite(model: Model, name: str) -> None:
    """Refuse weights that hold NaN or infinity: int8 hides them, and the replies are garbage.

    Raises:
        CheckpointError: They do; it names the tensor.
    """
    for tensor, part in weights_of(model).tensors.items():
        # Where one weight is not finite, their sum is not: that is one number to look at.
        if not part.sum().isfinite():
            raise CheckpointError(
                f"--model {name} is damaged: its tensor {tensor} holds numbers that are not finite."
            )


def _weights(tensors: dict[str, Tensor], config: dict[str, Any]) -> Weights:
    return Weights(
        tensors=tensors,
        heads=config["n_head"],
        eps=float(config["layer_norm_epsilon"]),
        scaled=config.get("scale_attn_weights", True),
        scaled_by_layer=config.get("scale_attn_by_inverse_layer_idx", False),
        activation=config["activation_function"],
    )


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return {name.removeprefix(PREFIX): part for name, part in tensors.items()}


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Return the tensors that a plain GPT-2 of this configuration has; None if it is another."""
    plain = (
        config["model_type"] == "gpt2"
        and config["vocab_size"] == VOCAB
        and config["activation_function"] in GELUS
        and not config.get("add_cross_attention")
        and config.get("tie_word_embeddings", True)
        and config["n_embd"] % config["n_head"] == 0
    )
    if not plain:
        return None
    width = config["n_embd"]
    inner = config.get("n_inner") or 4 * width
    layer = {
        "ln_1": (width,),
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "ln_2": (width,),
        "mlp.c_fc": (width, inner),
        "mlp.c_proj": (inner, width),
    }
    parts = {
        f"h.{index}.{part}": shape
        for index in range(config["n_layer"])
        for part, shape in layer.items()
    }
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (VOCAB, width),
        "wpe.weight": (config["n_positions"], width),
    }
    for part, shape in {**parts, "ln_f": (width,)}.items():
        shapes |= {f"{part}.weight": shape, f"{part}.bias": shape[-1:]}
    return shapes
