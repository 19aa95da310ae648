"""The naming grammar under arbitrary text."""

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

from bench.core import grammar  # noqa: E402
from bench.core.errors import UserError  # noqa: E402

signs = st.text("[]+,=\"' ab", min_size=1, max_size=8)
words = st.one_of(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1), signs)
names = words.filter(lambda text: text.strip() == text)
keys = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
options = st.dictionaries(keys, words | st.just(""), max_size=4)
at_any_speed = hypothesis.settings(deadline=None)


@at_any_speed
@hypothesis.example("[", {})
@hypothesis.example("a+", {})
@hypothesis.example("a+b", {"x": "1"})
@hypothesis.given(names, options)
def test_what_is_printed_can_be_typed(name, chosen):
    text = grammar.join(name, chosen)
    assert grammar.split(text) == (name, chosen)
    assert grammar.expand(text) == [text]
    assert grammar.split(f"  {text} ") == (name, chosen)


@at_any_speed
@hypothesis.given(names, options, options)
def test_names_may_be_values_of_names(name, inner, outer):
    nested = grammar.join(name, inner)
    assert grammar.split(grammar.join("outer", outer | {"value": nested}))[1]["value"] == nested


@at_any_speed
@hypothesis.given(st.text("ab[]+,=\"' ", max_size=12))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        for name in grammar.expand(text):
            assert grammar.expand(name) == [name]
            assert grammar.join(*grammar.split(name)) == name
    except UserError as error:
        assert "\n" not in str(error)
