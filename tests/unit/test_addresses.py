"""Addresses of groups inside a layer: what is read, what is refused, and how groups are counted."""

from __future__ import annotations

import time

import numpy as np
import pytest

from prunus.errors import OptionError, SelectorError
from prunus.methods.hierarchy.groups import clusters_of, members_of, parse_grouping
from prunus.tree.addresses import Group, parse_address

TEN = np.array([0.7, -0.1, 0.3, 0.9, 0.0, 0.5, 0.2, 1.1, 0.4, 0.6])


@pytest.mark.parametrize(
    ("text", "node", "group"),
    [
        ("layer3/weights<q10", "layer3", Group("weights", 0.0, 0.1, 0, "weight")),
        ("layer3/units>q75@activation", "layer3", Group("units", 0.75, 1.0, 0, "activation")),
        ("stage1/*/units=q25-50@gradient", "stage1/*", Group("units", 0.25, 0.5, 0, "gradient")),
        ("re:.*mlp/weights=k2of3", "re:.*mlp", Group("weights", 2, 2, 3, "weight")),
        ("a/units<k3of4", "a", Group("units", 1, 2, 4, "weight")),
        ("a/units>k3of4", "a", Group("units", 4, 4, 4, "weight")),
        ("a/units<q0.5", "a", Group("units", 0.0, 0.005, 0, "weight")),
    ],
)
def test_an_address_is_read_and_written_as_it_was(text: str, node: str, group: Group) -> None:
    found = parse_address(text)
    assert (found.node, found.group) == (node, group)
    assert parse_address(str(found)) == found


@pytest.mark.parametrize("text", ["layer3", "stage1/*", "stage1/conv/units", "re:(a|b)<c", "units", "a/unitsx<q10"])
def test_other_texts_are_selectors(text: str) -> None:
    assert parse_address(text).group is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weights<q10", "names no node"),
        ("a/weights<10", "the group '<10'"),
        ("a/weights<q0", "the group '<q0'"),
        ("a/weights<q100", "the group '<q100'"),
        ("a/weights<q١٠", "the group"),
        ("a/weights=q50-25", "the group '=q50-25'"),
        ("a/weights=q1e1-50", "the group"),
        ("a/units=k4of3", "the group '=k4of3'"),
        ("a/units<k1of3", "the group '<k1of3'"),
        ("a/units=k1of1", "the group"),
        ("a/units=k1of999999", "the group"),
        ("a/units<q10@size", "groups by 'size'; allowed: weight, gradient, activation"),
        ("a" * 2000 + "/units<q10", "characters"),
    ],
)
def test_a_wrong_group_is_one_line(text: str, words: str) -> None:
    with pytest.raises(SelectorError) as error:
        parse_address(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_reading_takes_linear_time() -> None:
    began = time.perf_counter()
    for text in ("a/" * 499 + "units", "a/units<" + "<" * 900, "a/units=q" + "-" * 900, "a/units<q" + "9" * 900):
        for _ in range(50):
            try:
                parse_address(text)
            except SelectorError:
                continue
    assert time.perf_counter() - began < 1.0


def test_quantiles_count_parts_and_equal_values_keep_their_order() -> None:
    assert np.flatnonzero(members_of(TEN, Group("weights", 0, 0.3, 0, "weight"))).tolist() == [1, 4, 6]
    assert np.flatnonzero(members_of(TEN, Group("weights", 0.9, 1, 0, "weight"))).tolist() == [7]
    equal = members_of(np.ones(8), Group("units", 0, 0.25, 0, "weight"))
    assert np.flatnonzero(equal).tolist() == [0, 1]
    parts = [members_of(TEN, Group("units", i / 3, (i + 1) / 3, 0, "weight")) for i in range(3)]
    assert (np.sum(parts, axis=0) == 1).all()


def test_clusters_of_a_line_are_those_of_k_means_and_depend_on_no_seed() -> None:
    values = np.array([0.1, 9.0, 0.2, 5.0, 5.2, 9.1, 0.0])
    assert clusters_of(values, 3).tolist() == [0, 2, 0, 1, 1, 2, 0]
    order = np.random.default_rng(0).permutation(len(values))
    assert clusters_of(values[order], 3).tolist() == clusters_of(values, 3)[order].tolist()
    assert clusters_of(np.zeros(4), 3).max() <= 2
    assert members_of(values, Group("units", 1, 1, 3, "weight")).tolist() == [True, False, True, *[False] * 3, True]


@pytest.mark.parametrize("text", ["quantiles", "kmeans:1", "kmeans:65", "deciles:4", "quantiles:x"])
def test_a_wrong_grouping_is_one_line(text: str) -> None:
    with pytest.raises(OptionError, match=r"groups is .* allowed: quantiles:4 or kmeans:3"):
        parse_grouping(text)
