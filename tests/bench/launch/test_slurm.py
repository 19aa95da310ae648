"""Jobs on a real Slurm: whatever happens to them, they end with the numbers of an undisturbed run here."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bench.owner import owner_of, working_on
from bench.store import find_runs, read_rows

ROOT = Path(__file__).parents[3]
SLOW = str(Path(__file__).with_name("slow.py"))
SHORT = ["--batch-size", "16", "--log-every", "1", "--samples", "20", "--feature-nets", "pixels"]
SHORT += ["--sampler-sit", "euler[steps=2]", "--sampler-dit", "ddim[steps=2]"]
ONE = ["--backbone", "sit-ti", "--steps", "16", "--checkpoint-every", "4", "--evaluate-every", "8", *SHORT]
TIMING = {"seconds", "step_seconds", "images_per_second", "evaluation_seconds"}


class Commands:
    """The suite's commands, as a user of the cluster types them."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, folder
        nowhere = {"ALIGNMENT_BENCH_CONFIG": str(folder / "launch.toml"), "OMP_NUM_THREADS": "1"}
        self.environment = os.environ | cluster.environment | nowhere

    def run(self, *arguments, module="bench.run", fails=False):
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, name, arguments):
        """Start one run as a job, without waiting; returns its folder and the job's number."""
        self.run(*arguments, "--launcher", "slurm", "--detach", "--output", self.folder / name)
        (run,) = find_runs(self.folder / name / "runs")
        return run, json.loads((run / "job.json").read_text())["id"]

    def states(self):
        lines = self.cluster.ask("squeue", "--me", "--noheader", "--array", "--format=%i %T").split("\n")
        return dict(line.split() for line in lines if line.strip())


@pytest.fixture(scope="module")
def commands(cluster, tmp_path_factory):
    return Commands(cluster, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def undisturbed(commands):
    """The numbers of one run that nobody disturbs, made here."""
    commands.run("--method", "baseline", *ONE, "--output", commands.folder / "inline")
    (run,) = find_runs(commands.folder / "inline" / "runs")
    return numbers(run)


def numbers(folder):
    """All rows but for the clock's, the last of each step."""
    return {
        name: {
            row["step"]: {key: value for key, value in row.items() if key not in TIMING}
            for row in read_rows(folder / f"{name}.jsonl")
        }
        for name in ("train", "eval")
    }


def wait_for(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def steps_done(run):
    return max((row["step"] for row in read_rows(run / "train.jsonl")), default=0)


def state(run):
    path = run / "status.json"
    return json.loads(path.read_text())["state"] if path.is_file() else ""


EVENTS = ("requeued", "preempted", "killed", "cancelled", "on a failing node")


@pytest.fixture(scope="module")
def disturbed(commands):
    """Event -> folder of runs that it befell in mid-training, all of them finished in the end."""
    cluster = commands.cluster
    with ThreadPoolExecutor() as pool:
        submit = partial(commands.submit, arguments=("--method", SLOW, *ONE))
        runs = dict(zip(EVENTS, pool.map(submit, EVENTS), strict=True))
    for run, _ in runs.values():
        wait_for(lambda run=run: steps_done(run) >= 2)
    jobs = {event: job for event, (_, job) in runs.items()}
    cluster.ask("scontrol", "requeue", jobs["requeued"])
    cluster.ask("scancel", "--signal=USR2", jobs["preempted"])
    cluster.ask("scancel", jobs["cancelled"])
    os.kill(owner_of(runs["killed"][0]).process, signal.SIGKILL)
    failing = runs["on a failing node"][0]
    for event, (run, _) in runs.items():
        wait_for(lambda event=event, run=run: "failing" in event or not working_on(run))
    time.sleep(2)  # Slurm clears up behind them
    cluster.ask("scontrol", "update", "NodeName=alone", "State=DOWN", "Reason=test")
    wait_for(lambda: not working_on(failing))
    time.sleep(4)
    cluster.ask("scontrol", "update", "NodeName=alone", "State=RESUME")
    for event in ("killed", "cancelled"):
        run, job = runs[event]
        wait_for(lambda job=job: job not in commands.states())
        said = commands.run(run.parent, "--resubmit", module="bench.status")
        assert "submitted: " in said and "1 waiting" in said, said
    for run, _ in runs.values():
        wait_for(lambda run=run: state(run) == "finished")
    return {event: run for event, (run, _) in runs.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("event", EVENTS)
def test_a_disturbed_job_ends_with_the_numbers_of_an_undisturbed_run(disturbed, undisturbed, event):
    assert numbers(disturbed[event]) == undisturbed


@pytest.mark.parametrize("event", ["requeued", "preempted", "cancelled"])
def test_a_job_that_is_asked_to_end_saves_first(disturbed, event):
    log = (disturbed[event] / "log.txt").read_text()
    assert "interrupted" in log and "finished" in log
