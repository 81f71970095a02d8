"""A report as one HTML page that needs no network and no script."""

from collections.abc import Sequence
from dataclasses import dataclass

from mindpress.report.html import Html, element, paragraph, text
from mindpress.report.style import STYLE


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: what it says in plain words, then tables and charts."""

    heading: str
    parts: tuple[Html, ...] = ()
    words: str = ""


def page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The whole page. Title, subtitle, headings and words are plain text and are escaped."""
    below = element("p", text(subtitle), attributes={"class": "subtitle"}) if subtitle else Html("")
    body = element("main", element("h1", text(title)), below, *map(_section, sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> Html:
    words = (paragraph(section.words),) if section.words else ()
    return element("section", element("h2", text(section.heading)), *words, *section.parts)
