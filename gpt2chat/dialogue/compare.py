"""Compare models with `/compare`: all answer a message, and the user votes without their names."""

import dataclasses
import random
from string import ascii_uppercase
from typing import TYPE_CHECKING, NamedTuple

from gpt2chat import report
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
VOTES_FOR_NO_MODEL = {TIE: "ties", NEITHER: "neither"}
"""Names of these votes in the tally."""
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
        report_wins(dialogue)
        if text:
            report.note(f"{text} is being loaded. Type /compare and a message.")
            return
        raise ConfigError("There is no message to compare. Type /compare and the message.")
    generators: dict[str, Generator] = {}
    for name in dialogue.models.names:
        try:
            generators[name] = dialogue.loaded(name).generator
        except Gpt2ChatError:
            dialogue.models.remove(name)  # so that the next line does not fail on it again
            raise
    session, most = dialogue.session, dialogue.chat.sampling.max_new_tokens
    # Without a message, the latest one is answered again, from other seeds than before.
    retries = 0 if message else dialogue.chat.retries + 1
    try:
        # All models read the same prompt, so it has to fit the smallest window.
        session.window = min(generator.window for generator in generators.values())
        try:
            prompt = session.ask(message, most) if message else session.retry(most)
        finally:
            session.window = generators[dialogue.models.first].window
        dialogue.report_left_window(prompt.left)
        sampling = dialogue.chat.draw(retries)
        if sampling.seed is None:  # one seed for all models, so that luck does not decide
            sampling = dataclasses.replace(sampling, seed=random.SystemRandom().randrange(2**31))
        candidates = _replies(dialogue, prompt.ids, sampling, generators)
        vote = _vote(dialogue, candidates)
    except (KeyboardInterrupt, EOFError):
        _take_back(dialogue, message)
        report.note("No vote: the chat is unchanged.")
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
    """Load the model that a text names; return the text if it is a message instead.

    One word is taken for a model if it has a slash, and any word is while no other model is loaded.
    """
    # "/compare yes" is a message to two models, but with one loaded it can only name the other.
    names = dialogue.models.names
    alone = len(names) == 1
    one_word = len(text.split()) == 1
    if not (is_model_folder(text) or (one_word and (alone or "/" in text.strip("/")))):
        if alone:
            other = next((name for name in known_models() if name not in names), "MODEL")
            raise ConfigError(f"Only {names[0]} is loaded. Type /compare {other} to load another.")
        return text
    if dialogue.models.find(text):
        raise ConfigError(f"{text} is loaded already. Type /compare to ask all models.")
    if len(names) == MOST_MODELS:
        raise ConfigError(f"At most {MOST_MODELS} models can be compared, and so many are loaded.")
    local_folder(text)  # raises if the folder does not exist, before anything is loaded
    dialogue.models.add(text)
    return ""


def _replies(
    dialogue: Dialogue, ids: list[int], sampling: Sampling, generators: dict[str, "Generator"]
) -> list[Candidate]:
    """Show the models' replies in random order. Ctrl-C stops one of them."""
    # A random order, so that the letter does not give the model away. The system's source, so that
    # a seed that someone sets does not fix it.
    order = random.SystemRandom().sample(list(generators), len(generators))
    candidates: list[Candidate] = []
    for letter, model in zip(ascii_uppercase, order, strict=False):
        report.show_heading(letter)
        stream = generators[model].stream(ids, sampling, stop_loops=True)
        candidate = Candidate(letter, model, dialogue.show(stream))
        if not candidate.text and candidate.reply.finish_reason != "cancelled":
            report.note("The model gave no reply.")
        candidates.append(candidate)
    return candidates


def _vote(dialogue: Dialogue, candidates: list[Candidate]) -> str | None:
    """Return the letter of the best reply, or `TIE` or `NEITHER`; None if no model replied."""
    with_text = [candidate for candidate in candidates if candidate.text]
    if not with_text:
        report.note("No model replied. Ask again, or in other words.")
        return None
    if len({candidate.text for candidate in candidates}) == 1:
        report.note("The replies are the same: there is nothing to vote on.")
        return TIE
    *others, last = letters = [candidate.letter for candidate in with_text]
    choice = f"{', '.join(others)} or {last}" if others else last
    dialogue.interrupt.allow_one()  # the question may be left unanswered
    while True:
        answer = dialogue.question(f"Which is better? {choice}, = for a tie, - for none: ")
        vote = answer.strip().upper()
        if vote in (*letters, TIE, NEITHER):
            dialogue.interrupt.ignore()
            return vote
        report.note(f"Type {choice}, = or -. Ctrl-C leaves the chat unchanged.")


def _settle(dialogue: Dialogue, candidates: list[Candidate], vote: str, seed: int) -> None:
    """Reveal which model is which, keep the best reply in the chat, and write the vote."""
    report.note(", ".join(f"{entry.letter} is {entry.model}" for entry in candidates) + ".")
    chosen = next((entry for entry in candidates if entry.letter == vote), None)
    winner = chosen.model if chosen else VOTES_FOR_NO_MODEL[vote]
    dialogue.wins[winner] = dialogue.wins.get(winner, 0) + 1
    if chosen:
        feedback, cut = dialogue.chat.feedback, not chosen.reply.stopped
        dialogue.session.answer(chosen.text, cut=cut)
        prompt, _ = dialogue.session.latest
        replies = {entry.model: entry.text for entry in candidates}
        # A full disk loses the vote, not the reply.
        try:
            pairs = feedback.vote(prompt, chosen.model, replies, seed, cut=cut)
        except StorageError as error:
            report.show_error(error)
            report.note(f"The reply of {chosen.model} stays in the chat all the same.")
        else:
            report.note(f"Noted: {plural(pairs, 'pair')} in {feedback.path}.")
            if pairs and cut:
                report.note("The model did not end this reply itself, so prepare leaves it out.")
    elif vote == TIE:
        # The chat needs one reply to continue with: that of the model that answers in it.
        tied = [entry for entry in candidates if entry.text]
        first = next((entry for entry in tied if entry.model == dialogue.models.first), tied[0])
        dialogue.session.answer(first.text, cut=not first.reply.stopped)
        report.note(f"The reply of {first.model} stays in the chat.")
    else:
        report.note("The chat is unchanged.")
    report_wins(dialogue)


def report_wins(dialogue: Dialogue) -> None:
    """Print how often each model has won in this chat."""
    wins = dialogue.wins
    if not wins:
        return
    models = [f"{name} {wins.get(name, 0)}" for name in dialogue.models.names]
    others = [f"{name} {wins[name]}" for name in VOTES_FOR_NO_MODEL.values() if name in wins]
    report.note(f"Wins so far: {', '.join([*models, *others])}.")
