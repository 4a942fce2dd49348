"""Sizes as expressions of symbols, read from their text by a grammar of their own: nothing is ever evaluated.

    expression := NAME "(" [argument {"," argument}] ")" | "true" | "false"
    argument   := expression | INTEGER | 'TEXT' | NAME "=" ("True" | "False" | INTEGER)

The text is that of ``sympy.srepr``. Every name stands in a closed list, and numbers, nesting and powers are bounded, so
that no text makes a number that fills the memory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from prunus.foundation.registry import words

LONGEST_TEXT = 1 << 14
_DEEPEST, _MOST_CALLS, _MOST_ARGUMENTS, _MOST_COMPARED = 40, 400, 64, 8
_LARGEST, _LARGEST_POWER = 1 << 64, 8
_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(-?\d{1,20})(?![\w.])|'([^'\\]{1,64})'|([(),=]))", re.ASCII)
SYMBOL = re.compile(r"[a-z]{1,5}\d{1,5}|s\d{1,12}", re.ASCII)
"""The name of a symbol; torch counts up to the number of some, so these are short."""
_FLOAT = re.compile(r"-?\d{1,20}(\.\d{1,40})?(e[+-]?\d{1,3})?", re.ASCII)
_ASSUMPTIONS = frozenset(
    words("integer positive negative zero nonnegative nonpositive nonzero real rational finite extended_real")
)
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift", "RShift"})
_COMPARED = frozenset({"Max", "Min", "And", "Or"})  # sympy compares each argument with each other one
_SYMPY = frozenset(
    words(
        "Add Mul Pow Max Min Mod Abs And Or Not Equality Unequality LessThan StrictLessThan GreaterThan "
        "StrictGreaterThan floor ceiling"
    )
)
_TORCH = frozenset(
    words(
        "FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural "
        "FloatPow FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt "
        "RoundDecimal ToFloat Identity"
    )
)


@functools.lru_cache(maxsize=1024)
def parse_size(text: str) -> Any:
    """Return the sympy expression of a text that torch wrote.

    Raises:
        ValueError: anything that the grammar does not have.

    Example:
        >>> parse_size("Mul(Integer(2), Symbol('s0', positive=True, integer=True))")
        2*s0
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"an expression of {len(text):,} characters; at most {LONGEST_TEXT:,} are read")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._calls = text, 0, 0

    def whole(self) -> Any:
        found = self._expression(0)
        if self._text[self._at :].strip():
            raise self._refused()
        return found

    def _refused(self) -> ValueError:
        return ValueError(f"an expression {self._text[:60]!r} that no size has")

    def _next(self) -> tuple[str | None, ...]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._refused()
        self._at = match.end()
        return match.groups()

    def _expression(self, depth: int) -> Any:
        name = self._next()[0]
        if name is None:
            raise self._refused()
        return self._call(name, depth)

    def _call(self, name: str, depth: int) -> Any:
        import sympy

        if name in ("true", "false"):
            return sympy.true if name == "true" else sympy.false
        self._calls += 1
        if depth > _DEEPEST or self._calls > _MOST_CALLS or self._next()[3] != "(":
            raise self._refused()
        arguments: list[Any] = []
        options: dict[str, bool | int] = {}
        mark: str | None = ","
        while mark == ",":
            self._argument(arguments, options, depth)
            mark = self._next()[3]
        if mark != ")" or len(arguments) > (_MOST_COMPARED if name in _COMPARED else _MOST_ARGUMENTS):
            raise self._refused()
        try:
            return self._bounded(_made(name, arguments, options))
        except (ArithmeticError, AttributeError, TypeError, ValueError, RecursionError) as error:
            raise self._refused() from error

    def _argument(self, arguments: list[Any], options: dict[str, bool | int], depth: int) -> None:
        word, number, text, _ = self._next()
        if number is not None:
            arguments.append(int(number))
        elif text is not None:
            arguments.append(text)
        elif word is None:
            raise self._refused()
        elif self._text.startswith("=", self._at):
            self._at += 1
            value, count, _, _ = self._next()
            if word in options or (count is None and value not in ("True", "False")):
                raise self._refused()
            options[word] = int(count) if count is not None else value == "True"
        else:
            arguments.append(self._call(word, depth + 1))

    def _bounded(self, value: Any) -> Any:
        numbers = (value.p, value.q) if value.is_Rational else ()
        if any(abs(int(n)) > _LARGEST for n in numbers):
            raise self._refused()
        return value


def _made(name: str, arguments: list[Any], options: dict[str, bool | int]) -> Any:
    leaf = _LEAVES.get(name)
    if leaf is not None:
        return leaf(*arguments, **options)
    if options or not all(hasattr(a, "free_symbols") for a in arguments):
        raise ValueError(f"{name} of something that is no expression")
    if name in _POWERS:
        _check_power(*arguments)
    return _function(name)(*arguments)


def _check_power(base: Any, exponent: Any) -> None:
    powers = [_function(name) for name in _POWERS]
    if not exponent.is_Rational or abs(exponent) > _LARGEST_POWER or base.has(*powers):
        raise ValueError("a power that may be too large")


def _function(name: str) -> Callable[..., Any]:
    import sympy
    from torch.utils._sympy import functions

    if name in _TORCH:
        found: Callable[..., Any] = getattr(functions, name)
    elif name in _SYMPY:
        found = getattr(sympy, name)
    else:
        raise ValueError(f"an unknown function {name!r}")
    return found


def _symbol(name: str, /, **assumptions: bool) -> Any:
    import sympy

    if type(name) is not str or not SYMBOL.fullmatch(name) or not assumptions.keys() <= _ASSUMPTIONS:
        raise ValueError("no symbol of a size")
    return sympy.Symbol(name, **assumptions)


def _integer(value: int, /) -> Any:
    import sympy

    if type(value) is not int:
        raise ValueError("no whole number")
    return sympy.Integer(value)


def _rational(numerator: int, denominator: int, /) -> Any:
    import sympy

    if type(numerator) is not int or type(denominator) is not int or denominator == 0:
        raise ValueError("no fraction")
    return sympy.Rational(numerator, denominator)


def _float(text: str, /, *, precision: int = 53) -> Any:
    import sympy

    if type(text) is not str or not _FLOAT.fullmatch(text) or precision not in (24, 53):
        raise ValueError("no number")
    return sympy.Float(text, precision=precision)


_LEAVES: dict[str, Callable[..., Any]] = {
    "Symbol": _symbol,
    "Integer": _integer,
    "Rational": _rational,
    "Float": _float,
}
