"""Figures as people read them: sizes, times, errors. Used on the screen and in reports."""

import math

# Both, spelled out: the tests check types as they are written.
Number = int | float
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: Number) -> str:
    """Bytes in the largest unit that keeps the number at one or more: `6.5 MiB`."""
    value, unit = float(count), 0
    while abs(value) >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 else f"{value:.1f} {UNITS[unit]}"


def duration(seconds: Number) -> str:
    """Seconds as `12 ms`, `0.4 s`, `42 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: Number | None) -> str:
    """About four digits, in powers of ten when very small or large; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e5:
        return f"{value:.2e}"
    if abs(value) < 0.01:
        return f"{value:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"


def percent(share: Number) -> str:
    """A share from 0 to 1 as a percentage with one digit."""
    return f"{100 * share:.1f} %"


def counted(number: int, thing: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
