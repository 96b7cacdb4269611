"""The chat page in a real browser, with a real server behind it."""

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import gpt2chat
from gpt2chat.core.chat.chats import read_chat, save_chat
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.serve.app import create_app
from gpt2chat.serve.models import Models
from gpt2chat.serve.page import FILE
from gpt2chat.serve.run import Server, bind
from tests.helpers import talk, tiny_model

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
if CHROMIUM is None:
    pytest.skip("no Chromium: the tests of the page need one", allow_module_level=True)
PATIENCE = 120_000
"""Milliseconds to wait for something that happens, on a machine that is busy with other things."""
expect.set_options(timeout=PATIENCE)


class Gate:
    """Holds a stream back, or breaks it, after a number of its events."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self.hold_after: int | None = None
        self.break_after: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        count = 0

        async def pass_on(message: Message) -> None:
            nonlocal count
            if message["type"] == "http.response.body" and scope["path"].endswith("/completions"):
                while self.hold_after is not None and count >= self.hold_after:
                    await asyncio.sleep(0.01)
                if count == self.break_after:
                    raise asyncio.CancelledError
                count += 1
            await send(message)

        await self._app(scope, receive, pass_on)


class Served:
    """A server of some models on a free port, in a thread."""

    def __init__(self, folders: list[Path], feedback: Path, key: str | None = None):
        sampling = Sampling(max_new_tokens=12)
        self.settings = ServeConfig(feedback=feedback, sampling=sampling)
        self.names = [str(folder) for folder in folders]
        self.gate = Gate(create_app(self.settings, Models(self.settings, self.names), key))
        started = threading.Event()
        self.url = ""

        def on_start(url: str) -> None:
            self.url = url
            started.set()

        config = uvicorn.Config(self.gate, log_level="critical", lifespan="off", ws="none")
        self._server = Server(config, on_start)
        run = {"sockets": [bind("127.0.0.1", 0)]}
        self._thread = threading.Thread(target=self._server.run, kwargs=run)
        self._thread.start()
        assert started.wait(60)

    def votes(self) -> list[dict[str, Any]]:
        path = self.settings.feedback
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    other = tmp_path_factory.mktemp("models") / "other"
    save_model(tiny_model(seed=1), other)
    return [tiny_folder, other]


@pytest.fixture(scope="module")
def served(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    served = Served(folders, tmp_path_factory.mktemp("votes") / "feedback.jsonl")
    for name in served.names:
        # A model's first reply waits until it is loaded and its kernels are compiled.
        asked = {"model": name, "messages": talk("Hi").as_dicts()}
        httpx.post(f"{served.url}/v1/chat/completions", json=asked, timeout=600).raise_for_status()
    yield served
    served.close()


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with sync_playwright() as playwright:
        # A container's shared memory is small, and root has no sandbox.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Generator[BrowserContext]:
    """A browser profile that remembers nothing."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.set_default_timeout(PATIENCE)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, served: Served) -> Generator[Page]:
    """The page, which must not fail and must not be stopped by its own policy."""
    served.gate.hold_after = served.gate.break_after = None
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda line: failures.append(line.text) if "Policy" in line.text else None)
    page.goto(served.url)
    expect(page.locator("#model")).to_be_visible()
    yield page
    served.gate.hold_after = served.gate.break_after = None
    assert failures == []


def send(page: Page, text: str) -> Locator:
    """Send a message, wait for the reply, and return it."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    return finished(page)


def finished(page: Page) -> Locator:
    """Wait until the latest reply is finished, and return it."""
    reply = page.locator(".turn").last
    expect(reply.get_by_label("Copy")).to_be_visible()
    return reply


def text_of(turn: Locator) -> str:
    return turn.locator(".text").text_content() or ""


def upload(page: Page, name: str, content: str) -> None:
    file: Any = {"name": name, "mimeType": "application/json", "buffer": content.encode()}
    page.locator("#import-file").set_input_files(file)


def download(page: Page, button: str) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    return Path(waiting.value.path())


def test_a_reply_streams_and_is_announced_once_it_is_finished(page: Page, served: Served):
    page.get_by_label("Prompt and sampling").first.click()
    page.get_by_label("Seed").fill("7")
    served.gate.hold_after = 3
    page.get_by_label("Message", exact=True).fill("Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".writing")).to_have_text(re.compile("."))
    expect(page.locator("#status")).to_be_empty()
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
    served.gate.hold_after = None
    reply = text_of(finished(page))
    expect(page.get_by_role("status")).to_have_text(f"The reply is finished. {reply}")
    model = gpt2chat.load(served.names[0], precision="auto")
    assert reply == model.chat(seed=7, max_new_tokens=12).ask("Hi").text
    # A retry takes the next seed.
    page.locator(".turn").last.get_by_label("Retry").click()
    expect(page.locator(".versions").last).to_contain_text("2/2")
    assert text_of(finished(page)) == model.chat(seed=8, max_new_tokens=12).ask("Hi").text


def test_stop_keeps_the_text_so_far_and_marks_it_as_cut(page: Page, served: Served):
    served.gate.hold_after = 3
    page.get_by_label("Message", exact=True).fill("Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".writing")).to_have_text(re.compile("."))
    page.keyboard.press("Escape")
    expect(page.locator(".turn").last).to_contain_text("stopped by you")
    chat = json.loads(download(page, "Export this chat").read_text("utf-8"))
    assert chat["messages"][1] == {
        "role": "assistant",
        "content": text_of(page.locator(".turn").last),
        "cut": True,
    }


def test_branches_stay_and_nothing_typed_is_lost_on_reload(page: Page):
    first = text_of(send(page, "One"))
    page.locator(".turn").last.get_by_label("Retry").click()
    expect(page.locator(".versions").last).to_contain_text("2/2")
    second = text_of(finished(page))
    page.locator(".turn").first.get_by_label("Edit").click()
    page.get_by_label("Edit your message").fill("Two")
    page.keyboard.press("Enter")
    expect(page.locator(".turn").first).to_contain_text("Two")
    finished(page)
    page.get_by_label("Previous version").click()
    expect(page.locator(".turn").last.locator(".text")).to_have_text(second)
    page.get_by_label("Previous version").last.click()
    expect(page.locator(".turn").last.locator(".text")).to_have_text(first)
    page.locator(".turn").last.get_by_label("Bad reply").click()
    page.get_by_label("Reason, in your words").fill("a reason")
    page.locator(".turn").first.get_by_label("Edit").click()
    page.get_by_label("Edit your message").fill("Three")
    page.get_by_label("Message", exact=True).fill("a draft")
    page.locator("#show-settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Document").fill("A text.")
    page.reload()
    expect(page.get_by_label("Message", exact=True)).to_have_value("a draft")
    expect(page.get_by_label("Edit your message")).to_have_value("Three")
    expect(page.get_by_label("Reason, in your words")).to_have_value("a reason")
    page.locator("#show-settings").click()
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    expect(page.get_by_label("Document")).to_have_value("A text.")
    expect(page.locator(".turn").last.locator(".text")).to_have_text(first)
    page.get_by_label("Next version").last.click()
    expect(page.locator(".turn").last.locator(".text")).to_have_text(second)


def test_the_keyboard_is_enough(page: Page):
    for key in ("Escape", "n", "Escape", "/"):
        page.keyboard.press(key)
    page.keyboard.type("Hi")
    page.keyboard.press("Enter")
    reply = text_of(finished(page))
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    expect(page.locator(".versions").last).to_contain_text("2/2")
    finished(page)
    page.keyboard.press("[")
    page.keyboard.press("c")
    expect(page.get_by_role("status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == reply
    for key in "kke":
        page.keyboard.press(key)
    page.keyboard.type("!")
    page.keyboard.press("Enter")
    expect(page.locator(".turn").first).to_contain_text("Hi!")
    finished(page)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Probabilities of the tokens")
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 21)"


def test_probabilities_of_the_tokens_are_shown_on_demand(page: Page):
    reply = text_of(send(page, "Hi"))
    page.get_by_label("Probabilities of the tokens").click()
    tokens = page.get_by_role("listbox").get_by_role("option")
    expect(tokens.last).to_have_text("end")
    assert len(page.locator(".tokens").text_content() or "") >= len(reply)
    first = page.locator(".detail .taken").text_content()
    page.get_by_role("listbox").press("End")
    expect(page.locator(".detail .taken")).to_have_text("end of reply")
    page.get_by_role("listbox").press("Home")
    expect(page.locator(".detail .taken")).to_have_text(first or "")
    expect(page.locator(".detail")).to_contain_text("%")


def test_chats_are_renamed_deleted_exported_and_imported(page: Page, tmp_path: Path):
    saved = tmp_path / "saved.json"
    markup = "<img src=x onerror=alert(1)> 🥔"
    chat = talk("Hi", markup, "And?", "cut off")
    save_chat(saved, chat.messages, cut=[3])
    upload(page, "saved.json", saved.read_text("utf-8"))
    expect(page.locator(".turn")).to_have_count(4)
    # What a model writes is text, wherever it is shown.
    expect(page.locator(".turn").nth(1).locator(".text")).to_have_text(markup)
    page.locator(".turn").nth(1).get_by_label("Probabilities").click()
    expect(page.locator(".token").first).to_be_visible()
    # The parts of a character are shown as one.
    expect(page.locator(".tokens")).to_contain_text("🥔")
    assert page.locator("img").count() == 0
    page.get_by_label("Rename Hi").click()
    page.get_by_label("Name of the chat").fill("Mine")
    page.keyboard.press("Enter")
    exported = read_chat(download(page, "Export this chat"))
    assert exported == read_chat(saved)
    page.get_by_role("button", name="Delete Mine").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Mine", exact=True)).to_be_visible()
    upload(page, "broken.jsonl", '{"messages": [{"role": "tool", "content": "x"}]}')
    expect(page.get_by_role("alert").first).to_contain_text("broken.jsonl")
    lines = [json.dumps({"messages": talk(text, "ho").as_dicts()}) for text in ("A", "B")]
    upload(page, "two.jsonl", "\n".join(lines))
    expect(page.locator("#chats li")).to_have_count(3)
    assert download(page, "Export all chats").read_text("utf-8").count("\n") == 3


def test_the_meter_shows_what_has_left_and_what_leaves_next(page: Page):
    texts = [f"{number} " + "word " * 150 for number in range(8)]
    upload(page, "long.json", json.dumps(talk(*texts).as_dicts()))
    expect(page.locator(".edge")).to_be_visible()
    meter = page.locator("#meter")
    expect(meter).to_contain_text("messages have left. Leaves next:")
    expect(meter).to_contain_text("of 1,024 tokens")
    left = page.locator(".outside").count()
    assert left in (2, 4, 6)
    expect(page.locator(".leaves").first).to_contain_text(f"{left} word")


def vote(page: Page, turn: Locator, label: str, reason: str = "") -> None:
    turn.get_by_label(label).click()
    if reason:
        turn.get_by_role("button", name=reason).click()
    page.get_by_role("button", name="Save as").click()
    expect(turn).to_contain_text("saved as feedback")


@pytest.mark.slow
def test_opinions_on_the_page_are_prepared_and_trained_on(
    page: Page, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page.locator("#show-settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Document").fill("A text.")
    for number in range(3):
        page.get_by_role("button", name="New chat").first.click()
        page.get_by_label("System prompt").fill("Be brief.")
        send(page, f"What is {number} and 1?")
        reply = page.locator(".turn").last
        vote(page, reply, "Bad reply", "Wrong")
        reply.get_by_label("Edit").click()
        page.get_by_label("Edit the reply").fill(f"It is {number + 1}.")
        page.keyboard.press("Enter")
        expect(reply).to_contain_text("edited by you")
        vote(page, reply, "Good reply")
    rows = [row for row in served.votes() if row["prompt"][0]["content"] == "Be brief."]
    assert [row.get("label") for row in rows] == [False, True, None] * 3
    assert {row.get("reason") for row in rows} == {"Wrong", None}
    monkeypatch.chdir(tmp_path)
    data = gpt2chat.prepare(
        oasst1="off",
        alpaca="off",
        ultrafeedback="off",
        feedback=[str(served.settings.feedback)],
        holdout=0,
    )
    assert data.manifest.rows("preference", "train") >= 3
    run = gpt2chat.orpo(model=served.names[0], device="cpu", eval_samples=0)
    assert (run.path / "model.safetensors").exists()


def duel(page: Page) -> list[str]:
    """Return the models of the pair of replies that waits for a vote, A first, from the storage."""
    kept = page.evaluate("Object.values(localStorage).find((text) => text.includes('duel'))")
    turns = json.loads(kept)["turns"]
    users = [turn["duel"] for turn in turns.values() if "duel" in turn]
    return [turns[users[-1][side]]["model"] for side in "ab"]


def test_two_models_are_compared_blind_in_a_random_order(page: Page, served: Served):
    page.get_by_label("Compare two models, blind").click()
    page.get_by_label("Message", exact=True).fill("Compare")
    page.keyboard.press("Enter")
    orders = set[tuple[str, ...]]()
    for _ in range(30):
        expect(page.get_by_role("button", name="A is better")).to_be_enabled()
        orders.add(tuple(duel(page)))
        if len(orders) == 2:
            break
        page.get_by_role("button", name="Equal").click()
        page.locator(".turn").last.get_by_label("Retry").click()
    assert len(orders) == 2
    pair = page.locator(".duel")
    assert not any(name in pair.inner_html() for name in served.names)
    page.get_by_label("Message", exact=True).fill("Next")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("Vote first")
    texts = pair.locator(".text").all_text_contents()
    page.get_by_role("button", name="B is better").click()
    expect(pair.locator(".column").nth(1)).to_contain_text("continues here")
    row = served.votes()[-1]
    assert (row["chosen"], row["rejected"]) == (texts[1], texts[0])
    assert [row["rejected_model"], row["chosen_model"]] == duel(page)
    assert pair.locator("h3").all_text_contents()[0] == row["rejected_model"]


def test_errors_are_shown_where_they_happen_and_can_be_retried(
    page: Page, context: BrowserContext, served: Served
):
    context.set_offline(True)
    page.get_by_label("Message", exact=True).fill("Hi")
    page.keyboard.press("Enter")
    error = page.locator(".turn .error")
    expect(error).to_contain_text("does not answer")
    context.set_offline(False)
    error.get_by_role("button").click()
    expect(error).to_have_count(0)
    finished(page)
    served.gate.break_after = 4
    page.get_by_label("Message", exact=True).fill("Again")
    page.keyboard.press("Enter")
    expect(error).to_contain_text("connection broke")
    assert text_of(page.locator(".turn").last)
    served.gate.break_after = None
    context.set_offline(True)
    page.locator(".turn").nth(1).get_by_label("Good reply").click()
    page.get_by_role("button", name="Save as good").click()
    expect(page.locator("form .error")).to_contain_text("does not answer")
    context.set_offline(False)
    page.get_by_role("button", name="Save as good").click()
    expect(page.locator(".turn").nth(1)).to_contain_text("saved as feedback")


def test_a_full_storage_is_reported_and_the_chat_goes_on(page: Page):
    page.evaluate("""() => {
        for (let size = 2 ** 22; size > 16; size >>= 1) {
            try { localStorage.setItem(`filler${size}`, "x".repeat(size)); } catch {}
        }
    }""")
    send(page, "Hi")
    expect(page.get_by_role("alert").first).to_contain_text("storage is full")
    page.evaluate("localStorage.clear()")
    send(page, "Again")
    expect(page.locator("#notice")).to_be_hidden()
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)


def test_the_page_asks_for_the_api_key(
    context: BrowserContext, folders: list[Path], tmp_path: Path
):
    served = Served(folders[:1], tmp_path / "feedback.jsonl", key="right")
    try:
        page = context.new_page()
        page.goto(served.url)
        for key in ("wrong", "right"):
            page.get_by_role("textbox", name="API key").fill(key)
            page.keyboard.press("Enter")
            if key == "wrong":
                expect(page.locator("#key-error")).to_contain_text("wrong")
        expect(page.locator("#model")).to_have_value(served.names[0])
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert page.evaluate("JSON.stringify(localStorage)").find("right") == -1
        page.reload()
        expect(page.locator("#model")).to_have_value(served.names[0])
    finally:
        served.close()


MODELS = """globalThis.gpt2chatModels = {
    list: async () => [{id: "in the browser", default: true, sampling: {temperature: 0}}],
    async *reply({messages}) {
        yield {text: `You said ${messages.at(-1).content}.`};
        yield {finish: "stop"};
    },
    window: async ({messages}) => ({used: messages.length, size: 9, leaves_next: [], dropped: []}),
    score: async () => [{token: "You", logprob: 0, top_logprobs: []}],
};"""


def test_a_page_with_models_of_its_own_needs_no_server(context: BrowserContext, served: Served):
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script(MODELS)
    page.goto(served.url)
    assert text_of(send(page, "hello")) == "You said hello."
    expect(page.locator("#meter")).to_contain_text("2 of 9 tokens")
    page.get_by_label("Probabilities of the tokens").click()
    expect(page.locator(".token")).to_have_text("You")
    expect(page.get_by_label("Good reply")).to_have_count(0)
    assert asked == [f"{served.url}/"]


@pytest.mark.parametrize("width", [320, 800, 1400])
def test_nothing_is_wider_than_the_window(page: Page, width: int):
    page.set_viewport_size({"width": width, "height": 700})
    page.get_by_label("Compare two models, blind").click()
    page.get_by_label("Message", exact=True).fill("long" * 200)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="A is better")).to_be_enabled()
    page.locator("#show-settings").click()
    for selector in ("html", "#log", "#settings"):
        wide, room = page.locator(selector).evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert wide <= room, selector


def test_the_page_fetches_nothing_from_elsewhere_and_makes_no_html_of_text():
    html = FILE.read_text("utf-8")
    assert set(re.findall(r"\w+://[^\"'\s]*", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", html)
    assert not re.search(r"\s(style|on\w+)=\"", html)
    assert html.count("<script") == html.count("<style") == 1
