"""How replies are drawn."""

import dataclasses
from dataclasses import dataclass

from gpt2chat.core.config.settings import require
from gpt2chat.core.errors import ConfigError

SEEDS = 2**63
"""How many seeds there are, from 0 on."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults are those of the reference project's chat."""

    temperature: float = 0.72
    """0 takes the likeliest token."""
    top_k: int = 36
    """Only so many of the likeliest tokens; 0 for no limit."""
    top_p: float = 0.96
    """Only the likeliest tokens that reach this probability together."""
    min_p: float = 0.0
    """Only tokens at least so likely, as a share of the likeliest; 0 for no limit."""
    repetition_penalty: float = 1.1
    """Divides the score of a token that stands in the reply already; 1 for none."""
    no_repeat_ngram: int = 0
    """No so many tokens stand twice in a reply; 0 for no limit."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply; they are not part of it."""
    max_new_tokens: int = 256
    """Longest reply."""
    seed: int | None = None
    """Same seed, same reply; none draws one."""

    def __post_init__(self) -> None:
        rule = "--temperature must be from 0 to 100"
        require(0 <= self.temperature <= 100, rule, self.temperature)
        require(self.top_k >= 0, "--top-k must be at least 0", self.top_k)
        require(0 < self.top_p <= 1, "--top-p must be above 0 and at most 1", self.top_p)
        require(0 <= self.min_p < 1, "--min-p must be at least 0 and below 1", self.min_p)
        rule = "--no-repeat-ngram must be 0, or from 2 to 64"
        require(
            self.no_repeat_ngram == 0 or 2 <= self.no_repeat_ngram <= 64, rule, self.no_repeat_ngram
        )
        require(all(self.stop), "--stop must be some text", "an empty one")
        rule = "--repetition-penalty must be above 0 and at most 10"
        require(0 < self.repetition_penalty <= 10, rule, self.repetition_penalty)
        rule = "--max-new-tokens must be from 1 to 960"
        require(1 <= self.max_new_tokens <= 960, rule, self.max_new_tokens)
        if self.seed is not None:
            require(0 <= self.seed < SEEDS, "--seed must be at least 0 and below 2^63", self.seed)

    def seeded(self, by: int) -> "Sampling":
        """Return this with the seed that comes so many after its own, the first after the last.

        Without a seed it is as it was.
        """
        if self.seed is None:
            return self
        return dataclasses.replace(self, seed=(self.seed + by) % SEEDS)

    def with_setting(self, name: str, text: str) -> "Sampling":
        """Return this with one setting changed to the value that `text` spells.

        Raises:
            ConfigError: There is no such setting, or the value is not one of its own.
        """
        name = name.lstrip("-").replace("-", "_")
        names = [entry.name for entry in dataclasses.fields(self)]
        if name not in names:
            raise ConfigError(f"There is no setting {name}. There are {', '.join(names)}.")
        if name == "stop":
            return self._with(name, () if text == "none" else (_bare(text),))
        if name == "seed" and text == "none":
            return self._with(name, None)
        whole = ("top_k", "no_repeat_ngram", "max_new_tokens", "seed")
        kind = int if name in whole else float
        try:
            value = kind(text)
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{name} must be {number}, not {text}.") from None
        return self._with(name, value)

    def _with(self, name: str, value: object) -> "Sampling":
        try:
            return dataclasses.replace(self, **{name: value})  # pyright: ignore[reportArgumentType]
        except ConfigError as error:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(str(error).replace(flag, name)) from None


def _bare(text: str) -> str:
    """Return a text without a pair of quotes around it, as a shell would."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text
