"""Jobs on a real Slurm: whatever happens to them, they end with the numbers of an undisturbed run here."""

import itertools
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from bench.core.files import read_rows
from bench.runs.lock import owner_of, working_on
from bench.runs.record import find_runs
from tests.helpers import forked
from tests.helpers.comparison import numbers

ROOT = Path(__file__).parents[3]
STALLED = 400  # seconds; importing torch on a loaded machine takes a part of it
pytestmark = pytest.mark.timeout(1800)
SLOW = str(ROOT / "tests" / "helpers" / "slow.py")
SHORT = ["--batch-size", "16", "--log-every", "1", "--samples", "20", "--feature-nets", "pixels"]
SHORT += ["--sampler-flow", "euler[steps=2]", "--sampler-ddpm", "ddim[steps=2]"]
ONE = ["--backbone", "sit-pico", "--steps", "16", "--checkpoint-every", "4", "--evaluate-every", "8", *SHORT]


class Commands:
    """The suite's commands, as a user of the cluster types them."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, folder
        nowhere = {"ALIGNMENT_BENCH_CONFIG": str(folder / "launch.toml"), "OMP_NUM_THREADS": "1"}
        self.environment = os.environ | cluster.environment | nowhere

    def run(self, *arguments, module="bench.run", fails=False):
        process = forked.Command(arguments, module=module, environment=self.environment)
        try:
            self.wait_for(f"{process.args} to end", lambda: process.poll() is not None)
        except BaseException:
            process.kill()
            raise
        output = "".join(process.communicate())
        assert (process.returncode != 0) == fails, output
        return output

    def submit(self, name, arguments):
        """Start one run as a job, without waiting; returns its folder and the job's number."""
        self.run(*arguments, "--launcher", "slurm", "--detach", "--output", self.folder / name)
        (run,) = find_runs(self.folder / name / "runs")
        return run, json.loads((run / "job.json").read_text())["id"]

    def states(self):
        lines = self.cluster.ask("squeue", "--me", "--noheader", "--array", "--format=%i %T").split("\n")
        return dict(line.split() for line in lines if line.strip())

    def wait_for(self, what, condition):
        """What the condition returns once it is true. Fails when no job changes its state and no file of a
        run grows for STALLED seconds."""
        seen, since = None, time.monotonic()
        for attempt in itertools.count():
            if found := condition():
                return found
            if attempt % 20 == 0 and (now := self._progress()) != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() > since + STALLED:
                queue, nodes = self.cluster.ask("squeue"), self.cluster.ask("sinfo", "--long", "--Node")
                logs = {str(path): path.read_text()[-500:] for path in self.folder.rglob("log.txt")}
                pytest.fail(f"waited for {what}; nothing moved for {STALLED} s\n{queue}{nodes}{logs}")
            time.sleep(0.1)

    def _progress(self):
        sizes = {}
        for folder, _, names in os.walk(self.folder):  # unlike rglob, it outlives folders that are renamed
            for name in names:
                with suppress(FileNotFoundError):
                    if name.endswith((".jsonl", ".json", ".txt")):
                        sizes[folder, name] = os.stat(os.path.join(folder, name)).st_size
        return self.states(), sizes


@pytest.fixture(scope="module")
def commands(cluster, tmp_path_factory):
    return Commands(cluster, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def undisturbed(commands):
    """The numbers of one run that nobody disturbs, made here."""
    commands.run("--method", "baseline", *ONE, "--output", commands.folder / "inline")
    (run,) = find_runs(commands.folder / "inline" / "runs")
    return numbers(run)


def steps_done(run):
    return max((row["step"] for row in read_rows(run / "train.jsonl")), default=0)


def state(run):
    path = run / "status.json"
    return json.loads(path.read_text())["state"] if path.is_file() else ""


EVENTS = ("requeued", "preempted", "killed", "cancelled", "on a failing node")


@pytest.fixture(scope="module")
def disturbed(commands):
    """Event -> folder of runs that it befell in mid-training, all of them finished in the end."""
    cluster, arguments = commands.cluster, ("--method", SLOW, *ONE)
    *together, failing = EVENTS
    with ThreadPoolExecutor() as pool:
        submitted = pool.map(lambda event: commands.submit(event, arguments), together)
        runs = dict(zip(together, submitted, strict=True))
    for run, _ in runs.values():
        commands.wait_for("two steps", lambda run=run: steps_done(run) >= 2)
    jobs = {event: job for event, (_, job) in runs.items()}
    cluster.ask("scontrol", "requeue", jobs["requeued"])
    cluster.ask("scancel", "--signal=USR2", jobs["preempted"])
    cluster.ask("scancel", jobs["cancelled"])
    os.kill(owner_of(runs["killed"][0]).process, signal.SIGKILL)
    for event in ("killed", "cancelled"):
        run, job = runs[event]
        commands.wait_for(f"the {event} job to end", lambda job=job: job not in commands.states())
        said = commands.run(run.parent, "--resubmit", module="bench.status")
        assert "submitted: " in said, said
    for run, _ in runs.values():
        commands.wait_for(f"{run} to finish", lambda run=run: state(run) == "finished")
    runs[failing] = run, job = commands.submit(failing, arguments)
    commands.wait_for("two steps", lambda: steps_done(run) >= 2)
    cluster.ask("scontrol", "update", "NodeName=alone", "State=DOWN", "Reason=test")
    commands.wait_for("the job on the failing node to stop", lambda: not working_on(run))
    commands.wait_for("the job to be queued again", lambda: commands.states().get(job) == "PENDING")
    commands.wait_for("the node to be rid of the job", lambda: cluster.is_rid_of(job))
    cluster.ask("scontrol", "update", "NodeName=alone", "State=RESUME")
    commands.wait_for("the requeued job to finish", lambda: state(run) == "finished")
    return {event: run for event, (run, _) in runs.items()}


@pytest.mark.parametrize("event", EVENTS)
def test_a_disturbed_job_ends_with_the_numbers_of_an_undisturbed_run(disturbed, undisturbed, event):
    assert numbers(disturbed[event]) == undisturbed


@pytest.mark.parametrize("event", ["requeued", "preempted", "cancelled"])
def test_a_job_that_is_asked_to_end_saves_first(disturbed, event):
    log = (disturbed[event] / "log.txt").read_text()
    assert "interrupted" in log and "finished" in log


def run_in(folder):
    (run,) = find_runs(folder / "runs")
    return run


def end_early(commands, folder):
    """Move the time limit of a run's job close, once the run has made steps; its next turn has an hour again.

    A limit that is short from the start would make the test depend on the speed of the machine.
    """
    commands.wait_for("the limited run to appear", lambda: find_runs(folder / "runs"))
    run = run_in(folder)
    commands.wait_for("two steps", lambda: steps_done(run) >= 2)
    job = json.loads((run / "job.json").read_text())["id"]
    said = commands.cluster.ask("scontrol", "update", f"JobId={job}", "EndTime=now+1minute")
    assert not said, said
    log = run / "log.txt"
    commands.wait_for("the job to save", lambda: log.is_file() and "interrupted" in log.read_text())
    said = commands.cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    assert not said, said


@pytest.fixture(scope="module")
def submitted(commands, disturbed):
    """Name -> folder of a suite whose jobs were started together, when all have ended, and the run commands'
    words; `inline` holds the same run here."""
    folder, slurm = commands.folder, ("--launcher", "slurm")
    suite = ["--suite", "quickstart", "--seed", "0", "--steps", "12", "--checkpoint-every", "4", *SHORT]
    suite += ["--evaluate-every", "12"]
    shared = ["--method", "vrpo[estimator=likelihood]", *ONE]
    judged = [
        "--method",
        "baseline",
        *ONE,
        "--steps",
        "30",
        "--evaluate-every",
        "3",
        "--evaluate-as",
        "separate",
    ]
    limited = ["--method", f"{SLOW}[pause=4.0]", *ONE, "--hours", "1", *slurm]
    calls = {
        "limited": (*limited, "--output", folder / "limited"),
        "grid": (*suite, *slurm, "--output", folder / "grid"),
        "shared": (*shared, *slurm, "--tasks-per-node", "2", "--output", folder / "shared"),
        "judged": (*judged, *slurm, "--output", folder / "judged"),
        "diverged": (
            "--method",
            "baseline",
            *ONE,
            "--learning-rate",
            "1e6",
            *slurm,
            "--output",
            folder / "diverged",
        ),
    }
    with ThreadPoolExecutor(len(calls) + 1) as pool:
        words = {
            name: pool.submit(commands.run, *call, fails=name == "diverged") for name, call in calls.items()
        }
        early = pool.submit(end_early, commands, folder / "limited")
        vrpo = commands.wait_for(
            "the grid's VRPO run to appear",
            lambda: [run for run in find_runs(folder / "grid" / "quickstart") if "vrpo" in run.name],
        )[0]
        commands.wait_for("its first step", lambda: steps_done(vrpo) >= 1)
        commands.cluster.ask("scontrol", "requeue", json.loads((vrpo / "job.json").read_text())["id"])
        for name, call in {"grid": suite, "shared": shared, "judged": judged}.items():
            commands.run(*call, "--output", folder / "inline" / name)
        early.result()
        return {name: word.result() for name, word in words.items()}


def test_the_quickstart_suite_yields_the_same_as_jobs_and_here(commands, submitted):
    here = find_runs(commands.folder / "inline" / "grid" / "quickstart")
    there = find_runs(commands.folder / "grid" / "quickstart")
    assert [run.name for run in here] == [run.name for run in there] and len(here) == 4
    for run, job in zip(here, there, strict=True):
        assert numbers(job) == numbers(run)
    assert "done: 4 runs" in submitted["grid"]
    assert any("interrupted" in (job / "log.txt").read_text() for job in there)


def test_a_job_that_reaches_its_time_limit_continues_until_it_is_done(commands, submitted, undisturbed):
    run = run_in(commands.folder / "limited")
    assert numbers(run) == undisturbed
    assert "interrupted" in (run / "log.txt").read_text()


def test_two_processes_of_a_job_train_what_one_trains_here(commands, submitted):
    there, here = (numbers(run_in(commands.folder / name)) for name in ("shared", "inline/shared"))
    for step, row in here["train"].items():
        assert there["train"][step]["raw"] == pytest.approx(row["raw"], rel=1e-3)
    for step, row in here["eval"].items():
        assert there["eval"][step]["metrics"] == pytest.approx(row["metrics"], rel=1e-3)
    assert json.loads((run_in(commands.folder / "shared") / "env.json").read_text())["devices"] == 2


def test_ten_evaluation_jobs_at_once_lose_no_row(commands, submitted):
    there, here = (run_in(commands.folder / name) for name in ("judged", "inline/judged"))
    assert sorted(numbers(there)["eval"]) == list(range(3, 31, 3))
    assert numbers(there) == numbers(here)
    assert not list((there / "kept").iterdir())


def test_an_evaluation_of_its_own_starts_while_training_goes_on(commands):
    separate = ("--method", f"{SLOW}[pause=4.0]", *ONE, "--evaluate-as", "separate")
    run, job = commands.submit("judged early", separate)
    commands.wait_for("an evaluation", lambda: read_rows(run / "eval.jsonl"))
    assert list(numbers(run)["eval"]) == [8] and steps_done(run) < 16
    said = commands.run(run.parent, "--cancel", module="bench.status")
    assert f"cancelled: {job}" in said, said
    commands.wait_for(
        "the cancelled job to end", lambda: state(run) == "interrupted" and job not in commands.states()
    )


def test_a_run_that_diverges_fails_for_good(commands, submitted):
    run = run_in(commands.folder / "diverged")
    assert "failed: " in submitted["diverged"] and "the loss diverged" in submitted["diverged"]
    assert (run / "log.txt").read_text().count("failed") == 1
    assert json.loads((run / "job.json").read_text())["id"] not in commands.states()


def test_an_unknown_partition_is_named_beside_those_that_there_are(commands):
    words = commands.run(
        "--method", "repa", *ONE, "--launcher", "slurm", "--partition", "nope",
        "--output", commands.folder / "refused", fails=True,
    )  # fmt: skip
    assert "Slurm refuses the jobs" in words and "There are: others, tests." in words


def test_a_dry_run_prints_the_jobs_and_submits_none(commands):
    words = commands.run(
        "--suite", "quickstart", "--launcher", "slurm", "--dry-run", "--hours", "2", "--mem-gb", "8",
        "--evaluate-as", "separate", "--output", commands.folder / "dry",
    )  # fmt: skip
    assert "8 jobs, each: 1 node, 1 process, 8 GB, 2 h" in words and "and 32 evaluation jobs" in words
    assert not (commands.folder / "dry").exists()
