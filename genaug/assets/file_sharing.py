"""The file-sharing site with the CGN authors' weights, which asks for confirmation before large files."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urljoin

_SITE = "https://drive.google.com/uc?"


def is_shared(url: str) -> bool:
    """Return whether a URL is a link to a file of this site."""
    return url.startswith(_SITE)


def confirmed(page: str, url: str) -> str | None:
    """Return the URL behind the confirmation page (download without a virus scan), or None for any other page.

    Args:
        page: the page that the site sent instead of the file.
        url: the URL of that page.
    """
    form = _Form()
    form.feed(page)
    if form.action is None or "id" not in form.fields:
        return None
    return f"{urljoin(url, form.action)}?{urlencode(form.fields)}"


class _Form(HTMLParser):
    """The first form of a page: its address and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        if tag == "form" and self.action is None:
            self.action = given.get("action")
        elif tag == "input" and given.get("type") == "hidden" and given.get("name"):
            self.fields[given["name"]] = given.get("value") or ""
