"""Load a generator by a model's name, for chat, the library and servers."""

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.settings import Compile, Device
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.model.compiling import pick_compile
from gpt2chat.core.model.device import pick_device
from gpt2chat.core.model.names import resolve_model
from gpt2chat.core.model.weights import check_finite, read_weights


def load_generator(
    name: str,
    device: Device = "auto",
    precision: ChatPrecision = "auto",
    compile: Compile = "off",
    *,
    slots: int = 16,
    kept: int = 1,
) -> Generator:
    """Return a generator of a model, ready to answer.

    Args:
        name: A run, a model folder, a name on the Hugging Face Hub or `starter`.
        compile: Whether PyTorch compiles a step: faster on a GPU, but the first reply waits for it.
        slots: Most replies that are computed together.
        kept: Slots up to which memory is taken to keep texts whose reply has ended.

    Raises:
        CheckpointError: The name is not that of a GPT-2 model, or its files are damaged.
        NetworkError: The model cannot be downloaded from the Hub.
        HardwareError: The device is absent, or does not support the precision.
    """
    on = pick_device(device)
    compiled = pick_compile(compile, on, tokens=0)
    folder = resolve_model(name)
    if folder.is_chat and folder.base is None:
        model = read_weights(folder)
        check_finite(model, folder.name)
    else:
        # Importing transformers takes longer than loading the model, so it happens only here.
        from gpt2chat.core.model.load import load_model

        model = load_model(folder)
    return Generator(model, on, precision, compiled=compiled, slots=slots, kept=kept)
