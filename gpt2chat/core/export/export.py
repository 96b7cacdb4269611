"""Write a model in another format, prove it, and only then put it in its place."""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import GPT2LMHeadModel

from gpt2chat.core.config.export import PRECISIONS, ExportConfig, ExportPrecision
from gpt2chat.core.display import html_table, text_table
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.export.hub_card import card_data, hub_card
from gpt2chat.core.export.proof import (
    TOKENS,
    Proof,
    answer,
    bundled_material,
    compare,
    proof_rows,
)
from gpt2chat.core.export.runtime import Original, Runtime
from gpt2chat.core.export.upload import check_repository, upload
from gpt2chat.core.files import json_text, make_folder, storage
from gpt2chat.core.generation.generate import Generator as Engine
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.load import load_model
from gpt2chat.core.model.names import resolve_model
from gpt2chat.core.model.weights import weights_of

PROOF = "proof.json"
"""File of an export with what the proof measured; it marks the folder as an export."""
PACKAGES = {"gguf": ("gguf",), "ollama": ("gguf",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages of the extra `export` that a format needs."""


@dataclass(frozen=True)
class Export:
    """A finished export: where it is, its files, and how close it is to the original."""

    path: Path | None
    """Its folder; None for an upload."""
    uploaded: str
    """The address of the commit on the Hub; empty if nothing was uploaded."""
    model: str
    """Name of the model that was exported."""
    format: str
    files: tuple[tuple[str, int], ...]
    """The files, each with its size in bytes."""
    proofs: tuple[Proof, ...]

    def __str__(self) -> str:
        return text_table(proof_rows(self.proofs))

    def _repr_html_(self) -> str:
        return html_table(proof_rows(self.proofs))


def export(
    settings: ExportConfig,
    on_progress: Callable[[str], None] | None = None,
    *,
    tokens: int | None = None,
) -> Export:
    """Write a model in another format, and return what its proof measured.

    The original runs in float32 on the CPU. A GGUF file is read back, and also run by llama.cpp if
    the package xllamacpp is installed.

    Args:
        settings: With the name of a model.
        on_progress: Called with what is being done, and with each file before it is uploaded.
        tokens: How many log-probabilities to compare; `TOKENS` by default.

    Raises:
        ConfigError: A package is missing, or there is something else in place of the folder.
        CheckpointError: The model cannot be read.
        NetworkError: The Hub cannot be reached, or refuses the upload.
        ExportError: The export would not talk like its original. Nothing was written.
        StorageError: The folder cannot be written.
    """
    assert settings.to is not None

    def report(text: str) -> None:
        if on_progress is not None:
            on_progress(text)

    # Before the model is read or downloaded, as is the check of the repository.
    for package in PACKAGES.get(settings.to, ()):
        if find_spec(package) is None:
            raise ConfigError(
                f"The package {package} is not installed. Install it with: "
                "pip install 'gpt2chat[export]'",
                setting="to",
            )
    title = Path(settings.model).resolve().name
    out, place = settings.out or Path("exports") / f"{title}-{settings.to}", ""
    with ExitStack() as stack:
        if settings.repo is not None:
            check_repository(settings.repo, private=settings.private)
            new = Path(stack.enter_context(TemporaryDirectory()))
        else:
            new = stack.enter_context(_staged(out, overwrite=settings.overwrite))
        folder = resolve_model(settings.model)
        if not folder.is_chat:
            report(f"{settings.model} was never trained on the chat template: it will not chat")
        report(f"loading {settings.model}")
        model = load_model(folder)
        report(f"writing {settings.to}")
        original = Original(Engine(weights_of(model), torch.device("cpu"), "fp32"))
        material = bundled_material(original.generator.window, tokens or TOKENS)
        answers, proofs = None, list[Proof]()
        for precision, opened in _programs(model, new, title, settings):
            with opened as runtime:
                report(f"comparing with the original in {runtime.name}, {precision}")
                # The original answers once, however many programs are compared with it.
                answers = answers or answer(original, material)
                proofs.append(compare(original, answers, runtime, precision, material))
        (new / PROOF).write_text(json_text([asdict(proof) for proof in proofs]) + "\n")
        if settings.repo is not None:
            parameters = sum(weight.numel() for weight in model.parameters())
            window = original.generator.window
            card = hub_card(settings.model, settings.repo, parameters, window, proofs)
            (new / "README.md").write_text(card, encoding="utf-8")
        files = [file for file in sorted(new.rglob("*")) if file.is_file()]
        sizes = tuple((file.relative_to(new).as_posix(), file.stat().st_size) for file in files)
        if settings.repo is not None:
            kind = "private" if settings.private else "public"
            report(f"to upload to {settings.repo} ({kind}):")
            for name, size in sizes:
                report(f"    {name}, {size:,} bytes")
            if not settings.dry_run:
                # What is sent is what was listed, never a folder as a whole.
                names = [name for name, _ in sizes]
                place = upload(new, names, settings.repo, private=settings.private)
    path = None if settings.repo is not None else out
    return Export(path, place, settings.model, settings.to, sizes, tuple(proofs))


def _programs(
    model: GPT2LMHeadModel, folder: Path, title: str, settings: ExportConfig
) -> Iterator[tuple[ExportPrecision, AbstractContextManager[Runtime]]]:
    """Write the files of a format, and yield the programs that run them, with the precision."""
    precision = settings.precision
    if settings.to in ("gguf", "ollama"):
        from gpt2chat.core.export.gguf_file import GgufContents, write_gguf
        from gpt2chat.core.export.llama import Llama
        from gpt2chat.core.export.ollama import write_modelfile

        precision = "fp16" if precision == "auto" else precision
        file = folder / f"{title}-{precision}.gguf"
        write_gguf(
            weights_of(model),
            file,
            precision,
            title,
            getattr(card_data(settings.model), "license", None),
        )
        if settings.to == "ollama":
            write_modelfile(folder, file.name, model.config.n_positions)
        # Read back, which shows exactly what is in the file. llama.cpp shows what a user gets, but
        # whoever exports may not need it, so it is not in the extra.
        yield precision, nullcontext(GgufContents(file))
        if find_spec("xllamacpp"):
            yield precision, Llama(file)
    elif settings.to == "onnx":
        from gpt2chat.core.export.onnx_graph import OnnxRuntime, write_onnx

        precisions = PRECISIONS["onnx"] if precision == "auto" else (precision,)
        write_onnx(model, folder, precisions)
        for each in precisions:
            yield each, nullcontext(OnnxRuntime(folder, each))
    else:
        from gpt2chat.core.export.merged import Transformers

        save_model(model, folder)
        yield "fp32", nullcontext(Transformers(folder))


@contextmanager
def _staged(folder: Path, *, overwrite: bool) -> Generator[Path]:
    """Yield a new folder that takes the place of `folder` at the end, and is removed on an error.

    Raises:
        ConfigError: `folder` exists, and is not an earlier export that may be replaced.
        StorageError: The disk is full, or the folder cannot be written.
    """
    with storage(folder):
        if folder.exists() and not (folder / PROOF).exists():
            raise ConfigError(
                f"{folder} exists, and is not an export. Give another folder with `out`.",
                setting="out",
            )
        if folder.exists() and not overwrite:
            raise ConfigError(
                f"{folder} holds an export. Give another `out`, or replace the export with "
                "`overwrite=True`.",
                setting="out",
            )
        make_folder(folder.parent)
        # Next to `folder`, so on the same disk: renaming replaces it as a whole or not at all.
        with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
            new, old = Path(work) / "new", Path(work) / "old"
            new.mkdir()
            yield new
            # The earlier export makes room only when the new one is complete and proved.
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
