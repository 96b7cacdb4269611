"""`python -m tests.sharded`: gpt2chat under FSDP on CPUs, which accelerate has for GPUs only.

The shards, their gradients and their checkpoints are the same code there. Started by torchrun.
"""

import os
from typing import Any

from accelerate.state import PartialState
from accelerate.utils.dataclasses import DistributedType

from gpt2chat.cli import main

SETTINGS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "GPT2Block",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch` makes of the configuration in docs/training.md."""


def as_if_on_gpus() -> None:
    begin = PartialState.__init__

    def begun(self: PartialState, *arguments: Any, **settings: Any) -> None:
        begin(self, *arguments, **settings)
        shared: dict[str, Any] = self._shared_state  # pyright: ignore[reportPrivateUsage]
        if shared.get("distributed_type") == DistributedType.MULTI_CPU:
            shared["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = begun


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    as_if_on_gpus()
    main()
