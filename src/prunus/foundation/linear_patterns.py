"""Regular expressions whose search takes bounded time, whatever the pattern: positions are followed as sets.

Python's own search tries one way after the other, which for ``(a+)+$`` doubles with every letter. Here every part of
the pattern maps a position of the text to the set of positions at which it may end, and each is found once: at most
pattern × text² steps. References back to a group and atomic groups have no such sets and are refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST_PATTERN = 1000
LONGEST_TEXT = 4000
Ends = Callable[[int], frozenset[int]]


def search(pattern: str, text: str) -> bool:
    """Return whether the pattern matches anywhere in the text, as ``re.search`` would.

    Args:
        pattern: a regular expression of Python without references to groups and atomic groups.
        text: searched; at most `LONGEST_TEXT` characters.

    Raises:
        ValueError: not a regular expression, one that is refused, or a pattern or text that is too long.

    Example:
        >>> search(r"^layer(1|2)[.]", "layer2.conv"), search(r"(a+)+$", "a" * 60 + "b")
        (True, False)
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"a name of {len(text):,} characters; at most {LONGEST_TEXT:,} are searched")
    parsed = _parsed(pattern)
    try:
        found = _Search(text).sequence(parsed, parsed.state.flags)
        return any(found(start) for start in range(len(text) + 1))
    except RecursionError:
        raise ValueError("groups in groups too deeply") from None


@functools.lru_cache(maxsize=64)
def _parsed(pattern: str) -> Any:
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"a pattern of {len(pattern):,} characters; at most {LONGEST_PATTERN:,} are read")
    try:
        return parser.parse(pattern)
    except (re.error, RecursionError, OverflowError, ValueError) as error:
        raise ValueError(str(error)) from error


class _Search:
    """The parts of a pattern as functions on the positions of one text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def sequence(self, parts: Iterable[Any], flags: int) -> Ends:
        """Return the function of parts that follow each other."""
        made = [self._part(code, argument, flags) for code, argument in parts]

        def ends(start: int) -> frozenset[int]:
            found = frozenset([start])
            for part in made:
                found = _after(part, found)
            return found

        return functools.cache(ends)

    def _part(self, code: Any, argument: Any, flags: int) -> Ends:
        if code is codes.BRANCH:
            ways = [self.sequence(way, flags) for way in argument[1]]
            return functools.cache(lambda start: frozenset().union(*(way(start) for way in ways)))
        if code is codes.SUBPATTERN:
            _, added, removed, inner = argument
            return self.sequence(inner, (flags | added) & ~removed)
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            least, most, inner = argument
            return self._repeat(self.sequence(inner, flags), least, most)
        if code in (codes.ASSERT, codes.ASSERT_NOT):
            direction, inner = argument
            return self._look(direction, inner, flags, wanted=code is codes.ASSERT)
        if code is codes.AT:
            return lambda start: frozenset([start] if self._at(argument, start, flags) else ())
        if code in (codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN):
            return lambda start: frozenset([start + 1] if self._is(code, argument, start, flags) else ())
        raise ValueError(f"{str(code).lower()} is not allowed in a pattern: its search may take for ever")

    def _repeat(self, part: Ends, least: int, most: int) -> Ends:
        def ends(start: int) -> frozenset[int]:
            here = frozenset([start])
            for _ in range(least):
                after = _after(part, here)
                if after == here:  # it stays so, however often
                    break
                here = after
            found, left = here, most - least
            while here and left > 0:
                here = _after(part, here) - found
                found, left = found | here, left - 1
            return found

        return functools.cache(ends)

    def _look(self, direction: int, inner: Any, flags: int, *, wanted: bool) -> Ends:
        part = self.sequence(inner, flags)
        width = inner.getwidth()[0] if direction < 0 else 0  # Python allows one width alone behind a position

        def ends(start: int) -> frozenset[int]:
            seen = start >= width and bool(part(start - width) if direction > 0 else start in part(start - width))
            return frozenset([start] if seen is wanted else ())

        return ends

    def _at(self, what: Any, at: int, flags: int) -> bool:
        text, size = self._text, len(self._text)
        if what in (codes.AT_BEGINNING, codes.AT_BEGINNING_STRING):
            lines = flags & re.MULTILINE and what is codes.AT_BEGINNING
            return at == 0 or bool(lines and text[at - 1] == "\n")
        if what in (codes.AT_END, codes.AT_END_STRING):
            if at == size or what is codes.AT_END_STRING:
                return at == size
            return text[at] == "\n" and (at == size - 1 or bool(flags & re.MULTILINE))
        word = [0 <= i < size and _category(codes.CATEGORY_WORD, text[i], flags) for i in (at - 1, at)]
        return (word[0] != word[1]) is (what is codes.AT_BOUNDARY)

    def _is(self, code: Any, argument: Any, at: int, flags: int) -> bool:
        if at >= len(self._text):
            return False
        letter = self._text[at]
        if code is codes.ANY:
            return letter != "\n" or bool(flags & re.DOTALL)
        if code is codes.IN:
            return _in_set(argument, letter, flags)
        return (argument in _cases(letter, flags)) is (code is codes.LITERAL)


def _after(part: Ends, positions: frozenset[int]) -> frozenset[int]:
    return frozenset().union(*map(part, positions))


def _cases(letter: str, flags: int) -> set[int]:
    forms = (letter, letter.lower(), letter.upper()) if flags & re.IGNORECASE else (letter,)
    return {ord(form) for form in forms if len(form) == 1}


def _in_set(items: Any, letter: str, flags: int) -> bool:
    negated = items[0][0] is codes.NEGATE
    seen = any(_in_item(code, argument, letter, flags) for code, argument in items if code is not codes.NEGATE)
    return seen is not negated


def _in_item(code: Any, argument: Any, letter: str, flags: int) -> bool:
    if code is codes.CATEGORY:
        return _category(argument, letter, flags)
    if code is codes.RANGE:
        return any(argument[0] <= form <= argument[1] for form in _cases(letter, flags))
    return argument in _cases(letter, flags)


def _category(name: Any, letter: str, flags: int) -> bool:
    return re.match(_CATEGORIES[name], letter, flags & re.ASCII) is not None


_CATEGORIES = {
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_NOT_SPACE: r"\S",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_NOT_WORD: r"\W",
}
