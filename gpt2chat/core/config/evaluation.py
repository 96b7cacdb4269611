"""Define the settings of an evaluation."""

from dataclasses import dataclass
from pathlib import Path

from gpt2chat.core.config.settings import Device, Precision, Settings, setting


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Settings):
    """Settings of an evaluation."""

    model: str = setting(
        "",
        help="Model to evaluate: a run, a model folder, a name on the Hugging Face Hub, or "
        "starter. Defaults to the newest finished run.",
        section="Models",
    )
    against: tuple[str, ...] = setting(
        (),
        help="Another model to compare with on the same samples, with paired differences.",
        section="Models",
        metavar="MODEL",
    )
    # Folders are measured apart: one figure over several would depend on their sizes.
    data: tuple[str, ...] = setting(
        ("data",),
        help="Folder that `prepare()` wrote, with held-out rows. Several are measured one by one.",
        section="Data",
        metavar="FOLDER",
    )
    # Drawn by the text of a sample, so that models are compared on the same ones.
    limit: int | None = setting(
        None,
        help="Score at most this many replies, reference conversations and pairs, the same for "
        "each model. Defaults to all.",
        section="Data",
        ge=1,
    )
    ppl: bool = setting(True, help="Measure perplexity.", section="Measurements")
    speed: bool = setting(True, help="Measure tokens per second.", section="Measurements")
    preferences: bool = setting(
        True, help="Measure preference accuracy on held-out pairs.", section="Measurements"
    )
    generations: int = setting(
        16,
        help="Generate and describe replies to the fixed questions and to this many held-out "
        "prompts; 0 for no replies at all.",
        section="Measurements",
        ge=0,
    )
    # It draws the bootstrap, the subset of `limit`, the replies, and missing token embeddings.
    seed: int = setting(0, help="Seed of all random choices.", section="Measurements", ge=0)
    device: Device = setting(
        "auto", help="Where to evaluate. auto uses a GPU if there is one.", section="Hardware"
    )
    # float32 gives the same figures on any machine. On a CPU that has bf16, bf16 is twice as fast
    # and raised perplexity by 0.1 %.
    precision: Precision = setting(
        "fp32",
        help="float32 gives the same figures on any machine; bf16 is faster.",
        section="Hardware",
    )
    out: Path | None = setting(
        None,
        help="File to write. Defaults to eval.json in the model's folder.",
        section="Output",
        metavar="FILE",
    )

    def check_together(self) -> None:
        """Check that there are data folders, each named once."""
        self.require("data", bool(self.data) and all(self.data), "the name of a folder")
        self.require("data", len(set(self.data)) == len(self.data), "different folders")
