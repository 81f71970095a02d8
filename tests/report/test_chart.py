import math
from xml.etree import ElementTree

import pytest

from mindpress.report.chart import WIDTH, bar_chart, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def bars(svg: str) -> dict[str, float]:
    """Width of each bar by its title."""
    titled = ((node.find(f"{SVG}title"), node) for node in drawn(svg).iter(f"{SVG}rect"))
    return {title.text: float(node.attrib["width"]) for title, node in titled if title is not None}


def words(svg: str) -> list[str]:
    return [node.text or "" for node in drawn(svg).iter(f"{SVG}text")]


def test_bars_are_proportional_to_their_values():
    width = bars(bar_chart(["a", "b"], {"before": [10.0, 20.0], "after": [5.0, 0.0]}, axis="size"))
    assert width["b, before: 20.00"] == pytest.approx(2 * width["a, before: 10.00"], abs=0.02)
    assert width["a, after: 5.000"] == pytest.approx(width["a, before: 10.00"] / 2, abs=0.02)
    assert width["b, after: 0"] == 0


def test_a_bar_chart_names_its_axis_categories_series_and_values():
    seen = words(bar_chart(["wikitext2"], {"old": [63.3], "new": [64.0]}, axis="perplexity"))
    for expected in ("wikitext2", "perplexity", "old", "new", "63.30", "64.00", "0", "80"):
        assert expected in seen


def test_ticks_are_round_and_hold_the_largest_value():
    seen = words(bar_chart(["a"], {"x": [0.0033]}, axis="error"))
    assert [tick for tick in seen if tick.startswith("0.00") and tick != "0.0033"] == [
        "0.001", "0.002", "0.003", "0.004"]  # fmt: skip


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -1.0])
def test_a_value_without_a_length_has_no_bar(value):
    width = bars(bar_chart(["a", "b"], {"x": [value, 1.0]}, axis="error"))
    assert sorted(width.values())[0] == 0
    assert sorted(width.values())[1] > 0


def test_points_of_a_line_are_where_their_values_are():
    svg = line_chart({"error": [1.0, 2.0, 4.0]}, x_axis="layer", y_axis="error")
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"]))
            for dot in drawn(svg).iter(f"{SVG}circle")]  # fmt: skip
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y2 == pytest.approx(2 * (y0 - y1), abs=0.2)


def test_a_line_has_a_gap_where_a_value_is_missing():
    svg = line_chart({"error": [1.0, 2.0, None, 4.0]}, x_axis="layer", y_axis="error")
    path = next(drawn(svg).iter(f"{SVG}path")).attrib["d"]
    assert [step[0] for step in path.split() if step[0].isalpha()] == ["M", "L", "M"]


def test_layers_are_numbered_from_start():
    seen = words(line_chart({"e": [1.0, 2.0]}, x_axis="layer", y_axis="error", start=5))
    assert {"5", "6", "layer", "error"} <= set(seen)


def test_a_long_legend_stays_inside():
    series = {f"self_attn.a_long_name_{index}": [1.0] for index in range(7)}
    svg = line_chart(series, x_axis="layer", y_axis="error")
    for label in drawn(svg).iter(f"{SVG}text"):
        assert float(label.attrib["x"]) + 6 * len(label.text or "") <= WIDTH + 20


@pytest.mark.parametrize("chart", [
    bar_chart([], {}, axis="x"),
    bar_chart(["a"], {"x": [0.0]}, axis="x"),
    line_chart({}, x_axis="x", y_axis="y"),
    line_chart({"a": []}, x_axis="x", y_axis="y"),
    line_chart({"a": [math.nan]}, x_axis="x", y_axis="y"),
])  # fmt: skip
def test_a_chart_of_nothing_is_still_a_drawing(chart):
    assert drawn(chart).tag == f"{SVG}svg"
