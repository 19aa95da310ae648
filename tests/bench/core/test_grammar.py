"""The naming grammar: what is printed can be typed."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import pytest

from bench.core import grammar
from bench.core.errors import UserError


@dataclass
class Options:
    weight: float = 0.5
    depth: int | None = None
    kind: Literal["a", "b"] = "a"
    interval: tuple[float, float] = (0.0, 1.0)
    on: bool = False


@pytest.mark.parametrize("text", ["repa", "repa[weight=1.0]", "x/y.py[a=b,c=1:2]"])
def test_split_and_join_are_inverse(text):
    assert grammar.join(*grammar.split(text)) == text


def test_lists_span_the_full_grid():
    found = grammar.expand("vrpo[weight=[0.5,1.0],depth=[2,4,6],on=true]")
    expected = [f"vrpo[depth={d},on=true,weight={w}]" for w, d in product(["0.5", "1.0"], [2, 4, 6])]
    assert found == expected


def test_values_are_read_as_the_declared_types():
    text = {"weight": "2", "depth": "4", "kind": "b", "interval": "0:0.7", "on": "true"}
    assert grammar.configure(Options, text, "x") == Options(2.0, 4, "b", (0.0, 0.7), True)
    assert grammar.configure(Options, {"depth": "none"}, "x").depth is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wieght": "1"}, "Did you mean 'weight'"),
        ({"weight": "heavy"}, "weight=heavy"),
        ({"depth": "1.5"}, "depth=1.5"),
        ({"kind": "c"}, "'a' or 'b'"),
        ({"interval": "0:1:2"}, "interval=0:1:2"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        grammar.configure(Options, options, "x")


@pytest.mark.parametrize("text", ["repa[weight]", "repa[=1]", "repa[weight=]", "repa]", "[a=1]"])
def test_unreadable_brackets_are_refused(text):
    with pytest.raises(UserError, match="cannot read"):
        grammar.split(text)
