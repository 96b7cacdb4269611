"""Markdown whose lists keep the numbers that were written; rich counts from the first one."""

from typing import ClassVar

from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import ListItem, Markdown, MarkdownElement


class NumberedItem(ListItem):
    """An item of a list with its own number."""

    number = 0

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> "NumberedItem":
        """Return the item that a token opens."""
        item = cls()
        item.number = int(token.info or 0)
        return item

    def render_number(
        self, console: Console, options: ConsoleOptions, number: int, last_number: int
    ) -> RenderResult:
        """Yield the item with its own number, whatever its place is."""
        last = max(self.number, last_number)
        yield from super().render_number(console, options, self.number, last)


class NumberedMarkdown(Markdown):
    """A text in Markdown's looks."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "list_item_open": NumberedItem,
    }
