"""Resources requested for a job, and the errors for requests that cannot be met."""

import json
import shutil
from pathlib import Path

import pytest

from bench.config import resolve
from bench.config.spec import Training
from bench.core.errors import UserError
from bench.launch import slurm, watch
from bench.launch.job import Job
from bench.launch.resources import LaunchOptions, Resources
from bench.runs.folder import RunFolder


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Writes the user's file."""
    path = tmp_path / "launch.toml"
    monkeypatch.setenv("ALIGNMENT_BENCH_CONFIG", str(path))
    return path.write_text


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(configured):
    configured("[slurm]\npartition = 'gpu'\nhours = 8\nsetup = ['module load cuda']\n[evaluation]\nhours = 1")
    options = LaunchOptions(partition="big", cpus_per_task=4)
    found = Resources.of(options, "slurm", gpus=1)
    assert (found.partition, found.hours, found.gpus_per_node, found.tasks) == ("big", 8, 1, 1)
    assert Resources.of(options, "slurm", gpus=1, evaluation=True).minutes == 60
    assert Resources.of(LaunchOptions(gpus_per_node=0), "slurm", gpus=1).gpus_per_node == 0
    assert Resources.of(LaunchOptions(gpus_per_node=4, nodes=2), "slurm", gpus=1).tasks == 4
    parameters = found.parameters("name")
    assert parameters["timeout_min"] == 480 and parameters["cpus_per_task"] == 4
    assert parameters["slurm_partition"] == "big" and parameters["slurm_setup"] == ["module load cuda"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[slurm]\npartitoin = 'gpu'", "Did you mean 'partition'"),
        ("[slurm]\nhours = 'long'", "hours = 'long' in .slurm. should be a float"),
        ("[slrum]", "Did you mean 'slurm'"),
        ("launcher = 'slrum'", "unknown launcher 'slrum'"),
        ("launcher =", "cannot be read"),
    ],
)
def test_mistakes_in_the_file_are_named(configured, text, message):
    configured(text)
    with pytest.raises(UserError, match=message):
        _ = LaunchOptions().chosen
        Resources.of(LaunchOptions(), "slurm", gpus=0)


def test_auto_takes_slurm_where_the_file_says_so_and_there_is_one(configured, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    assert LaunchOptions().chosen == "inline"
    configured("launcher = 'slurm'")
    assert LaunchOptions().chosen == "inline"
    with pytest.raises(UserError, match="there is no sbatch on this machine"):
        _ = LaunchOptions(launcher="slurm").chosen
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    assert LaunchOptions().chosen == "slurm"


@pytest.fixture
def lost(tmp_path):
    """Makes a run whose job has ended without a word, but for what stands in its log of errors."""

    def make(log: str) -> str:
        run = RunFolder(tmp_path, resolve.run_spec("baseline", "sit-ti", "digits", 0))
        logs = tmp_path / "jobs"
        logs.mkdir()
        (logs / "7_0_log.err").write_text(log)
        job = {"id": "7", "launcher": "slurm", "host": "node", "logs": str(logs), "submitted": 0.0}
        (run.folder / "job.json").write_text(json.dumps(job))
        (seen,) = watch.poll([run.folder])
        assert seen.state == "lost" and seen.over and not seen.done
        return seen.message

    return make


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", "raise --mem-gb"),
        ("ModuleNotFoundError: No module named 'bench'", "the environment is not there on the node"),
        ("/opt/venv/bin/python: No such file or directory", "the environment is not there on the node"),
        ("srun: error: alone: task 0: Killed", "task 0: Killed"),
    ],
)
def test_a_job_that_vanished_is_explained_by_its_log(lost, monkeypatch, log, message):
    monkeypatch.setattr(slurm, "fate", lambda _number: "FAILED")
    assert message in lost(log)


def test_a_job_that_vanished_is_explained_by_the_scheduler(lost, monkeypatch):
    monkeypatch.setattr(slurm, "fate", lambda _number: "OUT_OF_MEMORY")
    assert "raise --mem-gb" in lost("")


def test_a_job_that_makes_no_step_is_given_up(tmp_path):
    run_spec = resolve.run_spec("baseline", "sit-ti", "digits", 0)
    run = RunFolder(tmp_path, run_spec)
    run.set_status("interrupted", 5)
    job = Job(run_spec.model_dump_json(), str(tmp_path), "cpu", 0, False, "here", "")
    assert job.checkpoint() is not None and job.turns_without_progress == 0
    job.first_step = 5
    assert [job.checkpoint() is None for _ in range(3)] == [False, False, True]
    status = run.record.status()
    assert status.state == "failed" and "raise --hours" in status.message


def test_a_changed_revision_is_warned_about(capsys, monkeypatch):
    monkeypatch.setattr("bench.core.machine.revision", lambda: "new")
    Job("", "", "cpu", 0, False, "here", revision="old")._compare_revisions()
    assert "old then, new now" in capsys.readouterr().err


def test_every_evaluated_step_gets_an_evaluation_job():
    training = {"steps": 25, "evaluate_every": 10}
    assert Training.model_validate(training).evaluation_steps == [10, 20, 25]
    training = {"steps": 20, "evaluate_every": 10}
    assert Training.model_validate(training).evaluation_steps == [10, 20]


def test_logs_of_a_run_without_a_job_are_its_own(tmp_path: Path):
    run = RunFolder(tmp_path, resolve.run_spec("baseline", "sit-ti", "digits", 0))
    run.set_status("failed", 3, "the loss diverged")
    assert watch.logs(run.folder) == [run.folder / "log.txt"]
    assert "the loss diverged" in watch.last_lines(run.folder / "log.txt", 1)[0]
