"""Escaped HTML: the only way from a text to a part of a page."""

from collections.abc import Mapping
from html import escape
from typing import NewType

# A string that is safe to put into a page; made by the functions of this package only.
Html = NewType("Html", str)


def text(value: object) -> Html:
    """Any value as text, with everything that HTML could read as markup escaped."""
    return Html(escape(str(value), quote=True))


def element(tag: str, *children: Html, attributes: Mapping[str, object] | None = None) -> Html:
    """`<tag ...>children</tag>`; attribute values are escaped."""
    given = "".join(f' {name}="{text(value)}"' for name, value in (attributes or {}).items())
    return Html(f"<{tag}{given}>{''.join(children)}</{tag}>")


def paragraph(words: str) -> Html:
    """A paragraph of plain text."""
    return element("p", text(words))


def code(words: str) -> Html:
    """A block of commands or output, spaces and line breaks kept."""
    return element("pre", element("code", text(words)))
