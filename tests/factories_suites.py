"""Every enrolled member of a role runs the suite that `prunus.testing` ships for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from prunus.testing import ContractError, Suite


def suites(
    names: Iterable[str], suite: Callable[..., Any], options: Mapping[str, Mapping[str, Any]] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a test class for each member, to be put among the globals of a test file.

    All tests of one member run in one process, which makes what they share once.

    Args:
        names: of the members.
        suite: the factory of their suite.
        options: name → keyword arguments of one member's suite.
        more: keyword arguments of all.
    """
    found = {}
    for name in names:
        made = suite(name, **{**more, **(options or {}).get(name, {})})
        found[f"Test_{name}"] = pytest.mark.xdist_group(f"{suite.__name__}-{name}")(made)
    return found


Broken = tuple[str, Any, str]
"""A check, a member that it must find broken, and what its message must say (a pattern)."""


def check_broken(suite: Any, check: str, words: str) -> None:
    """Insist that a check finds its member broken, in one line that says what, got, allowed and what to do."""
    with pytest.raises(ContractError, match=words) as caught:
        getattr(suite(), check)()
    message = str(caught.value)
    assert re.fullmatch(r"[a-z ]+ '.+': .+; got .+, allowed: .+\. [A-Z].+\.", message), message


def check_covered(suite: type[Suite], cases: list[Broken]) -> None:
    """Insist that some broken member was found by every check of a suite."""
    assert {check for check, _, _ in cases} == set(suite.checks())
