"""Define the settings by which a reply is sampled."""

import dataclasses
from dataclasses import dataclass

from gpt2chat.core.config.settings import LARGEST, Settings, setting, settings_of
from gpt2chat.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """Settings that choose the next token. The defaults are those of the reference's chat."""

    temperature: float = setting(
        0.72,
        help="Higher is more varied. 0 always takes the likeliest token.",
        section="Sampling",
        ge=0,
        le=100,
    )
    top_k: int = setting(
        36,
        help="Sample from this many of the likeliest tokens only. 0 disables the limit.",
        section="Sampling",
        ge=0,
    )
    top_p: float = setting(
        0.96,
        help="Sample from the likeliest tokens that reach this probability together.",
        section="Sampling",
        gt=0,
        le=1,
    )
    min_p: float = setting(
        0.0,
        help="Drop tokens less likely than this share of the likeliest one's probability.",
        section="Sampling",
        ge=0,
        lt=1,
    )
    # For the reply's tokens only: with the prompt's, the model would avoid the user's words.
    repetition_penalty: float = setting(
        1.1,
        help="Above 1, tokens already in the reply become less likely. 1 disables it.",
        section="Sampling",
        gt=0,
        le=10,
    )
    frequency_penalty: float = setting(
        0.0,
        help="Subtract this from a token's score for each time that it occurs in the reply.",
        section="Sampling",
        ge=-2,
        le=2,
    )
    presence_penalty: float = setting(
        0.0,
        help="Subtract this from the score of each token that occurs in the reply.",
        section="Sampling",
        ge=-2,
        le=2,
    )
    no_repeat_ngram: int = setting(
        0,
        help="Never repeat this many tokens in a row within a reply. 0 disables the check.",
        section="Sampling",
        ge=0,
        le=64,
    )
    stop: tuple[str, ...] = setting(
        (),
        help="End the reply before this text.",
        section="Sampling",
        metavar="TEXT",
    )
    # That leaves 64 of GPT-2's 1,024 positions to the prompt, whose fixed parts take 18.
    max_new_tokens: int = setting(
        256, help="Longest reply, in tokens.", section="Sampling", ge=1, le=960
    )
    # No seed by default, so that the same question gets different answers.
    seed: int | None = setting(
        None,
        help="The same seed gives the same reply. Drawn at random by default.",
        section="Sampling",
        ge=0,
    )

    def check_together(self) -> None:
        # Without any repeated token, a reply of some words is all that can be said.
        self.require("no_repeat_ngram", self.no_repeat_ngram != 1, "0, or from 2 to 64")
        if not all(self.stop):
            raise ConfigError(
                "`stop` must not be empty. Give a text, or leave it out.", setting="stop"
            )

    def with_seed_offset(self, by: int) -> "Sampling":
        """Return this with `by` added to the seed, modulo 2**63. No seed stays no seed."""
        if self.seed is None:
            return self
        return dataclasses.replace(self, seed=(self.seed + by) % LARGEST)

    def with_setting(self, name: str, text: str) -> "Sampling":
        """Return this with one setting changed to the value in `text`.

        Raises:
            ConfigError: There is no such setting, or it does not have such a value.
        """
        # As on the command line: /set --top-k 5.
        name = name.lstrip("-").replace("-", "_")
        known = settings_of(Sampling)
        if name not in known:
            raise ConfigError(f"There is no setting {name}. There are {', '.join(known)}.")
        try:
            if name == "stop":
                # Quotes keep white space at the ends, as in a shell.
                quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
                value = () if text == "none" else (text[1:-1] if quoted else text,)
            else:
                value = None if (name, text) == ("seed", "none") else known[name].parse(text)
            return dataclasses.replace(self, **{name: value})
        except ConfigError as error:
            # In a chat it is typed without dashes, so the text must not become a flag.
            raise ConfigError(str(error).replace(f"`{name}`", name)) from None
