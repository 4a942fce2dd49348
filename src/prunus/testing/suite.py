"""The base of all suites: named checks as test methods, and failures with fault, value, allowed values and remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from prunus.errors import OptionError, PrunusError, shown
from prunus.testing.cases import first_change, state_of

T = TypeVar("T")


class ContractError(AssertionError):
    """A broken promise of a role; the message holds the promise, the value found, the allowed values and the remedy."""


class Suite:
    """The promises of one role, checked for one member; every method ``test_…`` is one promise.

    A factory such as `prunus.testing.criterion_suite` makes a subclass for a member, given by its enrolled name
    or as the object itself. pytest collects the subclass under any name that it has in a test file, and `failures` runs
    it without pytest, which prunus does not need. The message of a failure holds the fault, the value found, the
    allowed values and the remedy.

    Example:
        One line in a test file checks a member: ``TestMine = prunus.testing.criterion_suite("my-criterion")``.
    """

    __test__ = False
    role: ClassVar[str] = "member"
    title: ClassVar[str] = ""
    case: Any = None
    memo: ClassVar[dict[Any, Any]] = {}

    @classmethod
    def checks(cls) -> list[str]:
        """Return the names of the checks, in the order in which they are written."""
        names = dict.fromkeys(name for kind in reversed(cls.__mro__) for name in vars(kind) if name.startswith("test_"))
        return [name for name in names if callable(getattr(cls, name))]

    @classmethod
    def failures(cls) -> dict[str, str]:
        """Run every check and return its name → message for each failure; empty if the member is sound."""
        messages = {}
        for name in cls.checks():
            try:
                getattr(cls(), name)()
            except ContractError as error:
                messages[name] = str(error)
        return messages

    def fail(self, what: str, got: Any, allowed: str, do: str) -> None:
        """Raise `ContractError` in one line."""
        __tracebackhide__ = True
        raise ContractError(f"{self.role} {self.title!r}: {what}; got {got}, allowed: {allowed}. {do}")

    def expect(self, holds: Any, what: str, got: Any, allowed: str, do: str) -> None:
        """Raise `ContractError` unless a promise holds."""
        __tracebackhide__ = True
        if not bool(holds):
            self.fail(what, got, allowed, do)

    def expect_record(self, member: Any, given: Any, do: str) -> None:
        """Raise `ContractError` unless a member has its enrolled name and one line of description."""
        __tracebackhide__ = True
        self.expect(
            not isinstance(given, str) or member.name == given,
            "its record has another name",
            repr(member.name),
            repr(given),
            "Enrol it under its own name.",
        )
        line = member.description.strip()
        self.expect(
            line and "\n" not in line, "its description is not one line", repr(member.description), "one line", do
        )

    def expect_unchanged(self, model: nn.Module, before: Mapping[str, Any]) -> None:
        """Raise `ContractError` unless a model's state equals an earlier result of `state_of`."""
        __tracebackhide__ = True
        changed = first_change(before, state_of(model))
        self.expect(changed is None, "it changes the model", changed, "no change", "Work on copies, not in place.")

    def expect_no_draw(self, before: Tensor) -> None:
        """Raise `ContractError` if torch's global generator was used."""
        __tracebackhide__ = True
        self.expect(
            torch.equal(before, torch.random.get_rng_state()),
            "it draws from torch's global generator",
            "another random state",
            "the state as before",
            "Draw from torch.Generator().manual_seed(evidence.seed).",
        )

    def attempt(self, what: str, function: Callable[[], T], do: str = "Let it work on this network.") -> T:
        """Return the result of a function; any error is a broken promise."""
        __tracebackhide__ = True
        try:
            return function()
        except ContractError:
            raise
        except Exception as error:  # a member may fail in any way
            text = " ".join(str(error).split())[:500]
            raise ContractError(
                f"{self.role} {self.title!r}: {what}; got {type(error).__name__}: {text}, allowed: no error. {do}"
            ) from error

    def refused(self, what: str, function: Callable[[], Any], kind: type[PrunusError], do: str) -> None:
        """Raise `ContractError` unless a function raises an error of the given kind, in one line."""
        __tracebackhide__ = True
        try:
            returned = function()
        except kind as error:
            self.expect(
                "\n" not in str(error).strip(), what, f"a message of several lines {str(error)!r}", "one line", do
            )
            return
        except Exception as error:  # the promise is a certain kind
            got = f"{type(error).__name__}: {error}"
        else:
            got = f"{type(returned).__name__} and no error"
        self.fail(what, got, f"{kind.__name__} with one line", do)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Return the value that a check of this member made for a key before, or make it now."""
        if key not in self.memo:
            self.memo[key] = make()
        value: T = self.memo[key]
        return value


def check_member(role: str, given: Any, kind: type | None = None) -> None:
    """Refuse an argument that is neither a name nor a member of a role.

    Raises:
        OptionError: anything else.
    """
    if not isinstance(given, str) and not (callable(given) if kind is None else isinstance(given, kind)):
        allowed = "the function itself" if kind is None else f"the {kind.__name__} itself"
        raise OptionError(f"{role} is {shown(given)}; allowed: the name of an enrolled one, or {allowed}.")


def suite_for(base: type[Suite], title: str, case: Any, leave_out: tuple[str, ...] = ()) -> Any:
    """Return a class with the checks of a suite for one member, which pytest collects.

    Args:
        base: the suite.
        title: the member's name.
        case: the data of the checks.
        leave_out: names of checks that do not apply to this member.

    Raises:
        OptionError: ``leave_out`` names no check.
    """
    for name in leave_out:
        if name not in base.checks():
            raise OptionError(f"the suite has no check {name!r}; allowed: {', '.join(base.checks())}.")
    attribute = staticmethod(case) if callable(case) else case  # a function of a class would be a method
    attributes: dict[str, Any] = {
        "__test__": True,
        "__doc__": base.__doc__,
        "title": title,
        "case": attribute,
        "memo": {},
    }
    return type(base.__name__, (base,), attributes | dict.fromkeys(leave_out))
