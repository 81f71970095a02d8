from xml.etree import ElementTree

from mindpress.report.table import pairs, table


def cells(html: str, tag: str) -> list[str | None]:
    return [node.text for node in ElementTree.fromstring(html).iter(tag)]


def test_rows_are_named_by_their_first_cell():
    html = table(["dataset", "before", "after"], [["wikitext2", 63.3, None]])
    assert cells(html, "th") == ["dataset", "before", "after", "wikitext2"]
    assert cells(html, "td") == ["63.30", "–"]


def test_numbers_stand_right_and_words_left():
    html = table(["a", "b", "c", "d"], [["x", 1, "one", None], ["y", 2.5, "two", 3]])
    columns = list(ElementTree.fromstring(html).iter("td"))
    assert [cell.get("class") for cell in columns] == ["figure", None, "figure"] * 2


def test_an_empty_table_keeps_its_head():
    assert cells(table(["a", "b"], []), "th") == ["a", "b"]


def test_settings_are_words():
    html = pairs({"bits": 4, "symmetric": False, "revision": None})
    assert cells(html, "td") == ["4", "no", "–"]
