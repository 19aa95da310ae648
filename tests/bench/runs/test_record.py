"""Run folders are read whatever version or accident they come from."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.core.files import append_row, damaged_lines
from bench.runs.formats import EvaluationRow, TrainingRow
from bench.runs.record import RunRecord

ROW = {"step": 5, "seconds": 1.0, "protocol": "aa", "metrics": {"fid": 2.0}}


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return RunRecord(tmp_path)


def test_a_row_is_read_as_it_was_written(record: RunRecord):
    row = EvaluationRow(step=5, seconds=1.5, flops=10**18, protocol="aa", metrics={"fid[net]": 2.5})
    append_row(record.folder / "eval.jsonl", row.fields())
    assert record.evaluations() == [row]


NAMES = st.text(min_size=1, max_size=20)
NUMBERS = st.floats(allow_nan=False)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    step=st.integers(0, 10**12),
    values=st.dictionaries(NAMES, NUMBERS, max_size=4),
    leaky=st.lists(NAMES, max_size=2),
    interval=st.tuples(NUMBERS, NUMBERS),
)
def test_any_row_is_read_as_it_was_written(record: RunRecord, step, values, leaky, interval):
    (record.folder / "eval.jsonl").unlink(missing_ok=True)
    (record.folder / "train.jsonl").unlink(missing_ok=True)
    evaluation = EvaluationRow(
        step=step, seconds=1.0, protocol="aa", guidance_interval=interval, leaky=tuple(leaky), metrics=values
    )
    training = TrainingRow(step=step, raw=values, logs=values, loss=1e-300)
    for name, row in (("eval", evaluation), ("train", training)):
        append_row(record.folder / f"{name}.jsonl", row.fields())
    assert record.evaluations() == [evaluation]
    assert record.training() == [training] == [record.last_training_row()]
    assert damaged_lines(record.folder / "eval.jsonl") == []


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=300))
def test_any_content_is_read_or_left_out(record: RunRecord, content: bytes):
    for name in ("eval", "train", "probe"):
        (record.folder / f"{name}.jsonl").write_bytes(content)
    found = [*record.evaluations(), *record.training(), *record.probes()]
    assert all(type(row.step) is int for row in found)
    assert record.last_training_row() is None or record.training()
    assert all(":" in place for place in damaged_lines(record.folder / "eval.jsonl"))


def test_of_equal_step_and_protocol_the_last_counts(record: RunRecord):
    for step, protocol, value in ((9, "aa", 1.0), (5, "aa", 2.0), (5, "bb", 3.0), (5, "aa", 4.0)):
        append_row(
            record.folder / "eval.jsonl",
            ROW | {"step": step, "protocol": protocol, "metrics": {"fid": value}},
        )
    assert [(row.step, row.protocol, row.metrics["fid"]) for row in record.evaluations()] == [
        (5, "aa", 4.0),
        (5, "bb", 3.0),
        (9, "aa", 1.0),
    ]


def test_rows_of_other_versions_are_left_out_and_new_fields_ignored(record: RunRecord):
    for row in (ROW | {"fid": 3, "new": [1]}, {"step": 5}, {"step": "five"} | ROW | {"metrics": 3}):
        append_row(record.folder / "eval.jsonl", row)
    assert [row.step for row in record.evaluations()] == [5]


def test_the_last_training_row_is_found_before_a_torn_line_of_a_long_file(record: RunRecord):
    path = record.folder / "train.jsonl"
    with open(path, "w") as file:
        for step in range(1, 3000):
            file.write(json.dumps(TrainingRow(step=step, loss=1.0, logs={"a": 0.5}).fields()) + "\n")
        file.write('{"step": 3000, "los')
    row = record.last_training_row()
    assert row is not None and row.step == 2999
    assert record.logs_anything()
    assert [row.step for row in record.training()] == list(range(1, 3000))


@pytest.mark.parametrize("content", ["", '{"state": "fin', "[]", '{"step": "many"}', "\x00\x00"])
def test_a_damaged_status_is_called_so(record: RunRecord, content: str):
    assert record.status().state == "not started"
    (record.folder / "status.json").write_text(content)
    assert record.status().state == "damaged" and "status.json" in record.status().message


@pytest.mark.parametrize("content", ["[" * 100_000, "", '{"method": "re', "[]", "\x00\x00"])
def test_a_damaged_spec_is_one_line(record: RunRecord, content: str):
    (record.folder / "spec.json").write_text(content)
    with pytest.raises(UserError, match=r"spec\.json is damaged") as error:
        record.spec()
    assert "\n" not in str(error.value)


def test_a_spec_of_another_version_names_the_field(record: RunRecord):
    (record.folder / "spec.json").write_text('{"suite": "old"}')
    with pytest.raises(UserError, match=r"another version: method of its spec\.json"):
        record.spec()


def test_environments_of_before_are_read(record: RunRecord):
    (record.folder / "env.json").write_text('{"hardware": "H100", "flops_per_step": 1e9}')
    assert record.environment().hardware == "H100" and record.environment().devices == 1
