"""Write the Modelfile with which Ollama runs a GGUF file."""

from pathlib import Path

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.text.conversations import DEFAULT_SYSTEM
from gpt2chat.core.text.template import (
    BOS,
    END_CONTEXT,
    END_HEADER,
    END_OF_TURN,
    START_CONTEXT,
    START_HEADER,
)

MODELFILE = "Modelfile"
PRESENCE_PENALTY = 1.2
"""Taken off the score of each token that the text has already. On the scores of a chat, it is what
gpt2chat's repetition penalty of 1.1 takes off (docs/export.md)."""

_HEADER = START_HEADER + "{{ .Role }}" + END_HEADER + "\n"

TEMPLATE = (
    '{{- $system := "' + DEFAULT_SYSTEM + '" }}'
    '{{- range .Messages }}{{ if eq .Role "system" }}{{ $system = .Content }}{{ end }}{{ end -}}'
    + BOS + START_HEADER + "system" + END_HEADER + "\n{{ $system }}" + END_OF_TURN +
    "{{- $block := false }}"
    "{{- range $i, $_ := .Messages }}"
    '{{- if ne .Role "system" }}'
    "{{- if gt (len (slice $.Messages $i)) 1 }}"
    "{{- if not $block }}" + START_CONTEXT + "{{ $block = true }}{{ end }}"
    "{{- else if $block }}" + END_CONTEXT + "{{ end }}"
    '{{- if eq .Role "context" }}{{ .Content }}'
    "{{- else }}" + _HEADER + "{{ .Content }}" + END_OF_TURN + "{{ end }}"
    "{{- end }}{{ end -}}"
    + START_HEADER + "assistant" + END_HEADER + "\n"
)  # fmt: skip
"""The chat template in Go's template language.

Go's templates cannot strip white space around a message, and the latest message is taken for the
one to answer.
"""


def write_modelfile(folder: Path, file: str, window: int) -> None:
    """Write the Modelfile for a GGUF file in the same folder."""
    sampling = Sampling()
    parameters = {
        "num_ctx": window,
        "num_predict": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        # Ollama multiplies scores below 0 by this, and GPT-2's are tens below: 1 turns it off.
        "repeat_penalty": 1.0,
        "presence_penalty": PRESENCE_PENALTY,
    }
    stops = (END_OF_TURN, "<|endoftext|>", START_HEADER)
    lines = [
        f"FROM ./{file}",
        f'TEMPLATE """{TEMPLATE}"""',
        *(f"PARAMETER {name} {value}" for name, value in parameters.items()),
        *(f'PARAMETER stop "{stop}"' for stop in stops),
    ]
    (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
