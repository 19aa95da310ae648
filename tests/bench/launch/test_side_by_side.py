"""Runs side by side: the same numbers as one after the other, and one command for all of them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from bench.config import resolve
from bench.core.errors import UserError, exit_code
from bench.core.parallel import UNDIVIDED
from bench.launch import side_by_side
from bench.launch.runner import carry_out
from bench.launch.side_by_side import SideBySide, divide
from bench.launch.stopping import Stopped
from bench.run import main
from bench.runs.record import RunRecord, find_runs
from tests.helpers.comparison import numbers

CPU = torch.device("cpu")
TRAINING = {"steps": 6, "batch_size": 16, "checkpoint_every": 3, "evaluate_every": 3, "log_every": 1}
PROTOCOL = {"samples": 21, "feature_nets": ("pixels",), "sampler_flow": "euler[steps=2]"}
BROKEN = """
from methods.base import Loss, Method

class Broken(Method):
    def losses(self, context):
        if context.step == 8:  # later than the steps that the plan times
            raise ValueError("out of ideas")
        return {"nothing": Loss(context.x0.flatten(1).mean(1) * 0, 1.0)}
"""


def spec(method, backbone="sit-pico", **training):
    return resolve.run_spec(method, backbone, "digits", 0, training=TRAINING | training, protocol=PROTOCOL)


@pytest.fixture(scope="module", autouse=True)
def server():
    side_by_side.start_server([spec("baseline")])


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """Two runs, one after the other in this process, which has one thread."""
    root, specs = tmp_path_factory.mktemp("one-by-one"), [spec("baseline"), spec("vrpo")]
    for one in specs:
        carry_out(one, root, CPU, UNDIVIDED, "here")
    return {one.run_id: numbers(root / one.run_id) for one in specs}


def test_rows_are_those_of_one_after_the_other_to_the_last_bit(tmp_path, one_by_one):
    assert not SideBySide([spec("baseline"), spec("vrpo")], tmp_path, UNDIVIDED, "here").run(2)
    assert {folder.name: numbers(folder) for folder in find_runs(tmp_path)} == one_by_one


def test_a_signal_ends_all_of_them_saved_and_they_continue(tmp_path, one_by_one):
    specs = [spec("baseline"), spec("vrpo")]

    def terminate():
        while not all((tmp_path / one.run_id / "train.jsonl").is_file() for one in specs):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    with pytest.raises(Stopped):
        SideBySide(specs, tmp_path, UNDIVIDED, "here").run(2)
    for one in specs:
        record = RunRecord(tmp_path / one.run_id)
        assert record.status().state in ("interrupted", "finished")
        assert list(record.folder.glob("checkpoints/step-*")) and not (record.folder / "owner.json").exists()
    assert not SideBySide(specs, tmp_path, UNDIVIDED, "here").run(1)
    assert {one.run_id: numbers(tmp_path / one.run_id) for one in specs} == one_by_one


def test_runs_end_saved_when_their_parent_is_killed(tmp_path):
    command = (
        "import sys; from pathlib import Path; from bench.config.spec import RunSpec; "
        "from bench.core.parallel import UNDIVIDED; from bench.launch import side_by_side; "
        "spec = RunSpec.model_validate_json(sys.argv[1]); side_by_side.start_server([spec]); "
        "side_by_side.SideBySide([spec], Path(sys.argv[2]), UNDIVIDED, 'here').run(1)"
    )
    long = spec("baseline", steps=100_000, evaluate_every=100_000, checkpoint_every=100_000)
    parent = subprocess.Popen([sys.executable, "-c", command, long.model_dump_json(), str(tmp_path)])
    record = RunRecord(tmp_path / long.run_id)
    while not (record.folder / "train.jsonl").is_file() and parent.poll() is None:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 120
    while record.status().state == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert record.status().state == "interrupted" and list(record.folder.glob("checkpoints/step-*"))


def test_a_run_that_fails_is_named_and_the_others_finish(tmp_path, monkeypatch, capfd):
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (TRAINING | {"steps": 9}).items()]
    options += ["--samples=21", "--feature-nets=pixels", "--sampler-flow=euler[steps=2]"]
    arguments = ["--method", str(broken), "baseline", "--backbone", "sit-pico", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench.run", *arguments, "--parallel-runs", "2", *options])
    assert exit_code(main) == 2
    lines = capfd.readouterr().err.splitlines()
    (last,) = [line for line in lines if line.startswith("error: ")]
    assert last.startswith("error: 1 of 2 runs failed: broken-sit-pico-2-seed0")
    assert any("out of ideas" in line for line in lines)
    states = {
        folder.name.split("-")[0]: RunRecord(folder).status() for folder in find_runs(tmp_path / "runs")
    }
    assert states["baseline"].finished and states["broken"].state == "failed"


def test_which_runs_go_side_by_side_depends_on_the_plan(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    small, other, large = spec("baseline"), spec("vrpo"), spec("baseline", "sit-b")
    assert divide([small, large, other], CPU, "auto") == ((small, other), (large,), 4)
    assert divide([small, large], CPU, "auto") == ((), (small, large), 1)  # alone it may use all cores
    assert divide([small, large], CPU, 3) == ((small, large), (), 3)
    assert divide([small, other], CPU, 1) == ((), (small, other), 1)
    assert divide([small, other], torch.device("cuda"), "auto") == ((), (small, other), 1)
    with pytest.raises(UserError, match="--device cpu"):
        divide([small, other], torch.device("cuda"), 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert divide([small, other], CPU, "auto") == ((), (small, other), 1)
