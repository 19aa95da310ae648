"""Runs as processes of this machine: the local launcher, torchrun, and evaluation apart from training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.runs.lock import RunLock
from bench.runs.record import find_runs
from tests.helpers import forked
from tests.helpers.comparison import numbers

ROOT = Path(__file__).parents[3]
SHORT = ["--backbone", "sit-pico", "--steps", "6", "--batch-size", "16", "--checkpoint-every", "3"]
SHORT += ["--evaluate-every", "3", "--log-every", "1", "--samples", "21", "--feature-nets", "pixels"]
SHORT += ["--sampler-flow", "euler[steps=2]"]
GRID = ["--method", "baseline", "vrpo", *SHORT]


def run(output, *arguments, before=None):
    """Status and words of the command: forked, or started anew by the words `before`."""
    nowhere = {"ALIGNMENT_BENCH_CONFIG": str(output / "launch.toml"), "OMP_NUM_THREADS": "1"}
    words, environment = [*map(str, arguments), "--output", str(output)], os.environ | nowhere
    if before is None:
        done = forked.run(words, environment=environment)
    else:
        line = [*before, "-m", "bench.run", *words]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """The runs of the grid, one after the other in one process."""
    output = tmp_path_factory.mktemp("inline")
    code, words = run(output, *GRID)
    assert code == 0, words
    return {folder.name: numbers(folder) for folder in find_runs(output / "runs")}


@pytest.mark.timeout(900)
def test_processes_of_this_machine_yield_the_same_with_evaluations_apart(tmp_path, inline):
    arguments = ("--method", "baseline", *SHORT, "--launcher", "local", "--evaluate-as", "separate")
    code, words = run(tmp_path, *arguments)
    assert code == 0 and "done: 1 runs" in words, words
    (folder,) = find_runs(tmp_path / "runs")
    assert numbers(folder) == inline[folder.name]
    assert not list((folder / "kept").iterdir())


@pytest.mark.timeout(900)
def test_torchrun_yields_what_one_process_yields(tmp_path, inline):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    code, words = run(tmp_path, "--method", "vrpo", *SHORT, "--shard", before=torchrun)
    assert code == 0 and words.count("done: 1 runs") == 1, words
    (folder,) = find_runs(tmp_path / "runs")
    found, expected = numbers(folder), inline[folder.name]
    for step, row in expected["train"].items():
        assert found["train"][step]["raw"] == pytest.approx(row["raw"], rel=1e-3)
        assert found["train"][step]["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-3)
    for step, row in expected["eval"].items():
        assert found["eval"][step]["metrics"] == pytest.approx(row["metrics"], rel=1e-3)
    assert json.loads((folder / "env.json").read_text())["devices"] == 2
    before = (folder / "status.json").read_bytes()
    assert run(tmp_path, "--method", "vrpo", *SHORT)[0] == 0  # one process finds it finished
    assert (folder / "status.json").read_bytes() == before


def test_a_second_command_on_the_same_run_hears_who_owns_it(tmp_path):
    arguments = ("--method", "baseline", *SHORT)
    code, words = run(tmp_path, *arguments)
    assert code == 0, words
    (folder,) = find_runs(tmp_path / "runs")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"state": "running"}))
    own = RunLock(folder)
    own.acquire()
    code, words = run(tmp_path, *arguments)
    own.release()
    assert code == 2 and f"is locked by process {os.getpid()}" in words
    assert json.loads((folder / "status.json").read_text())["state"] == "running"  # not marked as failed
