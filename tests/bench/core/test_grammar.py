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


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ('folder[path="/a,b[1]=c"]', {"path": "/a,b[1]=c"}),
        ("folder[path='say \"no\"',vae=x]", {"path": 'say "no"', "vae": "x"}),
        ('folder[path="a ""quoted"" word"]', {"path": 'a "quoted" word'}),
        ("folder[path=/home/o'brien/x,vae=y]", {"path": "/home/o'brien/x", "vae": "y"}),
        ("repa[encoder=dinov2-b[cache=true,weights=/a]]", {"encoder": "dinov2-b[cache=true,weights=/a]"}),
        ('repa[encoder=clip[weights="/a,b"],weight=1]', {"encoder": 'clip[weights="/a,b"]', "weight": "1"}),
    ],
)
def test_values_may_be_quoted_or_have_brackets_of_their_own(text, options):
    name, found = grammar.split(text)
    assert found == options
    assert grammar.split(grammar.join(name, found)) == (name, found)
    assert grammar.expand(text) == [grammar.join(name, found)]


def test_a_list_may_hold_names_with_brackets_and_quotes():
    found = grammar.expand('repa[encoder=[a[b=1,c=2],"d,e"]]')
    assert [grammar.split(name)[1]["encoder"] for name in found] == ["a[b=1,c=2]", "d,e"]


@pytest.mark.parametrize(
    "text", ["a[b=1", "a[b=[1]", "a[b=1]]", "a[b=1][c=2]", "a[", "", "a[b=1,b=2]", "a[b=[]]"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(UserError):
        grammar.expand(text)


def test_the_home_folder_is_found_in_options(monkeypatch, tmp_path):
    @dataclass
    class Place:
        path: str = ""

    monkeypatch.setenv("HOME", str(tmp_path))
    assert grammar.configure(Place, {"path": "~/stores"}, "x").path == str(tmp_path / "stores")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number):
    with pytest.raises(UserError, match=f"weight={number}"):
        grammar.configure(Options, {"weight": number}, "x")


def test_a_resolved_name_has_every_option_and_one_spelling():
    spelled = [grammar.configure(Options, {"weight": text}, "x") for text in ("0.5", "0.50", "5e-1")]
    (name,) = {grammar.resolved("x", options) for options in spelled}
    assert name == "x[depth=none,interval=0.0:1.0,kind=a,on=false,weight=0.5]"
    assert grammar.configure(Options, grammar.split(name)[1], "x") == Options()
