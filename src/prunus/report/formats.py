"""Numbers as short texts, with significant digits only."""

from __future__ import annotations

from prunus.measurement.interval import Interval
from prunus.report.results import Spread

ABSENT = "-"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in 0..1 in percent, without the sign.

    Example:
        >>> percent(0.9786)
        '97.9'
    """
    return ABSENT if share is None else f"{100 * share:.{digits}f}"


def kept_label(share: float) -> str:
    """Write a kept fraction, such as ``12.5 %``."""
    return f"{100 * share:.4g} %"


def points(difference: float) -> str:
    """Write a difference of two shares in percentage points, with its sign.

    Example:
        >>> points(-0.0042)
        '-0.4 points'
    """
    text = f"{100 * difference:+.1f}"
    return f"{'0.0' if text in ('+0.0', '-0.0') else text} points"


def percent_spread(spread: Spread, n: int) -> str:
    """Write mean and, with several seeds, the standard deviation, in percent: ``97.9±0.3``."""
    return percent(spread.mean) if n < 2 else f"{percent(spread.mean)}±{percent(spread.std)}"


def count(number: float) -> str:
    """Write a count to three digits with a decimal prefix.

    Example:
        >>> count(110778), count(64)
        ('111k', '64')
    """
    return _prefixed(number, ("", "k", "M", "G", "T"))


def size(size_bytes: float) -> str:
    """Write a number of bytes to three digits, in decimal units.

    Example:
        >>> size(445212)
        '445kB'
    """
    return _prefixed(size_bytes, ("B", "kB", "MB", "GB", "TB"))


def ratio(value: float | None) -> str:
    """Write a ratio of two times."""
    return ABSENT if value is None else f"{value:.2f}"


def ratio_interval(value: Interval | None) -> str:
    """Write a ratio with its interval: ``0.62 0.60-0.65``."""
    return ABSENT if value is None else f"{value.estimate:.2f} {value.low:.2f}-{value.high:.2f}"


def seconds(value: float) -> str:
    """Write seconds, with tenths below a hundred."""
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def listed(names: list[str]) -> str:
    """Join names as in a sentence.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _prefixed(number: float, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        # 999.5 would print as 1000 of this unit, so it is written as 1.00 of the next.
        if number < 999.5 or prefix == prefixes[-1]:
            break
        number /= 1000
    text = f"{number:.0f}" if number >= 99.95 or prefix == prefixes[0] else f"{number:#.3g}"
    return f"{text}{prefix}"
