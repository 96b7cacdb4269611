"""Which decoder a device and a precision have."""

import torch

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.errors import HardwareError
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.model.device import pick_autocast
from gpt2chat.core.model.weights import GELUS, Model, weights_of


def make_decoder(
    model: Model, precision: ChatPrecision = "auto", *, compiled: bool = False
) -> tuple[ChatPrecision, Decoder]:
    """Return a decoder on the model's device, and its precision.

    `auto` is int8 on a CPU where numba is to be had, bf16 on a GPU that has it, and else fp32.

    Args:
        compiled: Let PyTorch compile a step.

    Raises:
        HardwareError: The device has not the precision, or int8 is to be compiled.
    """
    found, decoder = _pick(model, precision)
    if compiled and found == "int8":
        raise HardwareError("--compile on: int8 is compiled already. Leave it out.")
    if compiled:
        decoder.compile()
    return found, decoder


def _pick(model: Model, precision: ChatPrecision) -> tuple[ChatPrecision, Decoder]:
    device = model.device
    if precision == "auto":
        return _best(model)
    if precision == "int8":
        if device.type != "cpu":
            raise HardwareError(f"--precision int8 is for CPUs, not {device.type}. Use bf16.")
        return "int8", _int8(model)
    if precision == "bf16":
        pick_autocast("bf16", device)
    return precision, Decoder(model, torch.bfloat16 if precision == "bf16" else torch.float32)


def _best(model: Model) -> tuple[ChatPrecision, Decoder]:
    if model.device.type == "cpu":
        try:
            return _pick(model, "int8")
        except HardwareError:
            return _pick(model, "fp32")
    return _pick(model, "bf16" if pick_autocast("auto", model.device) else "fp32")


def _int8(model: Model) -> Decoder:
    activation = weights_of(model).activation
    if activation not in GELUS:
        raise HardwareError(f"--precision int8 has GPT-2's own GELU, not {activation}. Use fp32.")
    try:
        from gpt2chat.core.generation.int8 import Int8Decoder
    except ImportError as error:
        raise HardwareError(f"--precision int8 needs numba ({error}). Use fp32.") from error
    except RuntimeError as error:
        # numba keeps what it has compiled beside the module, or in the user's folder for caches.
        raise HardwareError(
            f"--precision int8: {error}. Set NUMBA_CACHE_DIR, or use fp32."
        ) from error
    whole = torch.bfloat16 if pick_autocast("auto", model.device) else torch.float32
    return Int8Decoder(model, whole)
