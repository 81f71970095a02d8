"""Bar and line charts as inline SVG; colours come from the page, titles show exact values."""

import math
from collections.abc import Mapping, Sequence

from mindpress.report.html import Html, element, text
from mindpress.report.numbers import Number, number
from mindpress.report.scale import Scale, scale

WIDTH = 800.0
LETTER = 6.6  # average width of a character in pixels at the charts' font size
SERIES = 7


def bar_chart(
    categories: Sequence[str], series: Mapping[str, Sequence[Number | None]], *, axis: str
) -> Html:
    """Horizontal bars: for each category one bar per series, its value written at its end.

    `axis` says what is measured and in which unit. None and values that are not finite have no bar.
    """
    left = min(320.0, 14 + LETTER * max((len(name) for name in categories), default=0))
    legend, top = _legend(series, left)
    along = scale(_finite(series), WIDTH - left - 80)
    thick = 20 if len(series) == 1 else 15
    pitch = thick * len(series) + 12
    bottom = top + pitch * len(categories)
    parts = [*legend, *_columns(along, left, top, bottom, axis)]
    for row, category in enumerate(categories):
        middle = top + pitch * row + pitch / 2
        parts.append(_label(left - 8, middle + 4, category, anchor="end"))
        for index, (name, values) in enumerate(series.items()):
            y = top + pitch * row + 6 + thick * index
            words = f"{category}, {name}: {number(values[row])}"
            parts += _bar((left, y), along, thick - 2, values[row], (index, words))
    return _drawing(parts, bottom + 44, f"{axis} by {', '.join(series)}")


def line_chart(
    series: Mapping[str, Sequence[Number | None]], *, x_axis: str, y_axis: str, start: int = 0
) -> Html:
    """A line with dots per series; the n-th value stands above `start` + n on the x axis.

    None and values that are not finite leave a gap.
    """
    count = max((len(values) for values in series.values()), default=0)
    left, height = 70.0, 260.0
    legend, below = _legend(series, left)
    top = below + 22
    up = scale(_finite(series), height)
    step = (WIDTH - left - 24) / max(1, count - 1)
    parts = [*legend, *_rows(up, left, top, y_axis)]
    stride = max(1, math.ceil(count / 16))
    parts += [
        _label(left + step * index, top + height + 18, str(start + index), "middle")
        for index in range(0, count, stride)
    ]
    parts.append(_label((left + WIDTH) / 2, top + height + 38, x_axis, "middle", "axis"))
    for index, (name, values) in enumerate(series.items()):
        spots = [
            (left + step * place, top + height - up.at(value), value, start + place)
            for place, value in enumerate(values)
            if value is not None and math.isfinite(value)
        ]
        parts += _line(spots, step, (index, name))
    return _drawing(parts, top + height + 48, f"{y_axis} by {x_axis}")


def _bar(
    corner: tuple[float, float],
    along: Scale,
    thick: int,
    value: Number | None,
    named: tuple[int, str],
) -> list[Html]:
    (left, y), (index, words) = corner, named
    drawn = value if value is not None and math.isfinite(value) and value > 0 else 0.0
    place = {"x": left, "y": y, "width": f"{along.at(drawn):.2f}", "height": thick, "rx": 2}
    bar = element(
        "rect",
        element("title", text(words)),
        attributes={**place, "style": f"fill:{_colour(index)}"},
    )
    return [bar, _label(left + along.at(drawn) + 6, y + thick / 2 + 4, number(value))]


def _line(
    spots: Sequence[tuple[float, float, Number, int]], step: float, named: tuple[int, str]
) -> list[Html]:
    """One path that lifts its pen over gaps, and a dot with a title on each value."""
    index, name = named
    path, last = [], -math.inf
    for x, y, _, _ in spots:
        path.append(f"{'L' if x - last < 1.5 * step else 'M'}{x:.1f} {y:.1f}")
        last = x
    style = f"stroke:{_colour(index)}"
    dots = [
        element(
            "circle",
            element("title", text(f"{name}, {place}: {number(value)}")),
            attributes={
                "cx": f"{x:.1f}",
                "cy": f"{y:.1f}",
                "r": 3.5,
                "style": f"fill:{_colour(index)}",
            },
        )
        for x, y, value, place in spots
    ]
    line = element("path", attributes={"class": "line", "d": " ".join(path), "style": style})
    return [line, *dots]


def _columns(along: Scale, left: float, top: float, bottom: float, axis: str) -> list[Html]:
    parts: list[Html] = []
    for tick in along.ticks:
        x = left + along.at(tick)
        parts += [
            _rule(x, top, x, bottom),
            _label(x, bottom + 16, f"{tick:g}", "middle", "axis"),
        ]
    middle = left + along.length / 2
    return [*parts, _label(middle, bottom + 36, axis, "middle", "axis")]


def _rows(up: Scale, left: float, top: float, axis: str) -> list[Html]:
    parts = [_label(4, top - 12, axis, "start", "axis")]
    for tick in up.ticks:
        y = top + up.length - up.at(tick)
        parts += [
            _rule(left, y, WIDTH - 16, y),
            _label(left - 8, y + 4, f"{tick:g}", "end", "axis"),
        ]
    return parts


def _legend(series: Mapping[str, object], left: float) -> tuple[list[Html], float]:
    """The names of the series beside their colours, in as many rows as they need; and its height.

    One series needs none: the axis says what it is.
    """
    if len(series) < 2:
        return [], 6.0
    parts: list[Html] = []
    x, y = left, 2.0
    for index, name in enumerate(series):
        width = 36 + LETTER * len(name)
        if x > left and x + width > WIDTH:
            x, y = left, y + 20
        box = {"x": f"{x:.1f}", "y": y, "width": 11, "height": 11, "rx": 2}
        parts.append(element("rect", attributes={**box, "style": f"fill:{_colour(index)}"}))
        parts.append(_label(x + 16, y + 10, name))
        x += width
    return parts, y + 24


def _label(x: Number, y: Number, words: str, anchor: str = "start", kind: str = "value") -> Html:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
    return element("text", text(words), attributes=place)


def _rule(x1: float, y1: float, x2: float, y2: float) -> Html:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    rounded = {name: f"{value:.1f}" for name, value in ends.items()}
    return element("line", attributes={**rounded, "class": "grid"})


def _drawing(parts: Sequence[Html], height: float, words: str) -> Html:
    return element(
        "svg",
        element("title", text(words)),
        *parts,
        attributes={
            "viewBox": f"0 0 {WIDTH:.0f} {height:.0f}",
            "role": "img",
            "xmlns": "http://www.w3.org/2000/svg",
        },
    )


def _finite(series: Mapping[str, Sequence[Number | None]]) -> list[Number]:
    return [value for values in series.values() for value in values if value is not None]


def _colour(index: int) -> str:
    return f"var(--series-{index % SERIES + 1})"
