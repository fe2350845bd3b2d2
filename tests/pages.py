"""Reads HTML pages for tests, and fails on those that are not well formed."""

from html.parser import HTMLParser


class Elements(HTMLParser):
    """Tags and attributes of a page; fails on tags that do not nest."""

    VOID = ("meta", "br", "input")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def elements(page: str) -> list[tuple[str, dict]]:
    """Tags with their attributes, in the order of the page."""
    parser = Elements()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser.tags
