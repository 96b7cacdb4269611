"""Choose the decoder for a device and a precision."""

import torch

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.errors import HardwareError
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.model.compiling import kernels_for
from gpt2chat.core.model.device import pick_autocast
from gpt2chat.core.model.weights import GELUS, Model, weights_of


def make_decoder(
    model: Model, precision: ChatPrecision = "auto", *, compiled: bool = False
) -> tuple[ChatPrecision, Decoder]:
    """Return a decoder on the model's device, and its precision.

    `auto` means int8 on a CPU if numba can compile its kernels, bf16 on a GPU that supports it, and
    fp32 otherwise.

    Args:
        compiled: Let PyTorch compile a step.

    Raises:
        HardwareError: The device does not support the precision, or int8 is combined with
            `compiled`.
    """
    if precision == "auto" and model.device.type == "cpu":
        try:
            precision, decoder = "int8", make_int8_decoder(model)
        except HardwareError:
            precision, decoder = "fp32", Decoder(model, torch.float32)
    elif precision == "int8":
        decoder = make_int8_decoder(model)
    else:
        autocast = pick_autocast(precision, model.device)
        if precision == "auto":
            precision = "bf16" if autocast else "fp32"
        kind = Decoder
        if weights_of(model).activation in GELUS and kernels_for(model.device):
            from gpt2chat.core.generation.fused import FusedDecoder

            kind = FusedDecoder
        decoder = kind(model, torch.bfloat16 if precision == "bf16" else torch.float32)
    if compiled:
        if precision == "int8":
            raise HardwareError(
                'The int8 kernels are compiled already. Leave out `compile="on"`.',
                setting="compile",
            )
        decoder.compile()
    return precision, decoder


def make_int8_decoder(model: Model) -> Decoder:
    """Return a decoder with int8 weights.

    Raises:
        HardwareError: The model is not on a CPU, its activation is not GPT-2's, or numba is
            missing or cannot store what it compiles.
    """
    if model.device.type != "cpu":
        raise HardwareError(
            f'`precision="int8"` runs on CPUs, not on {model.device.type}. Use `precision="bf16"`.',
            setting="precision",
        )
    activation = weights_of(model).activation
    if activation not in GELUS:
        raise HardwareError(
            f'`precision="int8"` supports GPT-2\'s own GELU, not {activation}. '
            'Use `precision="fp32"`.',
            setting="precision",
        )
    try:
        from gpt2chat.core.generation.int8 import Int8Decoder
    except ImportError as error:
        raise HardwareError(
            f'`precision="int8"` needs numba ({error}). Install it, or use `precision="fp32"`.',
            setting="precision",
        ) from error
    except RuntimeError as error:
        # numba stores what it compiles next to the module, or in the user's cache folder. If it
        # can write to neither, the import fails.
        raise HardwareError(
            f'`precision="int8"` cannot store its compiled kernels: {error}. Set the environment '
            'variable NUMBA_CACHE_DIR, or use `precision="fp32"`.',
            setting="precision",
        ) from error
    # Long prompts are matrix products in a PyTorch type, which is bf16 if the CPU is fast at it.
    dtype = torch.bfloat16 if pick_autocast("auto", model.device) else torch.float32
    return Int8Decoder(model, dtype)
