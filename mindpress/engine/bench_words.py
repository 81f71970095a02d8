"""Figures of a measurement as people read them. Cheap to import: no torch."""

from mindpress.engine.bench_figures import Figure, Spread
from mindpress.report.numbers import number, size


def shown(figure: Figure, found: Spread | None) -> str:
    """`812.0 (790.1 to 820.4)`, in the unit of the figure; a dash when there is none."""
    if found is None:
        return number(None)
    words = size if figure.unit == "bytes" else number
    middle, least, most = words(found.median), words(found.least), words(found.most)
    return middle if least == most else f"{middle} ({least} to {most})"


def shown_times(found: Spread | None) -> str:
    """`1.52x (1.48 to 1.55)`; a dash when there is none."""
    if found is None:
        return number(None)
    return f"{found.median:.2f}x ({found.least:.2f} to {found.most:.2f})"


def label(figure: Figure) -> str:
    """The name of a row. Sizes say their unit themselves."""
    return figure.label if figure.unit == "bytes" else f"{figure.label}, {figure.unit}"
