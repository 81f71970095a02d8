"""Tables of a report."""

from collections.abc import Iterable, Mapping, Sequence

from mindpress.report.html import Html, element, text
from mindpress.report.numbers import Number, number

Cell = str | Number | bool | None


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Html:
    """Rows under column names. The first cell names its row; numbers stand to the right."""
    body = [list(row) for row in rows]
    figures = [
        bool(body) and all(_is_figure(row[index]) for row in body) for index in range(len(columns))
    ]
    head = (
        element("th", text(name), attributes=_class(figure))
        for name, figure in zip(columns, figures, strict=True)
    )
    return _scroll(
        element(
            "table",
            element("thead", element("tr", *head)),
            element("tbody", *(_row(row, figures) for row in body)),
        )
    )


def pairs(values: Mapping[str, Cell]) -> Html:
    """A table of names and values, for settings and versions."""
    rows = (
        element("tr", element("th", text(name)), element("td", text(_shown(value))))
        for name, value in values.items()
    )
    return _scroll(element("table", element("tbody", *rows)))


def _row(cells: Sequence[Cell], figures: Sequence[bool]) -> Html:
    first, *rest = (
        element("th" if index == 0 else "td", text(_shown(cell)), attributes=_class(figure))
        for index, (cell, figure) in enumerate(zip(cells, figures, strict=True))
    )
    return element("tr", first, *rest)


def _shown(value: Cell) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if value is None or isinstance(value, int | float) else value


def _is_figure(value: Cell) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _class(figure: bool) -> dict[str, object]:
    return {"class": "figure"} if figure else {}


def _scroll(content: Html) -> Html:
    return element("div", content, attributes={"class": "scroll"})
