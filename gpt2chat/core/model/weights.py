"""Read GPT-2's weights as plain tensors, which is all that decoding needs.

A chat starts faster without transformers: importing it takes longer than reading the weights.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.files import reading
from gpt2chat.core.model.folder import CONFIG, INDEX, WEIGHTS, read_config, read_object
from gpt2chat.core.model.names import ModelFolder

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

HEAD = "lm_head.weight"
WRAPPERS = re.compile(r"^((_orig_mod|module|transformer)\.)+")
"""Prefixes that torch.compile, DDP and GPT2LMHeadModel add to the names of GPT2Model's tensors."""
LAYER = re.compile(r"h\.(\d+)\.")
MASK = re.compile(r"\.attn\.(masked_)?bias$")
"""The causal mask, which old versions of transformers saved with the weights."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""Supported number types, by safetensors' names."""
GELUS = ("gelu_new", "gelu_pytorch_tanh")
"""transformers' names for GPT-2's activation function; both compute the same."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A GPT-2 with tied embeddings."""

    tensors: dict[str, Tensor]
    """Tensors in float32 by their names in GPT2Model, such as `h.0.attn.c_attn.weight`."""
    heads: int
    eps: float
    scaled: bool
    """Scores of attention are divided by the square root of the heads' width."""
    scaled_by_layer: bool
    """Scores of attention are divided by the number of the layer too."""
    activation: str
    """transformers' name of the function between the two matrices of a layer's MLP."""

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


def read_weights(model: ModelFolder) -> Weights:
    """Return the weights of a model that is not an adapter, in float32 on the CPU.

    Raises:
        CheckpointError: They cannot be read, or do not match the folder's config.json.
    """
    config = read_config(model.path, model.name)
    return _weights(read_tensors(model, config), config)


def check_finite(model: Model, name: str) -> None:
    """Refuse weights that hold NaN or infinity: int8 hides them, and the replies are garbage.

    Raises:
        CheckpointError: They do; it names the tensor.
    """
    for tensor, part in weights_of(model).tensors.items():
        # One bad weight spoils the sum, which takes a twentieth of the time of looking at each.
        # The sum of large weights may overflow, though.
        if not part.sum().isfinite() and not part.isfinite().all():
            raise CheckpointError(
                f"{name} is damaged: its tensor {tensor} holds numbers that are not finite. "
                "Copy or download it again, or train it again.",
                setting="model",
            )


def _weights(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Weights:
    return Weights(
        tensors=tensors,
        heads=config["n_head"],
        eps=float(config["layer_norm_epsilon"]),
        scaled=config["scale_attn_weights"],
        scaled_by_layer=config["scale_attn_by_inverse_layer_idx"],
        activation=config["activation_function"],
    )


def read_tensors(model: ModelFolder, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a model by their names in GPT2Model, in float32 on the CPU.

    The names and shapes in the files' headers are compared with config.json first, so that a config
    that asks for a million layers allocates no memory.

    Raises:
        CheckpointError: A file cannot be read, or its tensors do not match the config.
    """
    from safetensors import safe_open

    activation = config["activation_function"]
    if activation not in GELUS:
        from transformers.activations import ACT2FN

        if activation not in ACT2FN:
            raise CheckpointError(
                f"{model.path / CONFIG}: transformers has no activation_function {activation!r}.",
                setting="model",
            )
    with ExitStack() as stack:
        places: dict[str, tuple[Path, Any, str]] = {}
        for file in _weight_files(model.path):
            with reading(file):
                # safetensors reports a file without read permission as one that does not exist.
                file.open("rb").close()
                opened: Any = stack.enter_context(safe_open(file, "pt"))
                for key in opened.keys():  # noqa: SIM118 - it cannot be iterated over
                    name = WRAPPERS.sub("", key)
                    if name in places:
                        raise ValueError(f"it has the tensor {name} twice")
                    places[name] = (file, opened, key)
        _check_names(model, config, places.keys())
        shapes = expected_shapes(config)
        tensors: dict[str, Tensor] = {}
        for name in [*shapes, *(places.keys() & {HEAD})]:
            file, opened, key = places[name]
            with reading(file):
                header = opened.get_slice(key)
                shape, dtype = tuple(header.get_shape()), header.get_dtype()
                if shape != shapes.get(name, shapes["wte.weight"]):
                    raise CheckpointError(
                        f"Cannot load {model.name}: its tensor {name} has the shape {shape}, and "
                        f"its {CONFIG} asks for {shapes.get(name, shapes['wte.weight'])}.",
                        setting="model",
                    )
                if dtype not in FLOATS:
                    raise CheckpointError(
                        f"Cannot load {model.name}: its tensor {name} has numbers of type {dtype}. "
                        f"Save the model in float32, float16 or bfloat16.",
                        setting="model",
                    )
        # All headers are checked by now: a wrong shape is found before gigabytes are read.
        for name in [*shapes, *(places.keys() & {HEAD})]:
            file, opened, key = places[name]
            with reading(file):
                tensors[name] = opened.get_tensor(key).float()
    _check_head(model, config, tensors.pop(HEAD, None), tensors["wte.weight"])
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model: one, or those that its index lists."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    content = read_object(folder / INDEX)
    with reading(folder / INDEX):
        names = sorted(set(content["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ValueError("it names a file outside the folder")
        return [folder / name for name in names]


def _check_names(model: ModelFolder, config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse weights that lack a tensor that the config asks for, or have an unknown one."""
    names = {name for name in names if not MASK.search(name)}
    layers = {int(match[1]) for name in names if (match := LAYER.match(name))}
    if layers != set(range(len(layers))) or len(layers) != config["n_layer"]:
        count = f"{len(layers)} layer{'s' * (len(layers) != 1)}"
        raise CheckpointError(
            f"Cannot load {model.name}: its {CONFIG} asks for {config['n_layer']:,} layers, and "
            f"its weights have {count}. Copy or download both again.",
            setting="model",
        )
    expected = expected_shapes(config).keys()
    # One name is enough for the message: usually all of them differ, by a prefix.
    missing = expected - names
    # Heads for other tasks, such as a reward model's, are ignored.
    surplus = {
        name for name in names - expected if name.startswith(("h.", "wte.", "wpe.", "ln_f."))
    }
    for tensors, what in ((missing, "lack the tensor"), (surplus, "have an unknown tensor,")):
        if tensors:
            raise CheckpointError(
                f"Cannot load {model.name}: its weights {what} {min(tensors)}. Is it a GPT-2 as "
                "transformers saves it?",
                setting="model",
            )


def _check_head(
    model: ModelFolder, config: Mapping[str, Any], head: Tensor | None, embeddings: Tensor
) -> None:
    """Refuse an output head that differs from the token embeddings: nothing here would use it."""
    # Many folders save a copy of the embeddings as the head, which is fine.
    tied = config["tie_word_embeddings"]
    if head is None and not tied:
        raise CheckpointError(
            f"Cannot load {model.name}: its {CONFIG} says that the output head is not tied to the "
            "embeddings, and its weights have no such head. If they are tied, set "
            "tie_word_embeddings to true.",
            setting="model",
        )
    if head is not None and not torch.equal(head, embeddings):
        raise CheckpointError(
            f"{model.name} has an output head of its own, lm_head.weight. gpt2chat needs a GPT-2 "
            "whose head is its token embeddings, as OpenAI's are. Choose another model.",
            setting="model",
        )


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a GPT-2, by the names of GPT2Model."""
    width = config["n_embd"]
    inner = config["n_inner"] or 4 * width
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
        "wte.weight": (config["vocab_size"], width),
        "wpe.weight": (config["n_positions"], width),
    }
    for part, shape in {**parts, "ln_f": (width,)}.items():
        shapes |= {f"{part}.weight": shape, f"{part}.bias": shape[-1:]}
    return shapes
