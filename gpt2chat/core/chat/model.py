"""Load a model to talk with: chats, plain completions and log-probabilities."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpt2chat.core.chat.chat import Chat
from gpt2chat.core.chat.session import Session
from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import Compile, Device, settings_from
from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.model.names import pick_model
from gpt2chat.core.text.conversations import parse_messages
from gpt2chat.core.text.tokens import decode, encode_conversation, encode_text

if TYPE_CHECKING:
    from gpt2chat.core.generation.generate import Generator
    from gpt2chat.core.generation.reply import Reply


def load(
    name: "str | os.PathLike[str]" = "",
    device: Device = "auto",
    precision: ChatPrecision = "auto",
    compile: Compile = "auto",
) -> "ChatModel":
    """Return a model, ready to talk.

    Several models may be loaded at once. Loading changes nothing outside the model: no environment
    variable, no logging, no signal handler.

    Args:
        name: A run, a model folder, a name on the Hugging Face Hub or `starter`; empty for the
            newest finished run under runs/.
        device: `auto` takes a GPU if there is one.
        precision: Number format of the weights; `auto` is int8 on a CPU and bf16 on a GPU.
        compile: Whether PyTorch compiles a step on a GPU, which is faster after a slow first reply.

    Raises:
        CheckpointError: The name is not that of a GPT-2 model, or its files are damaged.
        NetworkError: The model cannot be downloaded from the Hub.
        HardwareError: The device is absent, or does not support the precision.
    """
    chosen, _ = pick_model(os.fspath(name), ("sft", "orpo"))
    # This imports torch, so it waits until the name is known to be valid.
    from gpt2chat.core.generation.loading import load_generator

    return ChatModel(chosen, load_generator(chosen, device, precision, compile))


class TokenLogprob(NamedTuple):
    """One token of a reply."""

    token: str
    """Its text; U+FFFD stands for half a character."""
    logprob: float
    """Its natural log-probability, given all tokens before it."""


class ChatModel:
    """A model in memory. Threads may share it: their replies are computed together."""

    def __init__(self, name: str, generator: "Generator"):
        self.name = name
        self.generator = generator

    def __repr__(self) -> str:
        return f"ChatModel({self.name!r}, {self.parameters:,} parameters, {self.device})"

    @property
    def parameters(self) -> int:
        """Number of weights; the tied head counts once."""
        return self.generator.parameters

    @property
    def device(self) -> str:
        """The device and the precision of the weights, such as `cpu, int8`."""
        return f"{self.generator.device}, {self.generator.precision}"

    @property
    def window(self) -> int:
        """Most tokens of prompt and reply together."""
        return self.generator.window

    def chat(
        self,
        system: str | None = None,
        document: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] = (),
        feedback: str | Path = "feedback.jsonl",
        **sampling: Any,
    ) -> Chat:
        """Return a new chat with the model.

        Args:
            system: The system prompt; the template's own by default.
            document: A text to talk about.
            messages: Earlier messages, as `chat.messages` has them. `"cut": true` marks a reply
                that the model did not end itself.
            feedback: File that `good`, `bad` and `edit` append to.
            sampling: Fields of `Sampling`, such as `temperature=0` or `seed=1`.

        Raises:
            ConfigError: A sampling setting is unknown or out of range.
            DataError: The system prompt or the document is too long for the window, or the
                messages are not a conversation.
        """
        session = Session(window=self.window)
        if messages:
            try:
                conversation = parse_messages(messages)
            except RowError as error:
                raise DataError(f"The messages cannot be used: {error.reason}.") from error
            cut = [at for at, message in enumerate(messages) if message.get("cut")]
            session.replace(conversation, "the messages", cut)
        if system is not None:
            session.set_system(system)
        if document is not None:
            session.set_document(document)
        return Chat(
            self.generator,
            session=session,
            sampling=settings_from(Sampling, sampling),
            feedback=Path(feedback),
        )

    def complete(self, prompt: str, **sampling: Any) -> "Reply":
        """Return how the model continues a text, without the chat template.

        Args:
            prompt: The text; nothing is added to it.
            sampling: Fields of `Sampling`, as for `chat`.

        Raises:
            ConfigError: A sampling setting is unknown or out of range.
            DataError: The text is empty, or fills the window.
            ReplyError: The model's scores are not finite.
        """
        ids = encode_text(prompt)
        # The model needs a token to continue, and a position for the first of its own.
        if not 0 < len(ids) < self.window:
            raise DataError(
                f"The text has {len(ids):,} tokens. Give one of 1 to {self.window - 1:,}."
            )
        return self.generator.generate(ids, settings_from(Sampling, sampling))

    def logprobs(self, messages: Sequence[Mapping[str, str]]) -> list[TokenLogprob]:
        """Return the log-probabilities of the tokens of a reply, the end of turn included.

        Args:
            messages: A conversation as `{"role": …, "content": …}` that ends with the reply; such
                as `chat.messages`.

        Raises:
            DataError: The messages are not such a conversation, or too long for the window.
        """
        try:
            conversation = parse_messages(messages)
        except RowError as error:
            raise DataError(f"The messages cannot be used: {error.reason}.") from error
        if conversation.reply is None:
            raise DataError("The messages end without a reply. Add an assistant message.")
        encoded = encode_conversation(conversation)
        if len(encoded) > self.window:
            raise DataError(
                f"The messages have {len(encoded):,} tokens; {self.window:,} fit. Leave some out."
            )
        # The scores at a position are those of the next token, hence one earlier.
        begin = encoded.prompt_length
        values: list[float] = self.generator.logprobs(encoded.ids)[begin - 1 :].tolist()
        texts = (decode([token]) for token in encoded.ids[begin:])
        return [TokenLogprob(text, value) for text, value in zip(texts, values, strict=True)]
