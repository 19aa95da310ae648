"""The status of runs that are no jobs, and what it says to wishes that cannot be met; jobs: see launch/."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.config import resolve
from bench.core.errors import exit_code
from bench.launch import watch
from bench.runs.folder import RunFolder
from bench.runs.formats import EvaluationRow, TrainingRow
from bench.runs.lock import RunLock
from bench.status import main


@pytest.fixture
def status(tmp_path, monkeypatch, capfd):
    """Runs the command on a suite of three runs: failed at step 3, running, and killed."""
    runs = {}
    for seed, name in enumerate(("failed", "running", "killed")):
        runs[name] = RunFolder(tmp_path / "suite", resolve.run_spec("baseline", "sit-ti", "digits", seed))
        runs[name].set_status(
            "failed" if name == "failed" else "running", 3, "NaN" if name == "failed" else ""
        )
    own = RunLock(runs["running"].folder)
    own.acquire()
    runs["running"].append(TrainingRow(step=70, step_seconds=0.5))
    metrics = {"fid[digits-cnn]": 12.345678}
    runs["running"].append(EvaluationRow(step=50, seconds=25.0, protocol="", metrics=metrics))
    monkeypatch.setattr("bench.launch.slurm.queue", dict)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench.status", "suite", "--results", str(tmp_path), *arguments])
        code = exit_code(main)
        out, err = capfd.readouterr()
        return code, out + err

    yield call
    own.release()


def line_of(text, name):
    return next(line for line in text.splitlines() if name in line)


def test_a_line_a_run_says_what_it_is_at(status):
    code, text = status()
    assert code == 0
    assert "failed" in line_of(text, "seed0") and "NaN" in line_of(text, "seed0")
    running = line_of(text, "seed1")
    steps = resolve.run_spec("baseline", "sit-ti", "digits", 1).training.steps
    for said in ("running", f"70/{steps}", "2", "fid[digits-cnn] 12.35"):
        assert said in running
    assert "lost" in line_of(text, "seed2") and "it continues" in line_of(text, "seed2")
    assert "1 failed, 1 running, 1 lost" in text


def test_only_some_runs_are_shown(status):
    _, text = status("--only", "seed1")
    assert "seed1" in text and "seed0" not in text


def test_a_log_is_one_command_away(status):
    assert "step 3 failed NaN" in status("--log", "seed0")[1]
    code, text = status("--log", "baseline")
    assert code == 2 and "3 runs are called so" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cancel",), "has a job that waits or runs"),
        (("--resubmit",), "was a job that ended too early"),
        (("--only", "dit"), "there are no runs whose name contains dit"),
    ],
)
def test_wishes_that_cannot_be_met_are_answered(status, arguments, message):
    code, text = status(*arguments)
    assert code == 2 and message in text


def test_help_answers_without_importing_torch():
    probe = [sys.executable, "-X", "importtime", "-m", "bench.status", "--help"]
    done = subprocess.run(probe, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and not {"torch", "submitit", "pandas"} & imported
    assert "--resubmit" in done.stdout


def test_names_with_brackets_are_printed_as_they_are(capsys):
    seen = watch.RunState(Path("a[red]"), "failed", 1, 2, None, "", "c[/d]", "3", "e[/f]", 0, False)
    Console(width=120).print(watch.table([seen]))
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("a[red]", "c[/d]", "e[/f]"))
