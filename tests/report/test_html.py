from xml.etree import ElementTree

import pytest

from mindpress.report.chart import bar_chart, line_chart
from mindpress.report.html import code, element, paragraph, text
from mindpress.report.page import Section, page
from mindpress.report.table import pairs, table

HOSTILE = """<script>alert("x")</script>&'--> ]]> </style>"""


def whole_page(words: str) -> str:
    parts = (
        table([words, "b"], [[words, 1.5]]),
        pairs({words: words}),
        paragraph(words),
        code(words),
        bar_chart([words], {words: [1.0], "other": [2.0]}, axis=words),
        line_chart({words: [1.0, 2.0], "other": [0.5, 0.1]}, x_axis=words, y_axis=words),
    )
    return page(words, [Section(words, parts, words)], subtitle=words)


def parsed(html: str) -> ElementTree.Element:
    """The page as XML: every tag closed, every attribute quoted, every text escaped."""
    body = html[html.index("<body>") : html.index("</html>")]
    return ElementTree.fromstring(body)


def test_nothing_given_becomes_markup():
    assert "<script" not in whole_page(HOSTILE)
    tags = [node.tag for node in parsed(whole_page(HOSTILE)).iter()]
    assert tags == [node.tag for node in parsed(whole_page("harmless")).iter()]


def test_what_was_given_can_be_read_back():
    words = [node.text for node in parsed(whole_page(HOSTILE)).iter() if node.text]
    assert words.count(HOSTILE) >= 10


def test_an_attribute_cannot_be_left():
    node = ElementTree.fromstring(element("a", attributes={"title": '" onload="x'}))
    assert node.attrib == {"title": '" onload="x'}


@pytest.mark.parametrize("sign", ["<", ">", "&", '"', "'"])
def test_every_sign_of_markup_is_escaped(sign):
    assert sign not in text(sign).replace("&", "", 1) or sign == "&"
    assert text(sign) != sign


def test_a_page_needs_nothing_from_elsewhere():
    html = whole_page("words")
    for fetcher in ("<script", "<link", "<img", "@import", "url(", "src="):
        assert fetcher not in html
    assert "prefers-color-scheme: dark" in html
