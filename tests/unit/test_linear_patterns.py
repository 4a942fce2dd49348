"""Patterns match what Python's own do, in a time that no pattern can stretch."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import prunus
from prunus.errors import RecipeError, SelectorError
from prunus.experiments.recipe import load_recipe
from prunus.foundation.linear_patterns import search

TEXTS = ("", "layer1.conv", "layer2.0.conv1", "Head", "aaab", "a\nb", "x_1 y", "ÄÖ9", "stage3/block1/heads")
PATTERNS = (
    r"conv",
    r"^layer[12]\.",
    r"^(?!.*head).*$",
    r"(?i)head$",
    r"(?i:H)ead",
    r"(?<=layer)\d",
    r"(?<!layer1)\.conv",
    r"\bconv\b",
    r"\Bonv\d?\Z",
    r"(a|b)*?b$",
    r"a{2,3}b",
    r"(?:a?){3}",
    r"(?m)^b",
    r"(?s)a.b",
    r"a.b",
    r"[^a-z.]",
    r"[\w.]+\d",
    r"[^\W\d]",
    r"(?P<n>l)ayer",
    r"(?a)\w+$",
    r"^$",
    r"$",
    r"",
    r"(a|)+b",
    r"x|layer(?=2)|^H",
    r"(?x) c o n v  # spaces",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_same_texts_match(pattern: str) -> None:
    for text in TEXTS:
        assert search(pattern, text) is (re.search(pattern, text) is not None), text


parts = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", r"\b", "^", "$", "(?=a)", "(?!b)", "(?<=a)", "\n"])
patterns = st.recursive(
    parts,
    lambda inner: st.one_of(
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{0}"])),
        st.builds("({}|{})".format, inner, inner),
        st.builds("{}{}".format, inner, inner),
    ),
    max_leaves=5,
)


@given(patterns, st.text("abA1.\n", max_size=5))
def test_any_pattern_matches_as_in_python(pattern: str, text: str) -> None:
    assert search(pattern, text) is (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"^(a|a)*$", r"^a*a*a*a*a*a*a*a*a*a*$", r"^((a*)*)*$", r"^(a?){4000000000}$", r"(.*)*x"]
)
def test_no_pattern_takes_long(pattern: str) -> None:
    start = time.process_time()
    assert not search(pattern, "a" * 200 + "b")
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        (r"(a)\1", "groupref is not allowed"),
        (r"(?>a+)b", "atomic_group is not allowed"),
        (r"a++b", "possessive_repeat is not allowed"),
        ("(", "not a regular expression"),
        ("a{99999999999}", "not a regular expression"),
        ("(" * 5000, "at most 1,000 are read"),
        ("(" * 900, "not a regular expression"),
        ("(?:" * 330 + "a", "not a regular expression"),
        ("a" * 2000, "at most 1,000 are read"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(pattern: str, match: str) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(SelectorError, match=match) as caught:
        prunus.prune(net, torch.randn(2, 4), budget={"params": 0.5}, ignore=[f"re:{pattern}"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_recipe_is_short(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("version: 1\n" + "#" * (64 << 10))
    with pytest.raises(RecipeError, match="larger than 64 KB"):
        load_recipe(file)
    with pytest.raises(RecipeError, match="larger than 64 KB"):
        load_recipe("/dev/zero")


def test_aliases_do_not_multiply(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    file.write_text("\n".join(lines))
    with pytest.raises(RecipeError, match=r"bomb\.yaml:2: the alias \*a0 is not allowed"):
        load_recipe(file)
