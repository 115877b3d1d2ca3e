"""What a reader finds in a page."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

from PIL import Image

VOID = {"meta", "img", "br", "input"}
HOSTILE = (
    """</title><script src="http://example.org/x.js">alert('1')</script> & "cat" {0} {{ 7 * 7 }} {% x %}"""
)


class Page(HTMLParser):
    """Elements with attributes, text by element; all that opens closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, *tags: str) -> list[str]:
        return [data for tag, data in self.texts if tag in tags]

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


def assert_self_contained(html: str) -> Page:
    """The page holds its pictures and at most one script, which its policy names, and refers to its explorers alone."""
    page = Page(html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = "".join(f"; script-src 'sha256-{digest}'" for digest in digests)
    (policy,) = (attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs)
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}"
    assert len(scripts) <= 1
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs)
        for name in {"src", "href", "srcset", "data", "action", "background"} & attrs.keys():
            assert (tag, name) == ("img", "src") or attrs[name].startswith("explorer/")
    assert not re.search(r"url\(|@import", "".join(page.text("style")))
    for attrs in page.all("img"):
        assert attrs["alt"].strip()
        kind, _, content = attrs["src"].partition(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        assert kind == f"data:{image.get_format_mimetype()}"
        assert abs(int(attrs["width"]) / int(attrs["height"]) / (image.width / image.height) - 1) < 0.05
    return page
