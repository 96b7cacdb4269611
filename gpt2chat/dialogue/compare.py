"""`/compare`: several models answer the same message, and the user votes without their names."""

import dataclasses
import random
from string import ascii_uppercase
from typing import TYPE_CHECKING, NamedTuple

from gpt2chat import report
from gpt2chat.core.chat.session import Prompt
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ConfigError, Gpt2ChatError, ReplyError, StorageError
from gpt2chat.core.model.names import is_model_folder, known_models, local_folder
from gpt2chat.core.text.wording import plural
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.text import as_typed

if TYPE_CHECKING:
    from gpt2chat.core.generation.generate import Generator
    from gpt2chat.core.generation.reply import Reply

TIE, NEITHER = "=", "-"
NAMED = {TIE: "ties", NEITHER: "neither"}
MOST_MODELS = 8


class Candidate(NamedTuple):
    """A model's reply, under the letter that hides its name."""

    letter: str
    model: str
    reply: "Reply"

    @property
    def text(self) -> str:
        """The reply without white space around it."""
        return self.reply.text.strip()


def compare(dialogue: Dialogue, text: str) -> None:
    """Ask all loaded models for a reply, or load another model and then ask."""
    message = _with_another_model(dialogue, text)
    if not message and not dialogue.session.turns:
        tell_wins(dialogue)
        if text:
            report.note(f"{text} is being loaded. Type /compare and a message.")
            return
        raise ConfigError("There is no message to compare. Type /compare and the message.")
    generators = _generators(dialogue)
    retries = 0 if message else dialogue.chat.retries + 1
    try:
        prompt = _prompt(dialogue, message, generators)
        dialogue.tell_what_left(prompt.left)
        sampling = dialogue.chat.draw(retries)
        if sampling.seed is None:  # one for all models, so that luck does not decide
            drawn = random.SystemRandom().randrange(2**31)
            sampling = dataclasses.replace(sampling, seed=drawn)
        candidates = _replies(dialogue, prompt, sampling, generators)
        vote = _vote(dialogue, candidates)
    except (KeyboardInterrupt, EOFError):
        _take_back(dialogue, message)
        report.note("No vote: the chat is as it was.")
        return
    except ReplyError:
        _take_back(dialogue, message)
        raise
    dialogue.chat.retries = retries
    if vote is None or vote == NEITHER:
        _take_back(dialogue, message)
    if vote is not None:
        _settle(dialogue, candidates, vote, sampling.seed or 0)


def _take_back(dialogue: Dialogue, message: str) -> None:
    """Undo the question; its text returns to the prompt."""
    dialogue.session.take_back()
    dialogue.draft = f"/compare {as_typed(message).lstrip(' ')}" if message else ""


def _with_another_model(dialogue: Dialogue, text: str) -> str:
    """Load the model that a text names; return the text if it is a message instead."""
    names = dialogue.models.names
    alone = len(names) == 1
    if not _names_model(text, alone):
        if alone:
            other = next((name for name in known_models() if name not in names), "MODEL")
            raise ConfigError(f"Only {names[0]} is loaded. Type /compare {other} to load another.")
        return text
    if dialogue.models.find(text):
        raise ConfigError(f"{text} is loaded already. Type /compare to ask all models.")
    if len(names) == MOST_MODELS:
        raise ConfigError(f"{MOST_MODELS} models are loaded, and no more can be compared.")
    local_folder(text)  # a folder that is not there is refused before anything is loaded
    dialogue.models.add(text)
    return ""


def _names_model(text: str, alone: bool) -> bool:
    """Return whether a text names a model: one word that is a path or, if no other model is loaded,
    any word."""
    one_word = len(text.split()) == 1
    return is_model_folder(text) or (one_word and (alone or "/" in text.strip("/")))


def _generators(dialogue: Dialogue) -> dict[str, "Generator"]:
    """Return all models by name, once they are loaded; forget one that cannot be loaded."""
    generators: dict[str, Generator] = {}
    for name in dialogue.models.names:
        try:
            generators[name] = dialogue.loaded(name).generator
        except Gpt2ChatError:
            dialogue.models.remove(name)
            raise
    return generators


def _prompt(dialogue: Dialogue, message: str, generators: dict[str, "Generator"]) -> Prompt:
    """Return a prompt that fits the window of every model."""
    session, most = dialogue.session, dialogue.chat.sampling.max_new_tokens
    session.window = min(generator.window for generator in generators.values())
    try:
        return session.ask(message, most) if message else session.retry(most)
    finally:
        session.window = generators[dialogue.models.first].window


def _replies(
    dialogue: Dialogue, prompt: Prompt, sampling: Sampling, generators: dict[str, "Generator"]
) -> list[Candidate]:
    """Show the models' replies in a drawn order. Ctrl-C ends one of them."""
    order = random.SystemRandom().sample(list(generators), len(generators))
    candidates: list[Candidate] = []
    for letter, model in zip(ascii_uppercase, order, strict=False):
        report.show_label(letter)
        stream = generators[model].stream(prompt.ids, sampling, stop_loops=True)
        candidate = Candidate(letter, model, dialogue.show(stream))
        if not candidate.text and candidate.reply.finish_reason != "cancelled":
            report.note("No reply came.")
        candidates.append(candidate)
    return candidates


def _vote(dialogue: Dialogue, candidates: list[Candidate]) -> str | None:
    """Return the letter of the best reply, or `TIE` or `NEITHER`; None if no model replied."""
    given = [candidate for candidate in candidates if candidate.text]
    if not given:
        report.note("No model replied. Ask again, or in other words.")
        return None
    if len({candidate.text for candidate in candidates}) == 1:
        report.note("The replies are the same: there is nothing to vote on.")
        return TIE
    letters = [candidate.letter for candidate in given]
    *some, last = letters
    choice = f"{', '.join(some)} or {last}" if some else last
    dialogue.interrupt.again()
    while True:
        word = dialogue.question(f"Which is better? {choice}, = for a tie, - for none: ")
        vote = word.strip().upper()
        if vote in (*letters, TIE, NEITHER):
            dialogue.interrupt.enough()
            return vote
        report.note(f"Type {choice}, = or -. Ctrl-C leaves the chat as it was.")


def _settle(dialogue: Dialogue, candidates: list[Candidate], vote: str, seed: int) -> None:
    """Say which model is which, keep the best reply in the chat, and note the vote."""
    report.note(", ".join(f"{entry.letter} is {entry.model}" for entry in candidates) + ".")
    chosen = next((entry for entry in candidates if entry.letter == vote), None)
    winner = chosen.model if chosen else NAMED[vote]
    dialogue.wins[winner] = dialogue.wins.get(winner, 0) + 1
    if chosen:
        dialogue.session.answer(chosen.text, cut=not chosen.reply.stopped)
        _note_vote(dialogue, chosen, candidates, seed)
    elif vote == TIE:
        given = [entry for entry in candidates if entry.text]
        first = next((entry for entry in given if entry.model == dialogue.models.first), given[0])
        dialogue.session.answer(first.text, cut=not first.reply.stopped)
        report.note(f"The reply of {first.model} stays in the chat.")
    else:
        report.note("The chat is as it was.")
    tell_wins(dialogue)


def _note_vote(
    dialogue: Dialogue, chosen: Candidate, candidates: list[Candidate], seed: int
) -> None:
    """Write the pairs; if they cannot be written, the chosen reply still stays in the chat."""
    prompt, _ = dialogue.session.latest
    replies = {entry.model: entry.text for entry in candidates}
    feedback, cut = dialogue.chat.feedback, not chosen.reply.stopped
    try:
        pairs = feedback.vote(prompt, chosen.model, replies, seed, cut=cut)
    except StorageError as error:
        report.show_error(error)
        report.note(f"The reply of {chosen.model} stays in the chat all the same.")
    else:
        report.note(f"Noted: {plural(pairs, 'pair')} in {feedback.path}.")
        if pairs and cut:
            report.note("The model did not end this reply itself, so prepare leaves it out.")


def tell_wins(dialogue: Dialogue) -> None:
    """Say how often each model was voted for in this chat."""
    if not dialogue.wins:
        return
    models = [f"{name} {dialogue.wins.get(name, 0)}" for name in dialogue.models.names]
    others = [f"{what} {dialogue.wins[what]}" for what in NAMED.values() if what in dialogue.wins]
    report.note(f"Wins so far: {', '.join([*models, *others])}.")
