"""Photograph the chat page for docs/serving.md: python docs/page.py URL

Start a server of two models first, with `--max-new-tokens 90 --seed 3`. Needs Chromium.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

DOCS = Path(__file__).parent
SIZE: ViewportSize = {"width": 1120, "height": 640}


def send(page: Page, text: str) -> None:
    """Send a message, and wait until nothing is written any more."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    page.locator("#send[data-busy=false]").wait_for()


def save(page: Page, name: str) -> None:
    """Write a picture of the page in a few tens of kilobytes."""
    Image.open(io.BytesIO(page.screenshot())).save(DOCS / name, quality=75, method=6)


def main() -> None:
    """Write page.webp and page-compare.webp: the probabilities of a reply, and two replies."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=SIZE, color_scheme=scheme, device_scale_factor=1.5)
            page.goto(sys.argv[1])
            page.locator("#model").wait_for()
            if scheme == "dark":
                page.get_by_label("Compare two models, blind").click()
            send(page, "What can I cook with potatoes?")
            if scheme == "light":
                page.get_by_role("button", name="Retry").wait_for()
                send(page, "Why is the sky blue?")
                page.get_by_label("Probabilities of the tokens").last.click()
                page.locator(".token").nth(4).click()
            page.get_by_text("tokens").or_(page.get_by_text("A is better")).first.wait_for()
            page.wait_for_load_state("networkidle")
            save(page, "page.webp" if scheme == "light" else "page-compare.webp")
        browser.close()


if __name__ == "__main__":
    main()
