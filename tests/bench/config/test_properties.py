"""Suite files and specs under arbitrary content."""

import json

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

from bench.config import resolve, suites  # noqa: E402
from bench.config.spec import RunSpec, Training, protocol_hash  # noqa: E402
from bench.core.errors import UserError  # noqa: E402

METHODS = st.sampled_from(["baseline", "repa", "repa[weight=1.0]", "repa[weight=[0.5,1.0]]"])
KEYS = st.sampled_from([*suites.Suite.model_fields, *Training.model_fields, "method", "typo", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
STEPS = st.integers(0, 10**6)
TRAINING = st.fixed_dictionaries({}, optional={"steps": STEPS, "learning_rate": st.floats(1e-9, 10.0)})
quick = hypothesis.settings(max_examples=60, deadline=None)


def toml(value):
    """A value in TOML; None has no spelling there."""
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items() if v is not None) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(toml(v) for v in value if v is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("suites") / "mine.toml"


@quick
@hypothesis.given(st.dictionaries(KEYS, VALUES.filter(lambda value: value is not None), max_size=4))
def test_any_suite_file_is_read_or_refused_in_one_line_that_names_it(file, content):
    file.write_text("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in content.items()))
    try:
        found = suites.load(str(file))
        assert found.grid and all(entry.method and entry.backbone for entry in found.grid)
    except UserError as error:
        assert str(file) in str(error) and "\n" not in str(error)


@quick
@hypothesis.given(st.lists(METHODS, min_size=1), st.lists(st.integers(), min_size=1), TRAINING)
def test_what_is_written_in_a_suite_file_is_read(file, method, seed, training):
    grid = f"[[grid]]\nmethod = {toml(method)}\n"
    file.write_text(f"seed = {toml(seed)}\ntraining = {toml(training)}\n{grid}")
    found = suites.load(str(file))
    assert found.grid and list(found.grid[0].method) == method
    assert list(found.seed or ()) == seed and found.training == training


@quick
@hypothesis.given(
    seed=st.integers(),
    training=TRAINING,
    protocol=st.fixed_dictionaries(
        {}, optional={"samples": st.integers(4, 10**6), "guidance_scale": st.floats(0, 100)}
    ),
)
def test_a_spec_is_written_and_read_back(seed, training, protocol):
    spec = resolve.run_spec("repa", "sit-pico", "digits", seed, training=training, protocol=protocol)
    content = json.loads(spec.model_dump_json())
    again = RunSpec.model_validate(content)
    assert again == spec and again.run_id == spec.run_id
    assert protocol_hash(content["protocol"]) == spec.protocol.hash
    assert set(spec.run_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
