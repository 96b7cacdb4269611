"""One chat from the terminal: what each line that is typed does. It knows no keys and no prompt."""

import dataclasses
import os.path
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from gpt2chat import report
from gpt2chat.core.config import Sampling
from gpt2chat.core.errors import ConfigError, DataError, Gpt2ChatError
from gpt2chat.core.feedback import Feedback
from gpt2chat.core.session import Prompt, Session

if TYPE_CHECKING:
    from gpt2chat.core.generate import Generator, Reply

QUOTES = '"""'
AGAIN = 503
"""Added to the seed where a reply was empty and is asked for once more."""
HELP = (
    ("/help", "this list"),
    ("/clear", "forget all messages"),
    ("/retry", "another reply to the latest message"),
    ("/good", "note the latest reply as good, for `gpt2chat prepare --feedback`"),
    ("/bad", "note it as bad; with a better one, by /retry and /good or /edit, it makes a pair"),
    ("/edit TEXT", "put a better reply in its place, and note that"),
    ("/undo", "take back the latest message and its reply"),
    ("/system [TEXT]", "show or change the system prompt; `default` for the template's own"),
    ("/context [TEXT]", "show or change a document to talk about; @FILE reads one, `off` drops it"),
    ("/set [NAME VALUE]", "show or change how replies are sampled"),
    ("/show", "the prompt of the latest reply, as the model read it"),
    ("/save FILE", "write the chat as JSON, which `gpt2chat prepare --chat` reads too"),
    ("/load FILE", "go on with a saved chat"),
    ("/exit", "leave, as do Ctrl-D, bye, quit and exit"),
    ('""" … """', "a message of several lines; Alt-Enter adds a line, pasted text stays whole"),
    ("Ctrl-C", "stop the reply, or clear the line; the arrow keys and Ctrl-R find earlier lines"),
)


class Dialogue:
    """A session, the model that answers in it, and the commands that change it.

    The model loads while the first message is typed.
    """

    def __init__(
        self,
        session: Session,
        sampling: Sampling,
        name: str,
        load: Callable[[], "Generator"],
        feedback: Feedback,
    ):
        self.session = session
        self.sampling = sampling
        self.name = name
        self.feedback = feedback
        self.retries = 0
        self.loading = in_background(load)
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": self.help,
            "/clear": self.clear,
            "/retry": self.retry,
            "/good": self.good,
            "/bad": self.bad,
            "/edit": self.edit,
            "/undo": self.undo,
            "/system": self.system,
            "/context": self.context,
            "/set": self.set,
            "/show": self.show,
            "/save": self.save,
            "/load": self.load,
        }

    def turn(self, line: str) -> None:
        """Do what one line says; a mistake in it is one line on stderr, and the chat goes on.

        Raises:
            Gpt2ChatError: The model cannot be loaded.
        """
        if not line.strip():
            return
        is_command = line.startswith("/")
        if not is_command or line.split()[0] == "/retry":
            self.model()
        try:
            if is_command:
                self.command(line)
            else:
                self.answer(self.session.ask(unquoted(line), self.sampling.max_new_tokens))
        except Gpt2ChatError as error:
            report.show_error(error)
        except OSError as error:
            report.show_error(DataError(f"{error.filename or 'The file'}: {error.strerror}."))

    def command(self, line: str) -> None:
        """Do what a line that begins with a slash says.

        Raises:
            Gpt2ChatError: There is no such command, or it cannot be done.
        """
        word, _, rest = line.strip().partition(" ")
        if word not in self.commands:
            raise ConfigError(
                f"There is no command {word}. Type /help, or a space before a message with a slash."
            )
        self.commands[word](unquoted(rest))

    def model(self) -> "Generator":
        """Return the model, loaded.

        Raises:
            Gpt2ChatError: It cannot be loaded.
        """
        if not self.loading.done():
            report.note(f"Loading {self.name} …")
        generator = self.loading.result()
        self.session.window = generator.window
        return generator

    def answer(self, prompt: Prompt, retries: int = 0) -> None:
        """Stream a reply. Ctrl-C ends it, and what has come of it stays in the chat."""
        if prompt.left:
            what = "oldest message" if prompt.left == 1 else f"oldest {prompt.left} messages"
            report.note(f"The {what} left the window.")
        self.retries = retries
        reply, interrupted = self.streamed(prompt, retries)
        if not reply.text.strip() and not interrupted:
            # A small model now and then ends its reply before the first word.
            reply, interrupted = self.streamed(prompt, retries + AGAIN)
        if self.session.answer(reply.text):
            report.show_speed(reply, interrupted=interrupted)
        else:
            report.note("No reply came: the message is taken back. Ask again, or in other words.")

    def streamed(self, prompt: Prompt, retries: int) -> tuple["Reply", bool]:
        """Show a reply as it comes; return it, and whether Ctrl-C ended it."""
        sampling = self.sampling
        if sampling.seed is not None:
            # One seed gives one chat. A retry is to give another reply; and the same draws in each
            # turn would lead a small model to say again what it has said before.
            drawn = sampling.seed + retries + 1009 * (len(self.session.turns) // 2)
            sampling = dataclasses.replace(sampling, seed=drawn)
        stream = self.model().stream(prompt.ids, sampling)
        try:
            report.show_reply(stream)
        except KeyboardInterrupt:
            return stream.reply, True
        return stream.reply, False

    def help(self, _: str) -> None:
        """List what can be typed."""
        report.show_commands(HELP)

    def clear(self, _: str) -> None:
        """Forget all messages."""
        self.session.clear()
        report.note("All messages are forgotten.")

    def retry(self, _: str) -> None:
        """Replace the latest reply by another."""
        self.answer(self.session.retry(self.sampling.max_new_tokens), self.retries + 1)

    def good(self, _: str) -> None:
        """Note that the latest reply is good."""
        self.noted(self.feedback.good(*self.session.latest))

    def bad(self, _: str) -> None:
        """Note that the latest reply is bad; with a better one to come it makes a pair."""
        written = self.feedback.bad(*self.session.latest)
        self.noted(written)
        if written == 1:
            report.note("With a better one, by /retry and /good or by /edit, it makes a pair.")

    def edit(self, text: str) -> None:
        """Put a better reply in the place of the latest, and note both."""
        if not text:
            raise ConfigError("/edit needs the better reply, such as /edit Rome is in Italy.")
        prompt, old = self.session.latest
        self.session.edit(text)
        new = self.session.latest[1]
        self.noted(
            0 if new == old else self.feedback.bad(prompt, old) + self.feedback.good(prompt, new)
        )

    def noted(self, rows: int) -> None:
        """Say what was written to the file of opinions."""
        what = "1 row" if rows == 1 else f"{rows} rows"
        report.note(f"Noted: {what} in {self.feedback.path}." if rows else "That is noted already.")

    def undo(self, _: str) -> None:
        """Take back the latest message and its reply."""
        text = self.session.undo()
        report.note(f"Taken back: {shortened(text)}")

    def system(self, text: str) -> None:
        """Show or change the system prompt."""
        if text:
            self.session.set_system(None if text == "default" else text)
        report.note(f"The system prompt: {self.session.system}")

    def context(self, text: str) -> None:
        """Show, change or drop the document to talk about."""
        if text.startswith("@"):
            path = given_path("/context", text[1:].strip())
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is not UTF-8 text: {error}.") from error
            self.session.set_document(text)
        elif text:
            self.session.set_document(None if text == "off" else text)
        report.note(f"The document: {shortened(self.session.document or 'none')}")

    def set(self, text: str) -> None:
        """Show or change how replies are sampled."""
        words = text.replace("=", " ").split()
        if len(words) not in (0, 2):
            raise ConfigError("Give a name and a value, such as /set temperature 0.9.")
        if words:
            self.sampling = self.sampling.with_setting(*words)
        settings = dataclasses.asdict(self.sampling).items()
        report.show_commands([(name, "none" if v is None else str(v)) for name, v in settings])

    def show(self, _: str) -> None:
        """Show the prompt of the latest reply."""
        report.show_text(self.session.rendered())

    def save(self, name: str) -> None:
        """Write the chat to a file."""
        path = given_path("/save", name)
        self.session.save(path)
        report.note(f"Saved {len(self.session.turns)} messages to {path}.")

    def load(self, name: str) -> None:
        """Go on with a saved chat."""
        path = given_path("/load", name)
        self.session.load(path)
        report.note(f"Loaded {len(self.session.turns)} messages from {path}.")


def in_background(load: Callable[[], "Generator"]) -> Future["Generator"]:
    """Return what `load` will return, or raise. Leaving the program does not wait for it."""
    future: Future[Generator] = Future()
    # A running future cannot be cancelled, so a prompt that ends leaves the loading alone.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(load())
        except BaseException as error:  # for the main thread to raise
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def is_open(text: str) -> bool:
    """Return whether a message or a command's text has begun with three quotes and not ended."""
    text = text.lstrip()
    if text.startswith("/"):
        text = text.partition(" ")[2].lstrip()
    return text.startswith(QUOTES) and not (len(text) >= 6 and text.rstrip().endswith(QUOTES))


def unquoted(text: str) -> str:
    """Return a text without white space and three quotes around it."""
    return text.strip().removeprefix(QUOTES).removesuffix(QUOTES).strip()


def given_path(command: str, name: str) -> Path:
    """Return the path that a command was given.

    Raises:
        ConfigError: It was given none.
    """
    if not name:
        raise ConfigError(f"{command} needs a file, such as {command} chat.json.")
    # Unlike Path.expanduser, this leaves the ~ of an unknown user as it is.
    return Path(os.path.expanduser(name))


def shortened(text: str) -> str:
    """Return a text on one line of at most 60 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"
