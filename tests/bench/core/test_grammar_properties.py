"""The naming grammar under arbitrary text."""

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

from bench.core import grammar  # noqa: E402
from bench.core.errors import UserError  # noqa: E402

words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1)
names = words.filter(lambda text: text.strip() == text and not text.startswith(("'", '"')))
keys = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
options = st.dictionaries(keys, st.one_of(words, st.text("[],=\"' ab", min_size=1)), max_size=4)


@hypothesis.given(names, options)
def test_what_is_printed_can_be_typed(name, chosen):
    text = grammar.join(name, chosen)
    assert grammar.split(text) == (name, chosen)
    assert grammar.expand(text) == [text]
    assert grammar.split(f"  {text} ") == (name, chosen)


@hypothesis.given(names, options, options)
def test_names_may_be_values_of_names(name, inner, outer):
    nested = grammar.join(name, inner)
    assert grammar.split(grammar.join("outer", outer | {"value": nested}))[1]["value"] == nested


@hypothesis.given(st.text("ab[],=\"' ", max_size=12))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        for name in grammar.expand(text):
            assert grammar.expand(name) == [name]
    except UserError as error:
        assert "\n" not in str(error)
