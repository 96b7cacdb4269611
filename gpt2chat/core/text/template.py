"""Render a conversation as spans of text: the only definition of the chat template.

    <|beginoftext|>
    <|start_header_id|>system<|end_header_id|>⏎{system}<|eot_id|>
    <|start_context|>{document}{history}<|end_context|>               only if there is either
    <|start_header_id|>user<|end_header_id|>⏎{latest user message}<|eot_id|>
    <|start_header_id|>assistant<|end_header_id|>⏎{reply}<|eot_id|>

Each turn of the history is rendered like a turn outside the block: header, one line break, text,
<|eot_id|>. Only ⏎ is a line break ("\n"); the others above are for the reader.

This is Llama 3's instruct template with the history in a context block.
"""

from functools import cache
from typing import NamedTuple

from gpt2chat.core.text.conversations import DEFAULT_SYSTEM, Conversation

BOS = "<|beginoftext|>"
PAD = "<|finetune_right_pad_id|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_TURN = "<|eot_id|>"
START_CONTEXT = "<|start_context|>"
END_CONTEXT = "<|end_context|>"

# Padding has a token of its own: if it were the end token, a model would never learn to stop.
SPECIAL_TOKENS = (BOS, PAD, START_HEADER, END_HEADER, END_OF_TURN, START_CONTEXT, END_CONTEXT)
"""Added to GPT-2's 50,257 tokens in this order, so their ids are 50257 to 50263."""


class Span(NamedTuple):
    """A piece of a rendered conversation that is encoded on its own."""

    text: str
    control: bool = False
    """Whether the text is a special token. In other spans, a special token's name is plain text."""
    trained: bool = False
    """Whether its tokens contribute to the loss."""


def turn(role: str, content: str, *, trained: bool = False) -> tuple[Span, ...]:
    """Return the spans of one turn."""
    return (*_header(role), Span(content, trained=trained), _END_TRAINED if trained else _END)


@cache
def _header(role: str) -> tuple[Span, ...]:
    return (
        Span(START_HEADER, control=True),
        Span(role),
        Span(END_HEADER, control=True),
        # A span of its own, so that a prompt's ids are the beginning of its sample's ids. GPT-2's
        # pre-tokenizer splits here too, because contents never begin with white space.
        Span("\n"),
    )


_END = Span(END_OF_TURN, control=True)
_END_TRAINED = Span(END_OF_TURN, control=True, trained=True)


def render(conversation: Conversation) -> list[Span]:
    """Return the spans of a conversation, of which only the reply is trained.

    A conversation without a reply ends with the header of the reply, so the spans of a prompt are
    the beginning of the spans of every sample made from it.
    """
    spans = [Span(BOS, control=True), *turn("system", conversation.system)]
    # Without either there is no block: an empty one would be two tokens to learn for nothing.
    document, history = conversation.document, conversation.history
    if document or history:
        spans.append(Span(START_CONTEXT, control=True))
        if document:
            spans.append(Span(document.content))
        for message in history:
            spans += turn(message.role, message.content)
        spans.append(Span(END_CONTEXT, control=True))
    spans += turn("user", conversation.user.content)
    if conversation.reply is None:  # the model writes what follows the header
        spans += _header("assistant")
    else:
        spans += turn("assistant", conversation.reply.content, trained=True)
    return spans


def to_text(spans: list[Span]) -> str:
    """Return the rendered text, in which a special token and its typed name look the same."""
    return "".join(span.text for span in spans)


_JINJA_TURN = (
    "{{- '" + START_HEADER + "' + m['role'] + '" + END_HEADER + "\\n' + m['content'] | trim + '"
    + END_OF_TURN + "' -}}"
)  # fmt: skip

CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='" + DEFAULT_SYSTEM + "', last=-1, block=false) -%}"
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'system' -%}{%- set ns.system = m['content'] | trim -%}"
    "{%- elif m['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for m in messages -%}"
    "{%- if m['role'] != 'system' and loop.index0 < ns.last -%}{%- set ns.block = true -%}"
    "{%- endif -%}{%- endfor -%}"
    "{{- '" + BOS + START_HEADER + "system" + END_HEADER + "\\n' + ns.system + '" + END_OF_TURN
    + "' -}}"
    "{%- if ns.block -%}{{- '" + START_CONTEXT + "' -}}{%- endif -%}"
    "{%- for m in messages -%}"
    "{%- if loop.index0 < ns.last -%}"
    "{%- if m['role'] == 'context' -%}{{- m['content'] | trim -}}"
    "{%- elif m['role'] != 'system' -%}" + _JINJA_TURN + "{%- endif -%}"
    "{%- elif loop.index0 == ns.last -%}"
    "{%- if ns.block -%}{{- '" + END_CONTEXT + "' -}}{%- endif -%}" + _JINJA_TURN
    + "{%- else -%}"
    "{{- '" + START_HEADER + "assistant" + END_HEADER + "\\n' -}}"
    "{%- generation -%}{{- m['content'] | trim + '" + END_OF_TURN + "' -}}{%- endgeneration -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + START_HEADER + "assistant" + END_HEADER
    + "\\n' -}}{%- endif -%}"
)  # fmt: skip
"""The same template in Jinja, saved with each tokenizer for transformers, TRL and vLLM.

Tests compare it with `render`. Jinja cannot remove one difference: a program that renders text
first and encodes it afterwards takes a typed special token for a real one.
"""
