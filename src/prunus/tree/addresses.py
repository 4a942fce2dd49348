"""Addresses of groups inside a layer: ``layer3/weights<q10``, ``layer3/units=k1of3@gradient``.

Grammar, with NODE a selector of the tree:

    address  = NODE "/" part relation bound [ "@" value ]
    part     = "units" | "weights"
    relation = "<" | ">"      with a quantile q10 or a cluster k2of3: below it, above it
             | "="            with a range of quantiles q25-50 or a cluster k2of3: in it
    value    = "weight" | "gradient" | "activation"      weight by default

A text without a part and a relation behind its last slash is a selector of the tree. The text is read once from its
end, so the time is proportional to its length.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunus.errors import SelectorError

PARTS = ("units", "weights")
VALUES = ("weight", "gradient", "activation")
NETWORK = "(network)"
"""The name of the whole network among the nodes."""
_SLACK = 1e-9
_RELATIONS = "<>="
_LONGEST = 1000
_MOST_CLUSTERS = 64
_FORM = "allowed: NODE/units or NODE/weights with <q10, >q90, =q25-50, =k1of3, and @weight, @gradient or @activation"


@dataclass(frozen=True, slots=True)
class Group:
    """A group of the units or weights of a layer.

    Attributes:
        part: units or weights.
        low, high: the group holds the parts of rank ⌊low·n⌋ to ⌊high·n⌋ of n, the least value first; for clusters the
            first and the last cluster, counted from 1.
        clusters: number of clusters of k-means; 0 for quantiles.
        value: weight, gradient or activation.
    """

    part: str
    low: float
    high: float
    clusters: int
    value: str

    def __str__(self) -> str:
        if self.clusters and self.low == self.high:
            bound = f"=k{self.low:g}of{self.clusters}"
        elif self.clusters:
            bound = f"<k{self.high + 1:g}of{self.clusters}" if self.low == 1 else f">k{self.low - 1:g}of{self.clusters}"
        elif self.low == 0:
            bound = f"<q{_percent(self.high)}"
        else:
            bound = f">q{_percent(self.low)}" if self.high == 1 else f"=q{_percent(self.low)}-{_percent(self.high)}"
        return f"{self.part}{bound}" + ("" if self.value == VALUES[0] else f"@{self.value}")


@dataclass(frozen=True, slots=True)
class Address:
    """A selector of nodes of the tree, and a group inside their layers; without a group the nodes themselves."""

    node: str
    group: Group | None

    def __str__(self) -> str:
        return self.node if self.group is None else f"{self.node}/{self.group}"


def quantile_ranks(group: Group, size: int) -> tuple[int, int]:
    """Return ⌊low·n⌋ and ⌊high·n⌋ of a group by quantiles among n parts."""
    return int(group.low * size + _SLACK), int(group.high * size + _SLACK)


def quantile_size(group: Group, size: int) -> int:
    """Return how many of n parts a group by quantiles holds."""
    first, last = quantile_ranks(group, size)
    return last - first


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        SelectorError: a part with a relation that is no group, or a text that is too long.

    Example:
        >>> parse_address("layer3/weights<q10").group
        Group(part='weights', low=0.0, high=0.1, clusters=0, value='weight')
        >>> str(parse_address("stage1/*/units=k2of3@activation"))
        'stage1/*/units=k2of3@activation'
        >>> parse_address("stage1/*").group is None
        True
    """
    if len(text) > _LONGEST:
        raise SelectorError(f"An address has {len(text):,} characters; allowed: up to {_LONGEST:,}.")
    node, slash, tail = text.rpartition("/")
    part = next((name for name in PARTS if tail.startswith(name) and tail[len(name) :][:1] in (*_RELATIONS,)), None)
    if part is None:
        return Address(text, None)
    if not slash or not node:
        raise SelectorError(f"Address {text!r} names no node before {tail!r}; {_FORM}, such as 'layer3/{tail}'.")
    relation, rest = tail[len(part)], tail[len(part) + 1 :]
    bound, at, value = rest.partition("@")
    if at and value not in VALUES:
        raise SelectorError(f"Address {text!r} groups by {value!r}; allowed: {', '.join(VALUES)}.")
    found = _range(relation, bound)
    if found is None:
        raise SelectorError(f"Address {text!r} has the group {relation + bound!r}; {_FORM}.")
    return Address(node, Group(part, *found, value or VALUES[0]))


def _range(relation: str, bound: str) -> tuple[float, float, int] | None:
    """Return low, high and the number of clusters; None where the bound is none."""
    kind, numbers = bound[:1], bound[1:]
    if kind == "q" and relation == "=":
        first, dash, last = numbers.partition("-")
        low, high = _share(first), _share(last)
        return (low, high, 0) if dash and low is not None and high is not None and low < high else None
    if kind == "q":
        share = _share(numbers)
        if share is None or not 0 < share < 1:
            return None
        return (0.0, share, 0) if relation == "<" else (share, 1.0, 0)
    if kind != "k":
        return None
    first, of, last = numbers.partition("of")
    if not of or not (_whole(first) and _whole(last)) or not 1 <= int(first) <= int(last) <= _MOST_CLUSTERS:
        return None
    cluster, clusters = int(first), int(last)
    low, high = {"<": (1, cluster - 1), ">": (cluster + 1, clusters), "=": (cluster, cluster)}[relation]
    return (float(low), float(high), clusters) if low <= high and clusters > 1 else None


def _share(text: str) -> float | None:
    """Return a percentage as a share; None where the text is no number from 0 to 100."""
    whole, dot, rest = text.partition(".")
    if not _whole(whole) or (dot and not _whole(rest)):
        return None
    value = float(text) / 100
    return value if value <= 1 else None


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _percent(share: float) -> str:
    return f"{round(100 * share, 9):g}"
