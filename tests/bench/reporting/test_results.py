"""Reading run folders that are unfinished, failed, torn or strange."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.benchmark.simulated_runs import PROTOCOL, write_run
from bench.core.errors import UserError
from bench.reporting.results import load


def test_a_protocol_is_known_by_the_hash_of_its_spec(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert list(load(tmp_path).protocols) == [PROTOCOL.hash]


def test_only_finished_runs_count_and_the_others_are_kept_for_the_list(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", seed=0)
    write_run(tmp_path, "baseline", seed=1, state="failed")
    write_run(tmp_path, "baseline", seed=2, state="running")
    found = load(tmp_path)
    assert found.finished["seed"].tolist() == [0]
    assert found.runs.set_index("seed")["state"].to_dict() == {0: "finished", 1: "failed", 2: "running"}


def test_the_last_row_of_a_step_counts_and_a_torn_line_does_not(tmp_path: Path) -> None:
    path = write_run(tmp_path, evaluations=2) / "eval.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    again = rows[1] | {"metrics": {"fid[digits-cnn]": 7.0}}
    path.write_text(path.read_text() + json.dumps(again) + "\n" + json.dumps(rows[0])[:40])
    found = load(tmp_path)
    assert len(found.evaluations) == 2
    assert found.finished["fid[digits-cnn]"].tolist() == [7.0]


def test_rows_of_another_protocol_are_kept_apart(tmp_path: Path) -> None:
    path = write_run(tmp_path, evaluations=1) / "eval.jsonl"
    row = json.loads(path.read_text())
    guided = row | {"protocol": "0" * 8, "guidance_scale": 1.5, "metrics": {"fid[digits-cnn]": 0.1}}
    path.write_text(path.read_text() + json.dumps(guided) + "\n")
    found = load(tmp_path)
    assert len(found.evaluations) == 2
    assert found.finished["guidance_scale"].tolist() == [1.0]


@pytest.mark.parametrize("content", ['{"method": "re', '"a word"', "{}", '{"method": "repa"}'])
def test_a_spec_that_cannot_be_read_is_named_and_the_rest_is_read(tmp_path: Path, content: str) -> None:
    write_run(tmp_path, "baseline")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "spec.json").write_text(content)
    found = load(tmp_path)
    assert list(found.unreadable) == ["torn"]
    assert len(found.runs) == 1


def test_a_run_that_has_only_a_spec_is_not_started(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "baseline")
    for path in folder.iterdir():
        if path.is_file() and path.name != "spec.json":
            path.unlink()
    assert load(tmp_path).runs["state"].tolist() == ["not started"]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        load(tmp_path)
