"""Rows that are missing from the files of a run are named, and never change a table in silence."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from bench.benchmark.simulated_runs import write_run
from bench.config import resolve
from bench.config.spec import _RENAMED, protocol_hash
from bench.launch.runner import Runner
from bench.launch.stopping import STOP, Stopped
from bench.reporting.results import load
from bench.runs.gaps import missing_evaluations, missing_training
from bench.runs.record import RunRecord

TRAINING = {"steps": 6, "batch_size": 8, "checkpoint_every": 4, "evaluate_every": 2, "log_every": 2}
PROTOCOL = {"samples": 16, "sampler_flow": "euler[steps=2]", "feature_nets": ("random-conv",)}
SPEC = ("baseline", "sit-pico", "digits", 0)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parent of the folder of a run that stopped at step 4 of 6."""
    root = tmp_path_factory.mktemp("runs")
    runner = Runner(spec(), root, torch.device("cpu"))
    original = runner._save

    def save_and_stop() -> None:
        original()
        if runner.step == 4:
            raise Stopped(STOP)

    runner._save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        runner.run()
    return root


def spec():
    return resolve.run_spec(*SPEC, training=TRAINING, protocol=PROTOCOL)


def resumed(interrupted: Path, root: Path, file: str, lines: int) -> list[str]:
    """Keep the first lines of a file, continue the run in `root`; the warnings about its rows."""
    shutil.copytree(interrupted, root)
    path = root / spec().run_id / file
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Runner(spec(), root, torch.device("cpu")).run()
    return [str(one.message) for one in caught if ".jsonl" in str(one.message)]


@pytest.mark.parametrize(
    "file, lines, named",
    [
        ("train.jsonl", 3, ""),
        ("train.jsonl", 1, "train.jsonl lacks the rows of steps 2, 4."),
        ("eval.jsonl", 0, "eval.jsonl lacks the rows of step 2."),
    ],
)
def test_rows_that_are_missing_before_the_checkpoint_are_named(
    interrupted: Path, tmp_path: Path, file: str, lines: int, named: str
) -> None:
    root = tmp_path / "runs"
    said = resumed(interrupted, root, file, lines)
    assert [named in line for line in said] == ([True] if named else [])
    assert [named in line for line in load(root).gaps.values()] == ([True] if named else [])


def test_a_finished_run_without_its_last_evaluation_is_in_no_table(tmp_path: Path) -> None:
    whole, cut = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    path = cut / "eval.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    found = load(tmp_path)
    assert found.finished["run"].tolist() == [whole.name]
    assert list(found.gaps) == [cut.name]
    assert "lacks the rows of step 1000. python -m bench.evaluate" in found.gaps[cut.name]


def test_lines_in_the_middle_are_named_and_those_of_a_kill_are_not(tmp_path: Path) -> None:
    record = RunRecord(write_run(tmp_path))
    path = record.folder / "eval.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    assert (len(rows), missing_evaluations(record, 1000), missing_training(record, 1000)) == (10, "", "")
    path.write_bytes(b"".join([*rows[:4], rows[4][:40], b"\n", *rows[4:], rows[9][:60]]))
    assert missing_evaluations(record, 1000) == ""
    path.write_bytes(b"".join([*rows[:4], rows[4].replace(b":", b";", 1), *rows[6:]]))
    assert missing_evaluations(record, 1000).startswith(
        "eval.jsonl lacks the rows of steps 500, 600 and eval.jsonl:5 cannot be read."
    )
    assert missing_evaluations(record, 499) == (
        "eval.jsonl:5 cannot be read. Curves and speedups go without them: to have them, move the folder "
        "away and run it again."
    )
    (record.folder / "train.jsonl").unlink()
    assert missing_training(record, 1000).startswith("train.jsonl lacks the rows of steps 1, 500, 1000.")


def test_a_pending_evaluation_is_not_missing(tmp_path: Path) -> None:
    record = RunRecord(write_run(tmp_path))
    (record.folder / "eval.jsonl").write_text("")
    for step in range(100, 1100, 100):
        (record.folder / "kept" / f"step-{step:08d}").mkdir(parents=True)
    assert missing_evaluations(record, 1000) == ""


def test_runs_of_an_earlier_identity_are_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    path = folder / "spec.json"
    spec = json.loads(path.read_text())
    earlier = {old: spec["protocol"].pop(new) for old, new in _RENAMED.items()}
    spec["protocol"] = earlier | {"data": "digits", "samples": 1000, "neighbours": 3}
    spec["protocol"] |= {"guidance_scale": 1.0, "guidance_interval": [0, 1], "guidance_channels": 0}
    path.write_text(json.dumps(spec))
    own = protocol_hash(spec["protocol"])
    rows = [json.loads(line) | {"protocol": own} for line in (folder / "eval.jsonl").read_text().splitlines()]
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load(tmp_path)
    assert found.gaps == {} and len(found.finished) == 1


def test_the_report_names_missing_rows(tmp_path: Path) -> None:
    from bench.reporting.comparison import compare
    from bench.reporting.pages.markdown import markdown
    from bench.reporting.tables.summary import main_table

    folders = [write_run(tmp_path, seed=seed) for seed in range(3)]
    path = folders[1] / "eval.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] != 300))
    found = compare(load(tmp_path), "baseline", None, 0.95, allow_mixed=False)
    page = markdown(found, [main_table(found)], [], [], "more", "")
    assert f"- `{folders[1].name}`: eval.jsonl lacks the rows of step 300." in page
