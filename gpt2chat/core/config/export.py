"""Define the settings of an export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt2chat.core.config.settings import Settings, setting
from gpt2chat.core.errors import ConfigError

Format = Literal["gguf", "ollama", "onnx", "merged", "hub"]
ExportPrecision = Literal["auto", "fp32", "int8", "fp16", "bf16", "q8_0", "q4_0"]

PRECISIONS: dict[Format, tuple[ExportPrecision, ...]] = {
    "gguf": ("fp16", "fp32", "bf16", "q8_0", "q4_0"),
    "ollama": ("fp16", "fp32", "bf16", "q8_0", "q4_0"),
    "onnx": ("fp32", "int8"),
    "merged": ("fp32",),
    "hub": ("fp32",),
}
"""The number formats that each format can hold. `auto` is the first, and both of onnx."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """Settings of an export."""

    model: str = setting(
        "",
        help="Model to export: a run, a model folder, a name on the Hugging Face Hub, or "
        "starter. Defaults to the newest finished run.",
        section="Model",
    )
    to: Format | None = setting(
        None,
        help="gguf is one file for llama.cpp and programs built on it. ollama adds a Modelfile. "
        "onnx is for onnxruntime and transformers.js. merged is a plain model folder with the "
        "adapter merged in, and hub uploads that to the Hugging Face Hub.",
        section="Model",
    )
    precision: ExportPrecision = setting(
        "auto",
        help="Number format of the weights. auto is fp16 for gguf and ollama, fp32 and int8 side "
        "by side for onnx, and fp32 for merged and hub.",
        section="Model",
    )
    out: Path | None = setting(
        None,
        help="Folder to write. Defaults to exports/NAME-FORMAT.",
        section="Output",
    )
    overwrite: bool = setting(False, help="Replace the export in `out`.", section="Output")
    repo: str | None = setting(
        None, help="Repository to upload to.", section="Hub", metavar="OWNER/NAME"
    )
    private: bool = setting(
        True,
        help="Create the repository as a private one, and refuse one that is public.",
        section="Hub",
    )
    dry_run: bool = setting(
        False, help="List what would be uploaded, and upload nothing.", section="Hub"
    )

    def check_together(self) -> None:
        if self.to is None:
            raise ConfigError(f"Choose a format with `to`: {', '.join(PRECISIONS)}.", setting="to")
        known = PRECISIONS[self.to]
        self.require(
            "precision",
            self.precision in ("auto", *known),
            f"{', '.join(sorted(known))} or auto for {self.to}",
        )
        if (self.to == "hub") != (self.repo is not None):
            raise ConfigError(
                '`repo` says where `to="hub"` uploads. Set both, as in '
                '`export(to="hub", repo="me/my-bot")`.',
                setting="repo",
            )
        if self.to == "hub" and self.out is not None:
            raise ConfigError(
                '`to="hub"` writes no folder. Leave out `out`, or use `to="merged"`.',
                setting="out",
            )
