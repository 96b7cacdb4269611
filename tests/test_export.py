"""Exports hold what the model holds, and programs that read them talk like the original."""

import json
import shutil
import subprocess
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel
from typer.testing import CliRunner

import gpt2chat
from gpt2chat.cli import app
from gpt2chat.core.config.export import ExportConfig, ExportPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import settings_from
from gpt2chat.core.errors import ConfigError, ExportError
from gpt2chat.core.export import proof
from gpt2chat.core.export.export import Export, export
from gpt2chat.core.export.gguf_file import write_gguf
from gpt2chat.core.export.llama import Llama
from gpt2chat.core.export.ollama import TEMPLATE
from gpt2chat.core.export.onnx_graph import OnnxRuntime
from gpt2chat.core.export.proof import (
    Answers,
    Material,
    answer,
    bundled_material,
    compare,
    proof_rows,
)
from gpt2chat.core.export.runtime import Continuation, Original
from gpt2chat.core.generation.generate import Generator as Engine
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.weights import weights_of
from gpt2chat.core.text.conversations import Conversation, Message
from gpt2chat.core.text.template import CHAT_TEMPLATE, render, to_text
from gpt2chat.core.text.tokens import (
    EOT_ID,
    SPECIAL_IDS,
    decode,
    encode_conversation,
    encode_text,
    gpt2_vocabulary,
)
from gpt2chat.report import show_export
from tests.helpers import ignore, talk, tiny_model
from tests.test_template import CONTROL_NAMES, contents, conversations, through_transformers

TOKENS = 60
"""Enough log-probabilities for a model of 2 layers."""


def engine(model: GPT2LMHeadModel) -> Engine:
    return Engine(weights_of(model), torch.device("cpu"), "fp32")


def folder_of(exported: Export) -> Path:
    assert exported.path is not None
    return exported.path


@pytest.fixture(scope="module")
def ending() -> GPT2LMHeadModel:
    """A model of 2 layers that ends its replies, some at once and some after many tokens."""
    model = tiny_model()
    embeddings: Any = model.transformer.wte.weight
    with torch.no_grad():
        embeddings[EOT_ID] *= 12
    return model


@pytest.fixture(scope="module")
def ending_folder(ending: GPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ending"
    save_model(ending, folder)
    return folder


@pytest.fixture(scope="module")
def exported(ending_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The model for Ollama, in float32."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    out = tmp_path_factory.mktemp("exports") / "bot"
    values = {"model": ending_folder, "to": "ollama", "precision": "fp32", "out": out}
    return export(settings_from(ExportConfig, values), tokens=TOKENS)


@pytest.fixture(scope="module")
def file(exported: Export) -> Path:
    return folder_of(exported) / "ending-fp32.gguf"


@pytest.fixture(scope="module")
def llama(file: Path) -> Generator[Llama]:
    with Llama(file) as server:
        yield server


def test_an_export_for_ollama_has_its_files_and_is_proved_in_the_file_and_in_llama_cpp(
    exported: Export,
):
    names = {name for name, _ in exported.files}
    assert names == {"ending-fp32.gguf", "Modelfile", "proof.json"}
    assert {each.name for each in folder_of(exported).parent.iterdir()} == {"bot"}
    of_file, of_llama = exported.proofs
    assert "llama.cpp" in of_llama.runtime
    assert of_file.largest < 1e-4
    assert of_file.tokens == of_llama.tokens == TOKENS
    assert of_file.same_replies == of_file.replies == 5
    assert of_file.ends == of_llama.ends
    assert of_file.ends[0] > 0
    saved = json.loads((folder_of(exported) / "proof.json").read_text())
    assert [each["runtime"] for each in saved] == [each.runtime for each in exported.proofs]


def test_the_table_has_a_column_for_each_program(exported: Export):
    heads, *rows = proof_rows(exported.proofs)
    assert heads[1:] == [each.runtime for each in exported.proofs]
    assert all(len(row) == 3 for row in rows)
    assert "5 of 5" in str(exported)
    assert "<td>5 of 5</td>" in exported._repr_html_()  # pyright: ignore[reportPrivateUsage]


def test_a_file_holds_the_tensors_the_tokens_the_template_and_the_defaults(
    file: Path, ending: GPT2LMHeadModel
):
    reader = GGUFReader(file)
    fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    names, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    ids = {**gpt2_vocabulary(), **SPECIAL_IDS}
    assert {name: at for at, name in enumerate(names)} == ids
    control = {name for name, kind in zip(names, kinds, strict=True) if kind == TokenType.CONTROL}
    assert control == set(CONTROL_NAMES)
    assert fields["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert fields["tokenizer.ggml.eos_token_id"] == EOT_ID
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["gpt2.context_length"] == 1024
    assert fields["general.sampling.top_k"] == Sampling().top_k
    assert fields["general.name"] == "ending"
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    state: dict[str, Any] = ending.transformer.state_dict()
    assert len(stored) == len(state)
    assert np.array_equal(stored["token_embd.weight"], state["wte.weight"])
    assert np.array_equal(stored["blk.1.ffn_up.weight"], state["h.1.mlp.c_fc.weight"].T)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "q8_0", "q4_0"])
def test_a_quantized_file_has_matrices_in_that_format_and_positions_in_float32(
    precision: ExportPrecision, ending: GPT2LMHeadModel, tmp_path: Path, monkeypatch: Any
):
    # The vocabulary takes a second to write and to read, and is the same in all.
    monkeypatch.setattr("gpt2chat.core.export.gguf_file.add_tokenizer", ignore)
    write_gguf(weights_of(ending), tmp_path / "file.gguf", precision, "bot", "mit")
    reader = GGUFReader(tmp_path / "file.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    name = {"fp16": "F16"}.get(precision, precision.upper())
    assert kinds["blk.0.attn_qkv.weight"] == name
    assert kinds["token_embd.weight"] == ("Q8_0" if precision == "q4_0" else name)
    assert kinds["position_embd.weight"] == kinds["output_norm.weight"] == "F32"
    assert reader.fields["general.license"].contents() == "mit"


def test_llama_cpp_chats_with_the_template_and_stops_by_itself(
    llama: Llama, ending: GPT2LMHeadModel
):
    original = Original(engine(ending))
    for question in ("Hi", "What is a comet?", "Tell me about the sea."):
        conversation = talk(question)
        ours = original.reply(original.encode(conversation), 40)
        answer = llama.ask(
            "/v1/chat/completions", messages=conversation.as_dicts(), temperature=0, max_tokens=40
        )
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == ("stop" if ours.ended else "length")
        assert answer["usage"]["completion_tokens"] == len(ours.ids) + ours.ended


def test_llama_cpp_reports_tokens_that_end_within_a_character(
    llama: Llama, ending: GPT2LMHeadModel
):
    ids = encode_text("A \U0001f9a6.")  # an otter, which has no token of its own
    assert any("\ufffd" in decode([token]) for token in ids)
    ours = Original(engine(ending)).logprobs(ids, 1)
    assert np.abs(llama.logprobs(ids, 1) - ours).max() < 0.1


def test_llama_cpp_takes_its_sampling_defaults_from_the_file(llama: Llama):
    answer = llama.ask("/completion", prompt="Hi", n_predict=1)
    used = answer["generation_settings"]
    assert used["top_k"] == Sampling().top_k
    assert used["temperature"] == pytest.approx(Sampling().temperature)
    assert used["repeat_penalty"] == 1


typed = st.lists(st.one_of(contents, st.sampled_from(CONTROL_NAMES)), min_size=1, max_size=3).map(
    lambda parts: "x" + " ".join(parts)
)


@settings(max_examples=40)
@given(conversations(typed))
def test_the_template_gives_the_same_text_in_llama_cpp_transformers_and_here(
    llama: Llama, conversation: Conversation
):
    prompt = conversation.prompt
    ours = to_text(render(prompt))
    assert through_transformers(prompt, tokenize=False, add_generation_prompt=True) == ours
    assert llama.prompt(prompt) == ours
    # A typed control token becomes a real one there, as docs/template.md says.
    if not any(name in message.content for name in CONTROL_NAMES for message in prompt.messages):
        assert llama.encode(prompt) == encode_conversation(prompt).ids


@pytest.mark.slow
def test_ollamas_template_gives_the_same_text(tmp_path: Path):
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go, whose template engine Ollama uses, is not installed")
    cases = [
        talk("Hi"),
        talk("a", "b", "c", "d", "e"),
        Conversation((Message("assistant", "Welcome"), Message("user", "{{ .Role }}"))),
        Conversation(
            (Message("system", 'Be "x".'), Message("context", "A\n\nb"), *talk("c").messages)
        ),
        Conversation((Message("context", "A"), *talk("b", "<|eot_id|>", "d").messages)),
    ]
    (tmp_path / "template").write_text(TEMPLATE)
    messages = [
        [{"Role": message.role, "Content": message.content} for message in case.messages]
        for case in cases
    ]
    program = Path(__file__).with_name("ollama_template.go")
    done = subprocess.run(
        [go, "run", program, tmp_path / "template"],
        input=json.dumps(messages), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [to_text(render(case)) for case in cases]


def test_the_modelfile_names_the_file_every_stop_and_the_window(exported: Export):
    text = (folder_of(exported) / "Modelfile").read_text()
    assert text.startswith("FROM ./ending-fp32.gguf\n")
    assert f'TEMPLATE """{TEMPLATE}"""' in text
    for line in ('stop "<|eot_id|>"', 'stop "<|endoftext|>"', "num_ctx 1024", "repeat_penalty 1.0"):
        assert f"PARAMETER {line}\n" in text


@pytest.fixture(scope="module")
def onnx_export(ending_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The model for onnxruntime, in float32 and int8."""
    out = tmp_path_factory.mktemp("exports") / "onnx"
    values = {"model": ending_folder, "to": "onnx", "out": out}
    return export(settings_from(ExportConfig, values), tokens=TOKENS)


@pytest.mark.slow
def test_an_export_for_onnxruntime_is_proved_in_both_precisions(onnx_export: Export):
    exact, rounded = onnx_export.proofs
    assert (exact.precision, rounded.precision) == ("fp32", "int8")
    assert exact.largest < 1e-3
    assert exact.same_replies == 5
    assert exact.ends[0] == exact.ends[1] > 0
    sizes = dict(onnx_export.files)
    assert sizes["onnx/model_quantized.onnx"] < 0.4 * sizes["onnx/model.onnx"]
    settings = json.loads((folder_of(onnx_export) / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == CHAT_TEMPLATE


@pytest.mark.slow
def test_the_graph_has_the_names_that_transformers_js_looks_for(onnx_export: Export):
    session = OnnxRuntime(folder_of(onnx_export), "fp32").session
    layers = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    assert [each.name for each in session.get_inputs()] == [
        *("input_ids", "attention_mask", "position_ids"),
        *(f"past_key_values.{part}" for part in layers),
    ]
    outputs = [each.name for each in session.get_outputs()]
    assert outputs == ["logits", *(f"present.{part}" for part in layers)]


@pytest.mark.slow
def test_a_padded_text_in_a_batch_has_the_scores_that_it_has_alone(onnx_export: Export):
    program = OnnxRuntime(folder_of(onnx_export), "fp32")
    ids = [SPECIAL_IDS["<|beginoftext|>"], 40, 716, 257, 3329]
    alone, _ = program.run(ids, program.empty)
    cache = {
        name: np.zeros((2, *part.shape[1:]), np.float32) for name, part in program.empty.items()
    }
    mask = np.array([[0, 0, 1, 1, 1], [1] * 5])
    scores, *_ = program.session.run(
        ["logits"],
        {
            "input_ids": np.array([[0, 0, *ids[:3]], ids]),
            "attention_mask": mask,
            "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
            **cache,
        },
    )
    assert np.allclose(scores[0, 2:], alone[:3], atol=1e-5)
    assert np.allclose(scores[1], alone, atol=1e-5)


class Changed(Original):
    """The same model in a program with one fault."""

    name = "another program"

    def __init__(self, generator: Engine, fault: str):
        super().__init__(generator)
        self.fault = fault

    def prompt(self, conversation: Conversation) -> str:
        text = super().prompt(conversation)
        return text.replace("user", "prompter") if self.fault == "renders" else text

    def encode(self, conversation: Conversation) -> list[int]:
        ids = super().encode(conversation)
        return [ids[0], *ids] if self.fault == "encodes" else ids

    def logprobs(self, ids: Any, start: int) -> Any:
        values = super().logprobs(ids, start)
        match self.fault:
            case "token's":
                return np.where(np.arange(len(values)) == 0, values - 0.5, values)
            case "in the mean":
                return values + 0.1
            case "differs by nan":
                return values * np.nan
            case _:
                return values

    def reply(self, prompt: Any, limit: int) -> Continuation:
        reply = super().reply(prompt, limit)
        match self.fault:
            case "does not end":
                return Continuation(reply.ids, False)
            case "sure of its own":
                return Continuation([*reply.ids, 11][:limit], False)
            case _:
                return reply


@pytest.fixture(scope="module")
def asked(ending: GPT2LMHeadModel) -> tuple[Original, Answers, Material]:
    original, material = Original(engine(ending)), bundled_material(1024, TOKENS)
    return original, answer(original, material), material


@pytest.mark.parametrize(
    "fault",
    [
        *("renders", "encodes", "token's", "in the mean", "differs by nan"),
        *("does not end", "sure of its own"),
    ],
)
def test_a_program_that_differs_fails_the_proof(
    fault: str, asked: tuple[Original, Answers, Material]
):
    original, answers, material = asked
    with pytest.raises(ExportError, match=fault):
        compare(original, answers, Changed(original.generator, fault), "fp32", material)


def test_a_program_that_does_not_differ_passes(asked: tuple[Original, Answers, Material]):
    original, answers, material = asked
    passed = compare(original, answers, Changed(original.generator, ""), "fp32", material)
    assert (passed.largest, passed.same_replies) == (0, 5)


@pytest.mark.parametrize("window", [1024, 96])
def test_the_material_fits_the_window_and_reaches_its_end(window: int):
    material = bundled_material(window, 500)
    assert sum(len(text.ids) - text.start for text in material.scored) == 500
    assert max(len(text.ids) for text in material.scored) == window
    assert all(0 < text.start < len(text.ids) for text in material.scored)
    kinds = [(bool(each.document), bool(each.history)) for each in material.prompts]
    assert (True, False) in kinds
    assert (False, True) in kinds


def test_an_export_that_fails_its_proof_leaves_nothing_behind(
    ending_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(proof.TOLERANCES, "fp32", proof.Tolerance(-1, -1, -1))
    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "proof.json").write_text("[]")
    settings = ExportConfig(
        model=str(ending_folder), to="merged", out=tmp_path / "bot", overwrite=True
    )
    with pytest.raises(ExportError):
        export(settings, tokens=TOKENS)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "bot", "bot/proof.json",
    ]  # fmt: skip


def test_a_merged_folder_talks_the_same_in_plain_transformers(ending_folder: Path, tmp_path: Path):
    steps: list[str] = []
    out = tmp_path / "bot"
    first = gpt2chat.export(ending_folder, to="merged", out=out, on_progress=steps.append)
    (done,) = first.proofs
    assert done.tokens == 2_000
    assert done.largest < 1e-3
    assert done.ends[0] == done.ends[1] > 0
    assert any("transformers" in step for step in steps)
    with pytest.raises(ConfigError, match="overwrite"):
        gpt2chat.export(ending_folder, to="merged", out=out)


def test_the_command_prints_the_table_the_files_and_the_folder(
    ending_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gpt2chat.core.export.export.TOKENS", TOKENS)
    out = tmp_path / "bot"
    line = ["export", "--model", str(ending_folder), "--to", "merged", "--out", str(out)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0
    assert "greedy replies equal" in done.stdout
    assert "model.safetensors" in done.stdout
    assert f"Written: {out}" in done.stdout
    assert "transformers" in done.stderr


def test_the_next_step_after_an_export_for_ollama_is_printed(
    exported: Export, capsys: pytest.CaptureFixture[str]
):
    show_export(exported, json=False)
    assert f"ollama create bot -f {exported.path}/Modelfile" in capsys.readouterr().out
    show_export(exported, json=True)
    assert json.loads(capsys.readouterr().out)["proofs"][0]["tokens"] == TOKENS


def test_a_folder_of_the_users_is_never_replaced(ending_folder: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError) as raised:
        gpt2chat.export(ending_folder, to="merged", out=tmp_path, overwrite=True)
    assert raised.value.setting == "out"


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({}, "to"),
        ({"to": "gguf", "precision": "int8"}, "precision"),
        ({"to": "merged", "precision": "q8_0"}, "precision"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], setting: str):
    with pytest.raises(ConfigError) as raised:
        settings_from(ExportConfig, values)
    assert raised.value.setting == setting


def test_a_model_that_llama_cpp_computes_otherwise_is_refused(
    ending: GPT2LMHeadModel, tmp_path: Path
):
    weights = replace(weights_of(ending), activation="relu")
    with pytest.raises(ExportError):
        write_gguf(weights, tmp_path / "file.gguf", "fp32", "bot", None)
    assert not list(tmp_path.iterdir())
